"""Schedules of all services: each request goes to the service that fires the kind, or that has the schedule."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from services.api.routes.gateway import enter_run, pass_on
from services.api.routes.owing import service_of
from shared.auth import Principal, issue
from shared.errors import NotFound, Unavailable
from shared.http import PageLimit, requires, schedules
from shared.http.bodies import Accepted
from shared.http.dependencies import IdempotencyKey
from shared.http.schedules import (
    Count,
    Outcome,
    Preview,
    PreviewRequest,
    ScheduleBody,
    SchedulePage,
    ScheduleState,
    SlotPage,
)
from shared.schedules.request import ScheduleRequest

router = APIRouter(tags=["schedules"])
Reader = Annotated[Principal, Depends(requires("read"))]
Writer = Annotated[Principal, Depends(requires("write"))]


@router.post("/v1/schedules", status_code=201, response_model=ScheduleBody)
async def create_schedule(caller: Writer, request: Request, body: ScheduleRequest) -> Response:
    """Make a schedule that fires jobs of a public kind, whichever service runs it."""
    service = service_of(body.kind)
    if service != "api":
        return await pass_on(service, request, caller)
    made = await to_thread.run_sync(schedules.create, request, caller, body)
    return JSONResponse(made.model_dump(mode="json"), 201, {"Location": made.url})


@router.get("/v1/schedules")
async def list_schedules(
    caller: Reader,
    request: Request,
    state: ScheduleState | None = None,
    kind: str | None = None,
    name: str | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> SchedulePage:
    """Schedules of all services, newest first."""
    filters = {"state": state, "kind": kind, "name": name, "after": after, "limit": limit}
    params = {key: str(value) for key, value in filters.items() if value is not None}
    found, failed = await request.app.state.peers.ask_all("/v1/schedules", _token(caller, request), params)
    own = await to_thread.run_sync(lambda: schedules.page(request, caller, **filters))
    pages = [own, *(SchedulePage.model_validate(page) for page in found.values() if page)]
    return _merge(pages, limit, failed)


def _merge(pages: Sequence[SchedulePage], limit: int, unreachable: list[str]) -> SchedulePage:
    """One page of all: ids begin with a time, so the order and the cursor hold across services."""
    items = sorted((item for page in pages for item in page.items), key=lambda item: item.id, reverse=True)
    more = len(items) > limit or any(page.next for page in pages)
    after = items[limit - 1].id if more and len(items) >= limit else None
    return SchedulePage(items=items[:limit], next=after, unreachable=unreachable)


@router.post("/v1/schedules/preview")
async def preview_times(caller: Reader, request: Request, body: PreviewRequest, count: Count = 10) -> Preview:
    """The next fires of a schedule that is not made yet, and what changes of the clock do to them."""
    return await to_thread.run_sync(schedules.preview_of_times, request, body, count)


@router.get("/v1/schedules/{id}", response_model=ScheduleBody)
async def show_schedule(caller: Reader, request: Request, id: UUID) -> Response:
    """One schedule."""
    return await _where_it_is(request, caller, id, lambda: schedules.act(request, caller, "show", id))


@router.put("/v1/schedules/{id}", response_model=ScheduleBody)
async def replace_schedule(caller: Writer, request: Request, id: UUID, body: ScheduleRequest) -> Response:
    """Give it a new definition, of the same service's kinds. A paused one stays paused; one that had ended or was
    broken goes on."""
    return await _where_it_is(request, caller, id, lambda: schedules.replace(request, caller, id, body))


@router.delete("/v1/schedules/{id}", status_code=204)
async def delete_schedule(caller: Writer, request: Request, id: UUID) -> Response:
    """Delete it. Jobs that it has fired go on."""
    return await _where_it_is(request, caller, id, lambda: schedules.delete(request, caller, id))


@router.post("/v1/schedules/{id}/pause", response_model=ScheduleBody)
async def pause_schedule(caller: Writer, request: Request, id: UUID) -> Response:
    """Fire nothing until it is resumed."""
    return await _where_it_is(request, caller, id, lambda: schedules.act(request, caller, "pause", id))


@router.post("/v1/schedules/{id}/resume", response_model=ScheduleBody)
async def resume_schedule(caller: Writer, request: Request, id: UUID) -> Response:
    """Go on with the next fire; those that came meanwhile are in the history as skipped."""
    return await _where_it_is(request, caller, id, lambda: schedules.act(request, caller, "resume", id))


@router.post("/v1/schedules/{id}/run", status_code=202, response_model=Accepted)
async def run_schedule(caller: Writer, request: Request, id: UUID, idempotency_key: IdempotencyKey = None) -> Response:
    """Fire once, now, besides its times, also when it is paused. With an Idempotency-Key a repeated request gets the
    first one's answer."""
    return await _where_it_is(request, caller, id, lambda: schedules.run(request, caller, id, idempotency_key))


@router.get("/v1/schedules/{id}/preview", response_model=Preview)
async def preview_schedule(caller: Reader, request: Request, id: UUID, count: Count = 10) -> Response:
    """Its next fires, and what changes of the clock do to them."""
    return await _where_it_is(request, caller, id, lambda: schedules.preview(request, caller, id, count))


@router.get("/v1/schedules/{id}/history", response_model=SlotPage)
async def list_history(
    caller: Reader,
    request: Request,
    id: UUID,
    outcome: Outcome | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> Response:
    """What became of each of its times, newest first: fired with the job, waiting, or skipped and why."""
    filters: dict[str, Any] = {"outcome": outcome, "after": after, "limit": limit}
    return await _where_it_is(request, caller, id, lambda: schedules.history(request, caller, id, **filters))


async def _where_it_is(request: Request, caller: Principal, id: UUID, own: Callable[[], BaseModel | None]) -> Response:
    """The answer of the service that has the schedule; `own` is ours. Raises NotFound, or Unavailable when one of
    those that did not answer may have it."""
    try:
        answer = await to_thread.run_sync(own)
    except NotFound:
        return await pass_on(await _owner(request, caller, id), request, caller)
    if answer is None:
        return Response(status_code=204)
    if isinstance(answer, Accepted):
        assert caller.workspace is not None
        await to_thread.run_sync(enter_run, request, caller.workspace, str(answer.run.id))
        return JSONResponse(answer.model_dump(mode="json"), 202, {"Location": answer.job.url})
    return JSONResponse(answer.model_dump(mode="json"))


async def _owner(request: Request, caller: Principal, id: UUID) -> str:
    found, failed = await request.app.state.peers.ask_all(f"/v1/schedules/{id}", _token(caller, request), {})
    for service, answer in found.items():
        if answer is not None:
            return str(service)
    if failed:
        raise Unavailable(f"It may be a schedule of {', '.join(failed)}, which cannot be asked now.", id=str(id))
    raise NotFound("There is no such schedule.", id=str(id))


def _token(caller: Principal, request: Request) -> str:
    return issue(request.app.state.settings.signing_key, caller)
