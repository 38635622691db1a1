"""The routes of a service's schedules, and what the gateway's own are made of."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shared import ids
from shared.auth import Principal
from shared.db import Row, raw
from shared.http.bodies import Accepted, JobLink, RunLink
from shared.http.dependencies import Caller, IdempotencyKey, PageLimit
from shared.ledger import schedules
from shared.ledger.enqueue import remember
from shared.ledger.messages import LaneName
from shared.ledger.schedules import PREVIEW_SLOTS
from shared.schedules.policies import Misfire, Overlap, Plan
from shared.schedules.request import ScheduleRequest, Timing
from shared.schedules.timetable import Slot, zone_of

ScheduleState = Literal["active", "paused", "ended", "broken"]
Outcome = Literal["fired", "waiting", "skipped"]
Count = Annotated[int, Query(ge=1, le=PREVIEW_SLOTS, description="So many fires.")]


class ScheduleBody(BaseModel):
    """A schedule and where it stands. All times have an offset."""

    service: str
    id: UUID
    name: str
    kind: str
    args: dict[str, Any]
    cron: str | None
    every_seconds: int | None
    at: datetime | None
    zone: str
    start: datetime | None
    end: datetime | None
    jitter_seconds: int
    misfire: Misfire
    grace_seconds: int
    window_seconds: int
    overlap: Overlap
    lane: LaneName | None = None
    """Of the jobs that it fires; null: the kind's own."""
    state: ScheduleState
    reason: dict[str, Any] | None
    """Why it is `broken`."""
    next_at: datetime | None
    """When it fires next, jitter included; null when it does not."""
    waiting: int
    """Fires that wait for the job before them."""
    fired: int
    last_at: datetime | None
    last_job: JobLink | None
    created_at: datetime
    updated_at: datetime
    url: str

    @classmethod
    def of(cls, service: str, row: Row) -> "ScheduleBody":
        last = row.get("last_job")
        return cls(
            **{name: row[name] for name in cls.model_fields.keys() & row.keys() - {"last_job", "next_at"}},
            service=service,
            start=row["starts_at"],
            end=row["ends_at"],
            next_at=row["next_at"] if row["state"] == "active" else None,
            last_at=row["last_slot"],
            last_job=last and JobLink(id=last, url=f"/v1/jobs/{last}"),
            url=f"/v1/schedules/{row['id']}",
        )


class SchedulePage(BaseModel):
    items: list[ScheduleBody]
    next: UUID | None
    """Give it as `after` for the next page; null on the last."""
    unreachable: list[str] = []
    """Services that could not be asked, when the page is the gateway's; their schedules are missing here."""


class SlotBody(BaseModel):
    """What became of one time at which a schedule was to fire, or of several for which it is the same."""

    id: UUID
    at: datetime
    through: datetime | None
    """The last of several; null for one."""
    slots: int | None
    """How many it stands for; null: too many to count."""
    due_at: datetime
    """`at` and its jitter."""
    outcome: Outcome
    reason: dict[str, Any] | None
    """Why it was skipped or waits."""
    job: JobLink | None
    run: RunLink | None
    decided_at: datetime

    @classmethod
    def of(cls, row: Row) -> "SlotBody":
        job = JobLink(id=row["id"], url=f"/v1/jobs/{row['id']}") if row["outcome"] == "fired" else None
        return cls(**row | {"job": job, "run": row["run"] and RunLink.of(row["run"])})


class SlotPage(BaseModel):
    items: list[SlotBody]
    next: UUID | None


class PreviewRequest(Timing):
    """Times to look at; the other fields of a schedule may be there and do not matter."""

    model_config = ConfigDict(extra="ignore")


class PreviewSlot(BaseModel):
    at: datetime
    local: datetime
    """The same instant in the schedule's zone."""
    due_at: datetime | None
    """With the jitter, which is known once the schedule exists."""
    note: str | None
    """What a change of the zone's clock does to it."""


class Preview(BaseModel):
    zone: str
    items: list[PreviewSlot] = Field(description="Fewer than asked for: then it ends.")


router = APIRouter(tags=["schedules"])


@router.post("/v1/schedules", status_code=201)
def create_schedule(caller: Caller.Write, request: Request, response: Response, body: ScheduleRequest) -> ScheduleBody:
    """Make a schedule that fires jobs of a public kind of this service."""
    made = create(request, caller, body)
    response.headers["Location"] = made.url
    return made


