"""The toy service's HTTP application, and a real server for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from shared.auth import digest
from shared.http import Accepted, Caller, Transaction, create_app
from shared.http.app import APIRouter
from shared.http.dependencies import begin_run
from shared.ledger.enqueue import enqueue
from shared.settings import Settings, StaticKey
from shared.testing.waiting import until
from tests.integration.toy.jobs import Do
from tests.integration.toy.tasks import tasks

ACCOUNTS = {
    scope: StaticKey(sha256=digest(f"{scope}-key"), scopes=frozenset({scope})) for scope in ("events", "metrics")
}


class ThingBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = 1


def settings(url: str, folder: Path, **options: Any) -> Settings:
    chosen = {"database_url": url, "broker_url": "redis://127.0.0.1:1/0", "objects_url": f"file://{folder}"}
    return Settings(**(chosen | {"static_keys": ACCOUNTS} | options))  # type: ignore[arg-type]


def router() -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/things", status_code=202)
    def create_thing(body: ThingBody, caller: Caller.Write, session: Transaction) -> Accepted:
        origin = begin_run(session, caller)
        return Accepted.of(enqueue(session, Do(name=body.name)), origin.run)

    @routes.get("/v1/things/{name}")
    def show_thing(name: str, caller: Caller.Read) -> dict[str, str]:
        return {"name": name}

    @routes.delete("/v1/things/{name}", status_code=204)
    def delete_thing(name: str, caller: Caller.Admin) -> None:
        return None

    return routes


def application(url: str, folder: Path, *routers: APIRouter, **options: Any) -> FastAPI:
    return create_app("toy", settings(url, folder, **options), [router(), *routers], tasks=tasks)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application behind a real socket; answers its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
