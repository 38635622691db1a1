"""Runs, and the jobs of all services."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from sqlmodel import Session

from services.api import operations, repository
from services.api.domain import without_settling
from services.api.models import Run
from services.api.schemas import RunBody, RunPage, RunSummary
from shared import ids
from shared.auth import Principal, issue
from shared.contracts.envelope import Envelope
from shared.db import raw
from shared.errors import MillraceError, NotFound, Unavailable
from shared.http import PageLimit, requires
from shared.http.bodies import JobBody, JobDetail, JobPage, RunPart
from shared.http.dependencies import Caller, Wanted
from shared.http.why import WhyBody, why_of
from shared.ledger import queries
from shared.ledger.filters import JobFilter

router = APIRouter(tags=["runs"])
LOOKED_AT = 10
"""So many unfinished runs of a page are asked about: three requests each."""
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)
_SUMMARY = set(RunSummary.model_fields)
Reader = Annotated[Principal, Depends(requires("read"))]


@router.get("/v1/runs")
async def list_runs(caller: Reader, request: Request, after: UUID | None = None, limit: PageLimit = 50) -> RunPage:
    """The workspace's runs, newest first. Unfinished ones are looked at now, the first few of the page at least."""
    rows = await to_thread.run_sync(_list_runs, caller, request, after, limit + 1)
    if await _enter_scheduled(caller, request, rows, after, limit):
        rows = await to_thread.run_sync(_list_runs, caller, request, after, limit + 1)
    page = [RunSummary(**_summary(row)) for row in rows[:limit]]
    unfinished = [run.id for run in page if run.state == "running"][:LOOKED_AT]
    now = {run.id: run for run in await asyncio.gather(*(show_run(caller, request, id) for id in unfinished))}
    items = [RunSummary(**now[run.id].model_dump(include=_SUMMARY)) if run.id in now else run for run in page]
    return RunPage(items=items, next=page[-1].id if len(rows) > limit else None)


def _list_runs(caller: Principal, request: Request, after: UUID | None, limit: int) -> Sequence[Run]:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        return repository.list_runs(session, caller.workspace, after, limit)


async def _enter_scheduled(
    caller: Principal, request: Request, rows: Sequence[Run], after: UUID | None, limit: int
) -> bool:
    """Enter the runs of the page that schedules began and that are not in it yet: those that have stated no event.
    Answers whether there are any."""
    since = rows[limit - 1].id if len(rows) > limit else _FIRST
    until = after or _LAST
    asked = {"since": str(since), "until": str(until), "limit": limit}
    found, _ = await request.app.state.peers.ask_all("/v1/runs/scheduled", _token(caller, request), asked)
    theirs = {UUID(run) for runs in found.values() for run in runs or ()}
    known = {row.id for row in rows}
    return await to_thread.run_sync(_enter, caller, request, theirs, known, (since, until, limit))


def _enter(
    caller: Principal, request: Request, theirs: set[UUID], known: set[UUID], range_: tuple[UUID, UUID, int]
) -> bool:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        own = queries.scheduled_runs(raw(session), caller.workspace, *range_)
        for run in (fresh := (theirs | set(own)) - known):
            operations.begin_run(session, caller.workspace, run, None)
    return bool(fresh)


@router.get("/v1/runs/{id}")
async def show_run(caller: Reader, request: Request, id: UUID) -> RunBody:
    """The whole chain of a run, asked of every service now."""
    parts, unreachable = await _parts(caller, request, id)
    jobs = sorted((job for part in parts for job in part.jobs), key=lambda job: job.id)
    events = sorted((event for part in parts for event in part.events), key=lambda event: event.id)
    return await to_thread.run_sync(_show, caller, request, id, jobs, events, unreachable)


def _show(
    caller: Principal, request: Request, id: UUID, jobs: list[JobBody], events: list[Envelope], unreachable: list[str]
) -> RunBody:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        run = repository.find_run(session, caller.workspace, id)
        if run is None:
            if not jobs and not events:
                raise NotFound("There is no such run.", id=str(id))
            trace = jobs[0].trace_id if jobs else None
            run = Run(id=id, workspace=caller.workspace, trace_id=trace, state="running", created_at=ids.time_of(id))
        if unreachable:
            events = _with_recorded(session, id, events)
        found = operations.settle(session, run, jobs, events, unreachable)
        summary = _summary(run) | {"state": found.state, "reason": found.reason, "finished_at": found.finished_at}
    return RunBody(**summary, jobs=jobs, events=events, unreachable=unreachable)


