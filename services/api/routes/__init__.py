"""HTTP routes of `api`: identity, runs, traces, documentation, and the gateway to the other services."""

from services.api.routes import docs, gateway, identity, runs, traces

ROUTERS = [identity.router, runs.router, traces.router, docs.router, gateway.router]
