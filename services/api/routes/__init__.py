"""HTTP routes of `api`: identity, jobs, runs, traces, documentation, and the gateway to the other services."""

from services.api.routes import docs, gateway, identity, owing, redrive, runs, traces

ROUTERS = [identity.router, owing.router, redrive.router, runs.router, traces.router, docs.router, gateway.router]
