"""Queues and workers of all services, for those who run the installation."""

from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.api.adapters.peers import not_answered
from shared.auth import Principal, issue
from shared.errors import NotFound
from shared.http import fleet, requires
from shared.http.fleet import Ended, QueueBody, QueueList, WorkerBody, WorkerList

router = APIRouter(tags=["operations"])
Operator = Annotated[Principal, Depends(requires("operator"))]


@router.get("/v1/queues")
async def list_queues(caller: Operator, request: Request) -> QueueList:
    """The queues of all services. Needs the operator's key: they are all workspaces'."""
    found, failed = await _ask(request, caller, "/v1/queues")
    own = await to_thread.run_sync(fleet.queues, request)
    items = sorted([*own, *map(QueueBody.model_validate, found)], key=lambda queue: queue.name)
    return QueueList(items=items, unreachable=failed)


@router.get("/v1/workers")
async def list_workers(caller: Operator, request: Request, ended: Ended = False) -> WorkerList:
    """The workers of all services: those alive, and those that vanished within the hour. Needs the operator's key."""
    found, failed = await _ask(request, caller, "/v1/workers", ended=ended)
    own = await to_thread.run_sync(lambda: fleet.workers(request, ended=ended))
    items = sorted([*own, *map(WorkerBody.model_validate, found)], key=lambda worker: worker.service)
    return WorkerList(items=items, unreachable=failed)


@router.post("/v1/workers/{id}/drain", response_model=WorkerBody)
async def drain_worker(caller: Operator, request: Request, id: UUID) -> Response:
    """Take a worker out: it gets no further jobs, ends those it runs, and stops. What supervises it may start another.
    409 when it is gone already. Needs the operator's key."""
    answers, silent = await request.app.state.peers.tell_all(f"/v1/workers/{id}/drain", _token(request, caller), None)
    for status, said in answers.values():
        if status != 404:
            return JSONResponse(said, status, media_type=None if status == 200 else "application/problem+json")
    try:
        found = await to_thread.run_sync(fleet.drain, request, caller, id)
    except NotFound:
        if silent:
            raise not_answered(silent[0], takes_key=False) from None
        raise
    return JSONResponse(found.model_dump(mode="json"))


async def _ask(request: Request, caller: Principal, path: str, **params: Any) -> tuple[list[Any], list[str]]:
    found, failed = await request.app.state.peers.ask_all(path, _token(request, caller), params)
    return [item for answer in found.values() if answer for item in answer["items"]], sorted(failed)


def _token(request: Request, caller: Principal) -> str:
    return issue(request.app.state.settings.signing_key, caller)
