"""The HTTP application of the probe, and what a caller can ask of it that goes wrong."""

import json
import os
import signal
from typing import Any

from fastapi import APIRouter, FastAPI

from infra.probe.jobs import Write
from infra.probe.settings import ProbeSettings
from infra.probe.tasks import tasks
from shared.errors import Conflict
from shared.http import Caller, Transaction, create_app
from shared.http.dependencies import begin_run
from shared.ledger.enqueue import enqueue

DIE = b"probe-die"
"""A request with this header is answered by nobody: the process is gone between its commit and the answer."""


def router(settings: ProbeSettings) -> APIRouter:
    routes = APIRouter()

    @routes.get("/.well-known/jwks.json")
    def keys() -> dict[str, Any]:
        return {"keys": [json.loads(settings.public_key)]}

    @routes.post("/v1/refused")
    def refuse(body: Write, caller: Caller.Write, session: Transaction) -> None:
        """Owe a job, then roll back."""
        begin_run(session, caller)
        enqueue(session, body)
        raise Conflict("Rolled back.")

    return routes


class DieAfterCommit:
    """Ends the process when an answer is about to be sent to a request that asks for it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        dies = scope["type"] == "http" and any(name == DIE for name, _ in scope["headers"])
        await self.app(scope, receive, _die if dies else send)


async def _die(message: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def create() -> FastAPI:
    settings = ProbeSettings()
    app = create_app("probe", settings, [router(settings)], tasks=tasks)
    app.add_middleware(DieAfterCommit)
    return app
