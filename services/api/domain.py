"""Pure rules: how a run stands, by what the ledgers say of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel

from services.api.jobs import LOOKS
from shared.contracts.catalog import consumers
from shared.contracts.envelope import Envelope

UNFINISHED = ("queued", "running")
LEFT_ALONE = timedelta(hours=12)
"""A run without a new event for so long is looked at no more, but when somebody asks for it."""


class Job(Protocol):
    """What the rules need to know of a job."""

    kind: str
    began_as: str | None
    state: str
    cause: str
    cause_id: UUID
    reason: dict[str, Any] | None
    finished_at: datetime | None


class Step(BaseModel):
    """A job as far as the rules need to know it."""

    kind: str
    began_as: str | None = None
    state: str
    cause: str
    cause_id: UUID
    reason: dict[str, Any] | None
    finished_at: datetime | None


class Part(BaseModel):
    """One service's part of a run, as far as the rules need to know it."""

    jobs: list[Step]
    events: list[Envelope]


@dataclass(frozen=True)
class Standing:
    """State of a run, the reason in one sentence when it is not plainly succeeded, and when it ended (UTC)."""

    state: str
    reason: str | None
    finished_at: datetime | None


def standing(jobs: Sequence[Job], events: Sequence[Envelope], unreachable: Sequence[str]) -> Standing:
    """A run has ended when every job has, and every event has become the jobs of its subscribers.

    A job is seen finished together with the events it published (one snapshot a service), so a step that is
    still on its way from one service to the next is never taken for the end.
    """
    if not jobs:
        return Standing("running", "none of its jobs is known", None)
    working = [job for job in jobs if job.state in UNFINISHED]
    if working:
        return Standing("running", f"{working[0].kind} is {working[0].state}", None)
    if unreachable:
        return Standing("running", f"{', '.join(unreachable)} cannot be asked", None)
    if missing := _not_taken_in(jobs, events):
        return Standing("running", f"an event is on its way to {missing[0]}", None)
    finished_at = max((job.finished_at for job in jobs if job.finished_at), default=None)
    for state in ("failed", "cancelled"):
        ended = [job for job in jobs if job.state == state]
        if ended:
            detail = (ended[0].reason or {}).get("detail", state)
            return Standing(state, f"{ended[0].kind}: {detail}", finished_at)
    return Standing("succeeded", None, finished_at)


def moved_since(finished_at: datetime | None, jobs: Sequence[Job]) -> bool:
    """Whether a job of a run that had ended then is on its way again, or has ended later."""
    return any(
        job.state in UNFINISHED or (job.finished_at and finished_at and job.finished_at > finished_at) for job in jobs
    )


def _not_taken_in(jobs: Sequence[Job], events: Sequence[Envelope]) -> list[str]:
    """Kinds of jobs that events must cause and have not yet caused."""
    caused: set[tuple[UUID, str]] = {(job.cause_id, job.began_as or job.kind) for job in jobs if job.cause == "event"}
    return [kind for event in events for kind in consumers(event.type) if (event.id, kind) not in caused]


class Tally(BaseModel):
    """How a run stands by one service's jobs of it, as far as the rules need to know it."""

    run: UUID
    unfinished: int
    failed: str | None
    cancelled: str | None
    finished_at: datetime | None
    events: bool


def tallied(tallies: Iterable[Tally]) -> dict[UUID, Standing]:
    """How runs without events stand, by all services' tallies of them. Those with events are told by these."""
    by_run: dict[UUID, list[Tally]] = {}
    for tally in tallies:
        by_run.setdefault(tally.run, []).append(tally)
    return {run: _tallied(found) for run, found in by_run.items() if not any(tally.events for tally in found)}


def _tallied(tallies: Sequence[Tally]) -> Standing:
    if unfinished := sum(tally.unfinished for tally in tallies):
        return Standing("running", f"{unfinished} jobs have not ended", None)
    finished_at = max((tally.finished_at for tally in tallies if tally.finished_at), default=None)
    for state in ("failed", "cancelled"):
        if reason := next((getattr(tally, state) for tally in tallies if getattr(tally, state)), None):
            return Standing(state, reason, finished_at)
    return Standing("succeeded", None, finished_at)


J = TypeVar("J", bound=Job)


def without_settling(jobs: Sequence[J]) -> list[J]:
    """The jobs that are steps of a run."""
    return [job for job in jobs if job.kind not in LOOKS]


def look_again(age: timedelta) -> float | None:
    """Seconds until a run is looked at again whose newest event is of that age; None when it is left alone."""
    if age > LEFT_ALONE:
        return None
    return min(max(2.0, age.total_seconds() / 2), 1800.0)
