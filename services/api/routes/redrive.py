"""Retry, cancel and prioritise over all services: the gateway asks each of them, and tells the runs anew."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.api import operations
from services.api.adapters.peers import not_answered
from services.api.jobs import LOOKS
from shared.auth import Principal, issue
from shared.errors import NotFound
from shared.http import redrive, requires
from shared.http.bodies import (
    CancelManyBody,
    JobDetail,
    MovedBody,
    PrioritiseBody,
    PrioritiseManyBody,
    RetryBody,
    RetryManyBody,
)

router = APIRouter(tags=["jobs"])
Writer = Annotated[Principal, Depends(requires("write"))]
TOLD_RUNS = 1000
"""So many runs are told anew at once; others are when somebody asks for them."""


@router.post("/v1/jobs/{id}/cancel", response_model=JobDetail)
async def cancel_job(caller: Writer, request: Request, id: UUID) -> Response:
    """Call a job off. One that waits never starts; of one that runs nothing commits any more. 409 when it has ended."""
    return await _one(request, caller, f"/v1/jobs/{id}/cancel", None, lambda: redrive.cancel_one(request, caller, id))


@router.post("/v1/jobs/{id}/retry", response_model=JobDetail)
async def retry_job(caller: Writer, request: Request, id: UUID, body: RetryBody | None = None) -> Response:
    """Drive a failed or cancelled job again, with fresh tries, in its old run. 409 when it is in another state."""
    said = None if body is None else body.model_dump(mode="json")
    path = f"/v1/jobs/{id}/retry"
    return await _one(request, caller, path, said, lambda: redrive.retry_one(request, caller, id, body))


@router.post("/v1/jobs/{id}/prioritise", response_model=JobDetail)
async def prioritise_job(caller: Writer, request: Request, id: UUID, body: PrioritiseBody) -> Response:
    """Put a waiting job into another lane. 409 when it does not wait."""
    path, said = f"/v1/jobs/{id}/prioritise", body.model_dump(mode="json")
    return await _one(request, caller, path, said, lambda: redrive.prioritise_one(request, caller, id, body))


async def _one(request: Request, caller: Principal, path: str, body: Any, own: Callable[[], JobDetail]) -> Response:
    """The answer of the service that has the job: the others have none such."""
    answers, silent = await request.app.state.peers.tell_all(path, _token(request, caller), body)
    for status, said in answers.values():
        if status != 404:
            if status == 200:
                await tell_runs(request, caller, [UUID(said["run"])])
            problem = None if status == 200 else "application/problem+json"
            return JSONResponse(said, status, media_type=problem)
    try:
        found = await to_thread.run_sync(own)
    except NotFound:
        if silent:
            raise not_answered(silent[0], takes_key=False) from None
        raise
    await tell_runs(request, caller, [found.run])
    return JSONResponse(found.model_dump(mode="json"))


@router.post("/v1/jobs:cancel", response_model=MovedBody)
async def cancel_jobs(caller: Writer, request: Request, body: CancelManyBody) -> MovedBody | Response:
    """Call off all waiting and running jobs that the filter matches, oldest first, or count them."""
    return await _many(
        request, caller, "/v1/jobs:cancel", body, lambda: redrive.cancel_many(request, caller, body, _spared(body))
    )


@router.post("/v1/jobs:retry", response_model=MovedBody)
async def retry_jobs(caller: Writer, request: Request, body: RetryManyBody) -> MovedBody | Response:
    """Drive all failed and cancelled jobs that the filter matches again, spread over time, or count them."""
    return await _many(
        request, caller, "/v1/jobs:retry", body, lambda: redrive.retry_many(request, caller, body, _spared(body))
    )


@router.post("/v1/jobs:prioritise", response_model=MovedBody)
async def prioritise_jobs(caller: Writer, request: Request, body: PrioritiseManyBody) -> MovedBody | Response:
    """Put all waiting jobs that the filter matches into another lane, oldest first, or count them."""
    return await _many(
        request,
        caller,
        "/v1/jobs:prioritise",
        body,
        lambda: redrive.prioritise_many(request, caller, body, _spared(body)),
    )


def _spared(body: CancelManyBody) -> tuple[str, ...]:
    """Whoever means everything does not mean the looks at runs."""
    return () if body.filter.kind else LOOKS


async def _many(
    request: Request, caller: Principal, path: str, body: CancelManyBody, own: Callable[[], MovedBody]
) -> MovedBody | Response:
    """Our own part first: when that fails, nothing has moved elsewhere. A refusal of another service is given on, with
    how many jobs `moved` in the others."""
    parts = [await to_thread.run_sync(own)]
    said = body.model_dump(mode="json")
    answers, silent = await request.app.state.peers.tell_all(path, _token(request, caller), said)
    parts += [MovedBody.model_validate(part) for status, part in answers.values() if status == 200]
    merged = _merged(body.dry_run, parts, silent)
    if not body.dry_run:
        await tell_runs(request, caller, merged.runs)
    for service, (status, refusal) in answers.items():
        if status != 200:
            facts = {"service": service, "moved": 0 if body.dry_run else merged.jobs}
            return JSONResponse({**refusal, **facts}, status, media_type="application/problem+json")
    return merged


def _merged(dry_run: bool, parts: Sequence[MovedBody], silent: list[str]) -> MovedBody:
    until = [part.until for part in parts if part.until is not None]
    by_kind = {kind: jobs for part in parts for kind, jobs in (part.by_kind or {}).items()}
    return MovedBody(
        dry_run=dry_run,
        jobs=sum(part.jobs for part in parts),
        by_kind=by_kind if dry_run else None,
        more=any(part.more for part in parts),
        until=max(until, default=None),
        runs=sorted({run for part in parts for run in part.runs}),
        unreachable=sorted(silent),
    )


async def tell_runs(request: Request, caller: Principal, runs: Sequence[UUID]) -> None:
    """See anew how the runs stand. Dying before leaves them as they were told until somebody asks."""
    await to_thread.run_sync(_tell_now, request, caller, runs[:TOLD_RUNS])


def _tell_now(request: Request, caller: Principal, runs: Sequence[UUID]) -> None:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        operations.tell_anew(session, caller.workspace, runs)


def _token(request: Request, caller: Principal) -> str:
    return issue(request.app.state.settings.signing_key, caller)
