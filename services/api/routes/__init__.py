"""HTTP routes of `api`: identity, jobs, schedules, runs, traces, documentation, and the gateway to the others."""

from services.api.routes import (
    batches,
    counts,
    docs,
    fleet,
    gateway,
    identity,
    limits,
    owing,
    redrive,
    runs,
    schedules,
    traces,
    watching,
)

ROUTERS = [
    identity.router,
    owing.router,
    redrive.router,
    counts.router,
    batches.router,
    runs.router,
    watching.router,
    limits.router,
    schedules.router,
    fleet.router,
    traces.router,
    docs.router,
    gateway.router,
]
