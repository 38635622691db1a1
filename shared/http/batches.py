"""The routes of batches: jobs in steps, owed, shown and called off together."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from shared.auth import Principal
from shared.db import Row, raw
from shared.http.bodies import RunLink
from shared.http.dependencies import Caller, IdempotencyKey, PageLimit
from shared.http.owing import fingerprint
from shared.ledger import batches, steps
from shared.ledger.batch_requests import NewBatch, owe_batch
from shared.ledger.batches import BatchState, OnFailure

router = APIRouter(tags=["batches"])


class BatchLink(BaseModel):
    id: UUID
    url: str

    @classmethod
    def of(cls, batch: UUID) -> "BatchLink":
        return cls(id=batch, url=f"/v1/batches/{batch}")


class BatchOwed(BaseModel):
    """202: all jobs of the batch are owed; by step, in the order in which they were asked for."""

    batch: BatchLink
    run: RunLink
    jobs: list[list[UUID]]


class BatchBody(BaseModel):
    """A batch as the ledger has it; `reason` says why it is being called off, or did not succeed."""

    service: str
    id: UUID
    name: str | None
    state: BatchState
    """`running`: a step is open. `ending`: what is left of it is being called off. `succeeded`: all jobs did."""
    on_failure: OnFailure
    step: int
    """The open step, from 1; of a batch that has ended the last one that was opened."""
    steps: int
    jobs: int
    """In all steps together."""
    reason: dict[str, Any] | None
    run: UUID
    cause: str
    cause_id: UUID
    created_at: datetime
    finished_at: datetime | None
    url: str

    @classmethod
    def of(cls, service: str, row: Row) -> "BatchBody":
        return cls(service=service, url=f"/v1/batches/{row['id']}", **row)


class StepCounts(BaseModel):
    """The jobs of one step by state."""

    step: int
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class BatchDetail(BatchBody):
    counts: list[StepCounts]
    """By step, the first one first."""


class BatchPage(BaseModel):
    items: list[BatchBody]
    next: UUID | None
    """Give it as `after` for the next page; null on the last."""
    unreachable: list[str] = []
    """Services that could not be asked, when the page is the gateway's; their batches are missing here."""


@router.post("/v1/batches", status_code=202)
def create_batch(
    caller: Caller.Write, request: Request, response: Response, body: NewBatch, idempotency_key: IdempotencyKey = None
) -> BatchOwed:
    """Owe up to 10,000 jobs of public kinds in up to 100 steps: all of them or, when one is wrong, none. With an
    Idempotency-Key a repeated request gets the first one's answer."""
    answer = accept(request, caller, body, idempotency_key)
    response.headers["Location"] = answer.batch.url
    return answer


@router.get("/v1/batches")
def list_batches(
    caller: Caller.Read,
    request: Request,
    state: BatchState | None = None,
    run: UUID | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> BatchPage:
    """This service's batches of the caller's workspace, newest first."""
    return page(request, caller, state=state, run=run, after=after, limit=limit)


@router.get("/v1/batches/{id}")
def show_batch(caller: Caller.Read, request: Request, id: UUID) -> BatchDetail:
    """One batch, with the jobs of each step by state. The jobs themselves: `GET /v1/jobs?batch=`."""
    return show(request, caller, id)


@router.post("/v1/batches/{id}/cancel")
def cancel_batch(caller: Caller.Write, request: Request, id: UUID) -> BatchDetail:
    """Call off all jobs of it that have not ended; no later step opens. 409 when it has ended. A batch that is still
    `ending` in the answer has a job that was just being committed, or so many that the rest follows."""
    return cancel(request, caller, id)


# What the routes do; the gateway does it for its own service


def accept(request: Request, caller: Principal, body: NewBatch, key: str | None) -> BatchOwed:
    assert caller.workspace is not None
    state = request.app.state
    said = fingerprint(request, body, key)
    owed = owe_batch(state.database, state.tasks, caller.workspace, body, key=key, fingerprint=said)
    return BatchOwed(batch=BatchLink.of(owed.batch.id), run=RunLink.of(owed.run), jobs=owed.batch.jobs)


def page(request: Request, caller: Principal, **filters: Any) -> BatchPage:
    assert caller.workspace is not None
    service = request.app.state.service
    with request.app.state.database.transaction() as session:
        found = batches.list_batches(raw(session), caller.workspace, **filters)
    return BatchPage(items=[BatchBody.of(service, row) for row in found["items"]], next=found["next"])


def show(request: Request, caller: Principal, id: UUID) -> BatchDetail:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        row = batches.show_batch(raw(session), caller.workspace, id)
    counts = [StepCounts(step=number, **step) for number, step in enumerate(row.pop("counts"), start=1)]
    return BatchDetail(counts=counts, **BatchBody.of(request.app.state.service, row).model_dump())


def cancel(request: Request, caller: Principal, id: UUID) -> BatchDetail:
    assert caller.workspace is not None
    state = request.app.state
    steps.cancel_batch(state.database, state.tasks, caller.workspace, id, caller.name)
    return show(request, caller, id)
