"""create_app(): a service's FastAPI application with everything that all of them have."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import httpx2 as httpx
from fastapi import APIRouter, FastAPI

from shared import telemetry
from shared.auth import Verifier
from shared.db import Database
from shared.http import (
    batches,
    counts,
    fleet,
    limit_rules,
    metrics,
    owing,
    problems,
    redrive,
    routes,
    schedules,
    tracing,
    watching,
    why,
)
from shared.http.limits import BodyLimit
from shared.http.streams import Streams
from shared.http.watching import Watcher
from shared.ledger.joint import Joint
from shared.ledger.tasks import Tasks
from shared.objects import ObjectStore
from shared.settings import Settings
from shared.version import VERSION

OWN = (
    owing.router,
    routes.jobs,
    fleet.router,
    watching.router,
    why.router,
    redrive.router,
    counts.router,
    batches.router,
    schedules.router,
    limit_rules.router,
)
"""What the gateway has over all services, and every other service for itself. Routes are tried in order: what is asked
for most comes first."""


def create_app(
    service: str,
    settings: Settings,
    routers: Sequence[APIRouter],
    *,
    tasks: Tasks,
    jobs: bool = True,
    streams: Callable[[str], bool] = lambda path: False,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The application: `app.state` has service, settings, tasks, database, joint, objects, streams, watcher and
    verifier.

    Tokens are verified with the public keys that `api` serves. `jobs=False` leaves out the routes of the
    service's own jobs, schedules, queues and workers: the gateway has its own. Bodies of paths that `streams` names
    are not bounded here.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        telemetry.configure_logs(service, settings.log_level, settings.log_format)
        with app.state.streams.closing_on_signal():
            async with lifespan(app) if lifespan is not None else nullcontext():
                yield
        app.state.database.dispose()
        telemetry.stop()

    telemetry.start(service)
    app = FastAPI(
        title=f"Millrace {service}", version=VERSION, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.service = service
    app.state.settings = settings
    app.state.tasks = tasks
    app.state.database = Database(settings.dsn, application=f"millrace-{service}-http", pool_size=8)
    app.state.joint = Joint(app.state.database)
    app.state.streams = Streams()
    app.state.watcher = Watcher(app.state.database, service)
    app.state.objects = ObjectStore(settings.objects_url)
    app.state.verifier = Verifier(settings.static_keys, _fetch_from(settings))
    problems.install(app)
    metrics.install(app, service)
    app.add_middleware(BodyLimit, streams=streams)
    own = OWN if jobs else ()
    for router in (*own, routes.router, routes.feed, *routers):
        app.include_router(router)
    tracing.install(app)
    return app


def _fetch_from(settings: Settings) -> Callable[[], dict[str, Any]]:
    def fetch() -> dict[str, Any]:
        answer = httpx.get(f"{settings.service_urls['api']}/.well-known/jwks.json", timeout=5.0)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    return fetch
