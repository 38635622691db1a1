"""What `api` says to itself."""

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import StringConstraints

from shared.ledger.messages import EventArgs, JobArgs, Lane

SETTLING, SWEEPING = LOOKS = "api.run.settle", "api.run.sweep"
"""Kinds that look how runs stand. They are no steps of a run: counted as one, such a job would wait for itself."""


class RecordEvent(EventArgs):
    """Keep a completion event in the read model of its run."""

    kind: ClassVar[str] = "api.run.record"
    queue: ClassVar[str] = "api.jobs"


class RunCanary(JobArgs):
    """Show that jobs run: do nothing, and answer what was given."""

    kind: ClassVar[str] = "api.canary.run"
    queue: ClassVar[str] = "api.jobs"
    public: ClassVar[bool] = True

    text: Annotated[str, StringConstraints(max_length=1000)] = ""


class SettleRun(JobArgs):
    """See how a run stands after an event of it was recorded, or jobs of it were moved by hand, until it has ended."""

    kind: ClassVar[str] = SETTLING
    queue: ClassVar[str] = "api.jobs"
    lane: ClassVar[Lane] = Lane.BULK

    run: UUID
    event: UUID | None = None


class SweepRuns(JobArgs):
    """See how the runs stand that began in a span of time and published no event, until they have ended."""

    kind: ClassVar[str] = SWEEPING
    queue: ClassVar[str] = "api.jobs"
    lane: ClassVar[Lane] = Lane.BULK

    since: UUID
    until: UUID
    """Bounds of their ids, the second one excluded."""
