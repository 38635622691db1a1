"""The HTTP API before stock Celery: it publishes from the request, as is usual."""

from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError

from infra.chaos.stock.app import QUEUE, app
from infra.probe.main import DieAfterCommit


def create() -> FastAPI:
    web = FastAPI()
    web.add_middleware(DieAfterCommit)

    @web.get("/healthz")
    def healthz() -> str:
        return "ok"

    @web.exception_handler(OperationalError)
    def away(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"title": "Temporarily unavailable"}, 503, {"Retry-After": "2"})

    @web.post("/v1/jobs", status_code=202)
    def create_job(body: dict[str, Any]) -> dict[str, Any]:
        return {"job": {"id": _publish(body["kind"], body["args"])}}

    @web.post("/v1/refused", status_code=409)
    def refuse(body: dict[str, Any]) -> None:
        """The request's own transaction would be rolled back here; the message is on its way."""
        _publish("probe.thing.write", body)

    return web


def _publish(kind: str, arguments: dict[str, Any]) -> str:
    job = str(uuid4())
    app.send_task(kind, kwargs=arguments, task_id=job, queue=QUEUE)
    return job
