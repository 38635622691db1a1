"""The routes by which people move jobs: retry, cancel and prioritise, one or all that a filter matches."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from fastapi import APIRouter, Request

from shared.auth import Principal
from shared.db import raw
from shared.http.bodies import (
    CancelManyBody,
    JobDetail,
    MovedBody,
    PrioritiseBody,
    PrioritiseManyBody,
    RetryBody,
    RetryManyBody,
)
from shared.http.dependencies import Caller
from shared.ledger import queries, redrive
from shared.ledger.messages import Lane
from shared.ledger.redrive import Move

router = APIRouter(tags=["jobs"])


@router.post("/v1/jobs/{id}/cancel")
def cancel_job(caller: Caller.Write, request: Request, id: UUID) -> JobDetail:
    """Call a job off. One that waits never starts; of one that runs nothing commits any more. 409 when it has ended."""
    return cancel_one(request, caller, id)


@router.post("/v1/jobs/{id}/retry")
def retry_job(caller: Caller.Write, request: Request, id: UUID, body: RetryBody | None = None) -> JobDetail:
    """Drive a failed or cancelled job again, with fresh tries, in its old run. 409 when it is in another state."""
    return retry_one(request, caller, id, body)


@router.post("/v1/jobs/{id}/prioritise")
def prioritise_job(caller: Caller.Write, request: Request, id: UUID, body: PrioritiseBody) -> JobDetail:
    """Put a waiting job into another lane. 409 when it does not wait."""
    return prioritise_one(request, caller, id, body)


@router.post("/v1/jobs:cancel")
def cancel_jobs(caller: Caller.Write, request: Request, body: CancelManyBody) -> MovedBody:
    """Call off all waiting and running jobs that the filter matches, oldest first, or count them."""
    return cancel_many(request, caller, body)


@router.post("/v1/jobs:retry")
def retry_jobs(caller: Caller.Write, request: Request, body: RetryManyBody) -> MovedBody:
    """Drive all failed and cancelled jobs that the filter matches again, spread over time, or count them."""
    return retry_many(request, caller, body)


@router.post("/v1/jobs:prioritise")
def prioritise_jobs(caller: Caller.Write, request: Request, body: PrioritiseManyBody) -> MovedBody:
    """Put all waiting jobs that the filter matches into another lane, oldest first, or count them."""
    return prioritise_many(request, caller, body)


def cancel_one(request: Request, caller: Principal, id: UUID) -> JobDetail:
    assert caller.workspace is not None
    state = request.app.state
    redrive.cancel_one(state.database, state.tasks, caller.workspace, id, caller.name)
    return _shown(request, caller.workspace, id)


def retry_one(request: Request, caller: Principal, id: UUID, body: RetryBody | None) -> JobDetail:
    assert caller.workspace is not None
    state = request.app.state
    args = body.args if body is not None else None
    redrive.redrive_one(state.database, state.tasks, caller.workspace, id, caller.name, args)
    return _shown(request, caller.workspace, id)


def prioritise_one(request: Request, caller: Principal, id: UUID, body: PrioritiseBody) -> JobDetail:
    assert caller.workspace is not None
    redrive.prioritise_one(request.app.state.database, caller.workspace, id, caller.name, Lane.named(body.lane))
    return _shown(request, caller.workspace, id)


def _shown(request: Request, workspace: UUID, id: UUID) -> JobDetail:
    with request.app.state.database.transaction() as session:
        return JobDetail.model_validate(queries.show_job(raw(session), request.app.state.service, workspace, id))


def cancel_many(request: Request, caller: Principal, body: CancelManyBody, spared: tuple[str, ...] = ()) -> MovedBody:
    assert caller.workspace is not None
    move = redrive.cancelling(request.app.state.tasks, caller.workspace, caller.name)
    return _many(request, caller.workspace, body, replace(move, spared=spared))


def prioritise_many(
    request: Request, caller: Principal, body: PrioritiseManyBody, spared: tuple[str, ...] = ()
) -> MovedBody:
    assert caller.workspace is not None
    move = redrive.prioritising(caller.workspace, caller.name, Lane.named(body.lane))
    return _many(request, caller.workspace, body, replace(move, spared=spared))


def retry_many(request: Request, caller: Principal, body: RetryManyBody, spared: tuple[str, ...] = ()) -> MovedBody:
    assert caller.workspace is not None
    database = request.app.state.database
    with database.transaction() as session:
        first = redrive.first_due(raw(session), body.not_before)
    move = redrive.redriving(
        request.app.state.tasks, caller.workspace, caller.name, first=first, per_second=body.per_second
    )
    answer = _many(request, caller.workspace, body, replace(move, spared=spared))
    if not body.dry_run:
        answer.until = first + timedelta(seconds=answer.jobs / body.per_second)
    return answer


def _many(request: Request, workspace: UUID, body: CancelManyBody, move: Move) -> MovedBody:
    database = request.app.state.database
    if body.dry_run:
        with database.transaction() as session:
            found = redrive.count(raw(session), workspace, body.filter, move)
        return MovedBody(dry_run=True, jobs=sum(found.values()), by_kind=found, more=False)
    moved = redrive.move_all(database, workspace, body.filter, move, body.limit)
    return MovedBody(dry_run=False, jobs=moved.jobs, more=moved.more, runs=sorted(moved.runs))
