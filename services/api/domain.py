"""Pure rules: how a run stands, by what the ledgers say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from shared.contracts.catalog import consumers
from shared.contracts.envelope import Envelope

UNFINISHED = ("queued", "running")


class Job(Protocol):
    """What the rules need to know of a job."""

    kind: str
    state: str
    cause: str
    cause_id: UUID
    reason: dict[str, Any] | None
    finished_at: datetime | None


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


def _not_taken_in(jobs: Sequence[Job], events: Sequence[Envelope]) -> list[str]:
    """Kinds of jobs that events must cause and have not yet caused."""
    caused: set[tuple[UUID, str]] = {(job.cause_id, job.kind) for job in jobs if job.cause == "event"}
    return [kind for event in events for kind in consumers(event.type) if (event.id, kind) not in caused]
