"""The routes that every service has: health, metrics, its jobs, its feed."""

import time
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.db import raw
from shared.http import metrics
from shared.http.bodies import JobDetail, JobPage, RunPart, Tally
from shared.http.dependencies import Caller, PageLimit, Transaction, Wanted, requires
from shared.ledger import queries, schedules
from shared.ledger.feed import PAGE_EVENTS, Page, read

router = APIRouter()


@router.get("/healthz", tags=["health"])
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["health"], responses={503: {"description": "Not ready"}})
def readyz(request: Request) -> JSONResponse:
    """The process can do its work: its database answers. The broker is not asked: requests do not need it."""
    began = time.monotonic()
    with request.app.state.database.transaction() as session:
        raw(session).execute("SELECT 1 FROM job LIMIT 1")
    return JSONResponse({"status": "ready", "database_ms": round((time.monotonic() - began) * 1000, 1)})


@router.get("/metrics", tags=["operations"], dependencies=[Depends(requires("metrics"))])
def show_metrics(session: Transaction, request: Request) -> Response:
    """Prometheus text format: requests of this process, and the service's ledger as it stands now."""
    connection = raw(session)
    ledger = metrics.ledger(request.app.state.service, queries.depths(connection), schedules.counts(connection))
    return Response(generate_latest() + ledger, media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False, dependencies=[Depends(requires("read"))])
def openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


jobs = APIRouter()


@jobs.get("/v1/jobs", tags=["jobs"])
def list_jobs(
    caller: Caller.Read,
    session: Transaction,
    request: Request,
    wanted: Wanted,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> JobPage:
    """This service's jobs of the caller's workspace, newest first."""
    assert caller.workspace is not None
    service = request.app.state.service
    found = queries.list_jobs(raw(session), service, caller.workspace, wanted, after=after, limit=limit)
    return JobPage.model_validate(found)


@jobs.get("/v1/jobs/{id}", tags=["jobs"])
def show_job(caller: Caller.Read, session: Transaction, request: Request, id: UUID) -> JobDetail:
    """One job with every attempt."""
    assert caller.workspace is not None
    return JobDetail.model_validate(queries.show_job(raw(session), request.app.state.service, caller.workspace, id))


@jobs.get("/v1/runs/{id}/part", tags=["jobs"])
def show_part(caller: Caller.Read, session: Transaction, request: Request, id: UUID) -> RunPart:
    """This service's part of a run: its jobs and the events it published."""
    assert caller.workspace is not None
    return RunPart.model_validate(queries.part_of_run(raw(session), request.app.state.service, caller.workspace, id))


@jobs.get("/v1/runs/scheduled", tags=["jobs"])
def list_scheduled_runs(
    caller: Caller.Read, session: Transaction, since: UUID, until: UUID, limit: PageLimit = 100
) -> list[UUID]:
    """The runs between `since` and `until` that this service's schedules began, newest first: nobody asked for them."""
    assert caller.workspace is not None
    return queries.scheduled_runs(raw(session), caller.workspace, since, until, limit)


@jobs.get("/v1/runs/tallies", tags=["jobs"])
def list_tallies(caller: Caller.Read, session: Transaction, since: UUID, until: UUID) -> list[Tally]:
    """How the runs with ids from `since` to before `until` stand by this service's jobs."""
    assert caller.workspace is not None
    return [Tally.model_validate(row) for row in queries.tallies(raw(session), caller.workspace, since, until)]


feed = APIRouter()


@feed.get("/v1/events", tags=["feed"], dependencies=[Depends(requires("events"))])
def list_events(
    session: Transaction,
    request: Request,
    after: Annotated[int, Query(ge=0, description="The `next` of the last page; 0 from the beginning.")] = 0,
    type: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_EVENTS)] = PAGE_EVENTS,
) -> Page:
    """The feed of this service's events in their order, for other services to catch up from."""
    return read(raw(session), request.app.state.service, after, type or [], limit)
