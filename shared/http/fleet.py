"""The routes of a service's queues and workers, for those who run the installation."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from shared.auth import Principal
from shared.db import raw
from shared.http.dependencies import requires
from shared.ledger import fleet
from shared.ledger.fleet import RATE_SECONDS

Operator = Annotated[Principal, Depends(requires("operator"))]
Ended = Annotated[bool, Query(description="Also those that stopped in good order within a day.")]


class LaneBody(BaseModel):
    due: int
    later: int
    running: int


class QueueBody(BaseModel):
    """What a queue holds, over all workspaces, and how fast it moves."""

    service: str
    name: str
    due: int
    """Jobs that wait for a worker."""
    later: int
    """Jobs that wait for their time: scheduled, or for another try."""
    running: int
    oldest_due_seconds: float | None
    """For so long the oldest of `due` has waited; null when none does."""
    in_per_second: float
    """Jobs that came, over `rate_seconds`."""
    out_per_second: float
    """Tries that ended, whichever way."""
    rate_seconds: int = RATE_SECONDS
    lanes: dict[str, LaneBody]
    workers: int
    """Those alive that take from it and are not being drained."""
    slots: int
    """Messages that they work on at a time."""


class QueueList(BaseModel):
    items: list[QueueBody]
    unreachable: list[str] = []
    """Services that could not be asked, when the list is the gateway's."""


class WorkerBody(BaseModel):
    """One incarnation of a worker: a process that is started again is another."""

    service: str
    id: UUID
    name: str
    version: str
    state: Literal["alive", "draining", "lost", "ended"]
    """draining: it gets no further jobs. lost: it vanished. ended: it stopped in good order."""
    started_at: datetime
    renewed_at: datetime | None
    """Its last heartbeat."""
    lease_until: datetime
    """What it runs is its own until then, unless it renews."""
    ended_at: datetime | None
    draining_at: datetime | None
    drained_by: str | None
    queues: list[str]
    pool: str | None
    slots: int | None
    """Messages that it works on at a time."""
    running: int
    """Jobs; a message carries several when they are short."""
    utilisation: float | None
    """Share of the slots that were at work between its last two heartbeats."""


class WorkerList(BaseModel):
    items: list[WorkerBody]
    unreachable: list[str] = []
    """Services that could not be asked, when the list is the gateway's."""


router = APIRouter(tags=["operations"])


@router.get("/v1/queues")
def list_queues(_: Operator, request: Request) -> QueueList:
    """This service's queues. Needs the operator's key: they are all workspaces'."""
    return QueueList(items=queues(request))


@router.get("/v1/workers")
def list_workers(_: Operator, request: Request, ended: Ended = False) -> WorkerList:
    """This service's workers: those alive, and those that vanished within the hour. Needs the operator's key."""
    return WorkerList(items=workers(request, ended=ended))


@router.post("/v1/workers/{id}/drain")
def drain_worker(caller: Operator, request: Request, id: UUID) -> WorkerBody:
    """Take a worker out: it gets no further jobs, ends those it runs, and stops. What supervises it may start another.
    409 when it is gone already. Needs the operator's key."""
    return drain(request, caller, id)


def queues(request: Request) -> Sequence[QueueBody]:
    state = request.app.state
    known = {task.args.queue for task in state.tasks.by_kind.values()}
    with state.database.transaction() as session:
        return [QueueBody(service=state.service, **row) for row in fleet.list_queues(raw(session), known)]


def workers(request: Request, *, ended: bool) -> Sequence[WorkerBody]:
    state = request.app.state
    with state.database.transaction() as session:
        return [WorkerBody(service=state.service, **row) for row in fleet.list_workers(raw(session), ended=ended)]


def drain(request: Request, caller: Principal, id: UUID) -> WorkerBody:
    state = request.app.state
    with state.database.transaction() as session:
        return WorkerBody(service=state.service, **fleet.drain(raw(session), id, caller.name))