@router.get("/v1/schedules")
def list_schedules(
    caller: Caller.Read,
    request: Request,
    state: ScheduleState | None = None,
    kind: str | None = None,
    name: str | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> SchedulePage:
    """This service's schedules of the caller's workspace, newest first."""
    return page(request, caller, state=state, kind=kind, name=name, after=after, limit=limit)


@router.post("/v1/schedules/preview")
def preview_times(caller: Caller.Read, request: Request, body: PreviewRequest, count: Count = 10) -> Preview:
    """The next fires of a schedule that is not made yet, and what changes of the clock do to them."""
    return preview_of_times(request, body, count)


@router.get("/v1/schedules/{id}")
def show_schedule(caller: Caller.Read, request: Request, id: UUID) -> ScheduleBody:
    """One schedule."""
    return act(request, caller, "show", id)


@router.put("/v1/schedules/{id}")
def replace_schedule(caller: Caller.Write, request: Request, id: UUID, body: ScheduleRequest) -> ScheduleBody:
    """Give it a new definition. A paused one stays paused; one that had ended or was broken goes on."""
    return replace(request, caller, id, body)


@router.delete("/v1/schedules/{id}", status_code=204)
def delete_schedule(caller: Caller.Write, request: Request, id: UUID) -> None:
    """Delete it. Jobs that it has fired go on."""
    delete(request, caller, id)


@router.post("/v1/schedules/{id}/pause")
def pause_schedule(caller: Caller.Write, request: Request, id: UUID) -> ScheduleBody:
    """Fire nothing until it is resumed."""
    return act(request, caller, "pause", id)


@router.post("/v1/schedules/{id}/resume")
def resume_schedule(caller: Caller.Write, request: Request, id: UUID) -> ScheduleBody:
    """Go on with the next fire; those that came meanwhile are in the history as skipped."""
    return act(request, caller, "resume", id)


@router.post("/v1/schedules/{id}/run", status_code=202)
def run_schedule(
    caller: Caller.Write, request: Request, response: Response, id: UUID, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Fire once, now, besides its times, also when it is paused. With an Idempotency-Key a repeated request gets the
    first one's answer."""
    answer = run(request, caller, id, idempotency_key)
    response.headers["Location"] = answer.job.url
    return answer


@router.get("/v1/schedules/{id}/preview")
def preview_schedule(caller: Caller.Read, request: Request, id: UUID, count: Count = 10) -> Preview:
    """Its next fires, and what changes of the clock do to them."""
    return preview(request, caller, id, count)


@router.get("/v1/schedules/{id}/history")
def list_history(
    caller: Caller.Read,
    request: Request,
    id: UUID,
    outcome: Outcome | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> SlotPage:
    """What became of each of its times, newest first: fired with the job, waiting, or skipped and why."""
    return history(request, caller, id, outcome=outcome, after=after, limit=limit)


# What the routes do; the gateway does it for its own schedules


def create(request: Request, caller: Principal, body: ScheduleRequest) -> ScheduleBody:
    assert caller.workspace is not None
    state = request.app.state
    with state.database.transaction() as session:
        row = schedules.create(raw(session), state.tasks, caller.workspace, body)
        session.info["wake"] = True
    return ScheduleBody.of(state.service, row)


def replace(request: Request, caller: Principal, id: UUID, body: ScheduleRequest) -> ScheduleBody:
    assert caller.workspace is not None
    state = request.app.state
    with state.database.transaction() as session:
        row = schedules.replace(raw(session), state.tasks, caller.workspace, id, body)
        session.info["wake"] = True
    return ScheduleBody.of(state.service, row)


def act(request: Request, caller: Principal, what: Literal["show", "pause", "resume"], id: UUID) -> ScheduleBody:
    assert caller.workspace is not None
    does = {"show": schedules.show, "pause": schedules.pause, "resume": schedules.resume}[what]
    with request.app.state.database.transaction() as session:
        row = does(raw(session), caller.workspace, id)
        session.info["wake"] = what == "resume"
    return ScheduleBody.of(request.app.state.service, row)


def delete(request: Request, caller: Principal, id: UUID) -> None:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        schedules.delete(raw(session), caller.workspace, id)


def run(request: Request, caller: Principal, id: UUID, key: str | None) -> Accepted:
    assert caller.workspace is not None
    state, job, begun = request.app.state, ids.draw(), ids.draw()
    with state.database.transaction() as session:
        fingerprint = hashlib.sha256(f"POST {request.url.path}".encode("utf-8", "replace")).hexdigest()
        kept = {"job": str(job), "run": str(begun)}
        given = remember(session, caller.workspace, key, fingerprint, kept) if key is not None else None
        if given is not None:
            return Accepted.of(UUID(given["job"]), UUID(given["run"]))
        schedules.run_now(raw(session), state.tasks, caller.workspace, id, job, begun)
        session.info["wake"] = True
    return Accepted.of(job, begun)


def page(request: Request, caller: Principal, **filters: Any) -> SchedulePage:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        rows, following = schedules.list_schedules(raw(session), caller.workspace, **filters)
    return SchedulePage(items=[ScheduleBody.of(request.app.state.service, row) for row in rows], next=following)


def history(request: Request, caller: Principal, id: UUID, **filters: Any) -> SlotPage:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        rows, following = schedules.history(raw(session), caller.workspace, id, **filters)
    return SlotPage(items=[SlotBody.of(row) for row in rows], next=following)


def preview(request: Request, caller: Principal, id: UUID, count: int) -> Preview:
    assert caller.workspace is not None
    with request.app.state.database.transaction() as session:
        row = schedules.show(raw(session), caller.workspace, id)
        now = schedules.clock(raw(session))
    plan = schedules.sound_plan(row)
    return _preview(row["zone"], schedules.preview(plan.timetable, now, count), plan)


def preview_of_times(request: Request, body: PreviewRequest, count: int) -> Preview:
    with request.app.state.database.transaction() as session:
        now = schedules.clock(raw(session))
    return _preview(body.zone, schedules.preview(body.timetable(now), now, count))


def _preview(zone: str, slots: list[Slot], plan: Plan | None = None) -> Preview:
    items = [
        PreviewSlot(at=slot.at, local=slot.at.astimezone(zone_of(zone)), due_at=plan and plan.due(slot), note=slot.note)
        for slot in slots
    ]
    return Preview(zone=zone, items=items)