def _with_recorded(session: Session, run: UUID, events: list[Envelope]) -> list[Envelope]:
    """The events that the read model kept of services that do not answer now."""
    known = {event.id for event in events}
    recorded = [
        Envelope(
            id=row.id,
            source=row.source,
            type=row.type,
            subject=row.subject,
            time=row.time,
            workspace=row.workspace,
            runid=row.run,
            causationid=row.causation,
            data=row.data,
        )
        for row in repository.list_run_events(session, run)
        if row.id not in known
    ]
    return sorted([*events, *recorded], key=lambda event: event.id)


async def _parts(caller: Principal, request: Request, id: UUID) -> tuple[list[RunPart], list[str]]:
    found, failed = await request.app.state.peers.ask_all(f"/v1/runs/{id}/part", _token(caller, request), {})
    own = await to_thread.run_sync(_own_part, caller, request, id)
    return [own, *(RunPart.model_validate(part) for part in found.values() if part)], failed


def _own_part(caller: Principal, request: Request, id: UUID) -> RunPart:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        part = RunPart.model_validate(queries.part_of_run(raw(session), "api", caller.workspace, id))
    return RunPart(jobs=without_settling(part.jobs), events=part.events)


@router.get("/v1/jobs")
async def list_jobs(
    caller: Caller.Look, request: Request, wanted: Wanted, after: UUID | None = None, limit: PageLimit = 100
) -> JobPage:
    """Jobs of all services, newest first."""
    params = wanted.model_dump(mode="json", exclude_none=True) | ({"after": str(after)} if after else {})
    found, failed = await request.app.state.peers.ask_all(
        "/v1/jobs", _token(caller, request), {**params, "limit": limit}
    )
    own = await to_thread.run_sync(_own_jobs, caller, request, wanted, after, limit)
    pages = [own, *(JobPage.model_validate(page) for page in found.values() if page)]
    return _merge(pages, limit, failed)


def _own_jobs(caller: Principal, request: Request, wanted: JobFilter, after: UUID | None, limit: int) -> JobPage:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        found = queries.list_jobs(raw(session), "api", caller.workspace, wanted, after=after, limit=limit)
    return JobPage.model_validate(found)


def _merge(pages: Sequence[JobPage], limit: int, unreachable: list[str]) -> JobPage:
    """One page of all: ids begin with a time, so the order and the cursor hold across services."""
    items = sorted((job for page in pages for job in page.items), key=lambda job: job.id, reverse=True)
    more = len(items) > limit or any(page.next for page in pages)
    after = items[limit - 1].id if more and len(items) >= limit else None
    return JobPage(items=items[:limit], next=after, unreachable=unreachable)


@router.get("/v1/jobs/{id}")
async def show_job(caller: Caller.Look, request: Request, id: UUID) -> JobDetail:
    """One job of whichever service has it, with every attempt."""
    found, failed = await request.app.state.peers.ask_all(f"/v1/jobs/{id}", _token(caller, request), {})
    for answer in found.values():
        if answer is not None:
            return JobDetail.model_validate(answer)
    own = await to_thread.run_sync(_own_job, caller, request, id)
    if own is None:
        raise _absent(id, failed)
    return own


def _absent(id: UUID, unreachable: list[str]) -> MillraceError:
    """Nobody who answered has the job: it may be one of a service that did not."""
    if unreachable:
        return Unavailable(f"The {unreachable[0]} service does not answer.", unreachable=unreachable)
    return NotFound("There is no such job.", id=str(id))


def _own_job(caller: Principal, request: Request, id: UUID) -> JobDetail | None:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        try:
            return JobDetail.model_validate(queries.show_job(raw(session), "api", caller.workspace, id))
        except NotFound:
            return None


@router.get("/v1/jobs/{id}/why", response_model_exclude_none=True)
async def why_job(caller: Caller.Look, request: Request, id: UUID) -> WhyBody:
    """What the job waits for, whichever service has it; or why it ended as it did."""
    found, failed = await request.app.state.peers.ask_all(f"/v1/jobs/{id}/why", _token(caller, request), {})
    for answer in found.values():
        if answer is not None:
            return WhyBody.model_validate(answer)
    try:
        return await to_thread.run_sync(why_of, request, caller, id)
    except NotFound:
        raise _absent(id, failed) from None


def _token(caller: Principal, request: Request) -> str:
    return issue(request.app.state.settings.signing_key, caller)


def _summary(run: Run) -> dict[str, Any]:
    return {**run.model_dump(), "url": f"/v1/runs/{run.id}"}
