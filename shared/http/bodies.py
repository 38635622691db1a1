"""Bodies that every service's answers share."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.envelope import Envelope
from shared.ledger.filters import JobFilter
from shared.ledger.messages import LaneName, Moment
from shared.ledger.redrive import MOST_JOBS


class JobLink(BaseModel):
    id: UUID
    url: str


class RunLink(BaseModel):
    id: UUID
    url: str

    @classmethod
    def of(cls, run: UUID) -> "RunLink":
        return cls(id=run, url=f"/v1/runs/{run}")


class Accepted(BaseModel):
    """202: the work is owed; follow `job` or `run` to its end. The URLs are relative to the gateway."""

    job: JobLink
    run: RunLink

    @classmethod
    def of(cls, job: UUID, run: UUID, **more: Any) -> Self:
        return cls(job=JobLink(id=job, url=f"/v1/jobs/{job}"), run=RunLink.of(run), **more)


class AcceptedJob(Accepted):
    existing: bool
    """The job was there already: its unique key stood for it."""


class AcceptedBatch(BaseModel):
    """202: all of them are owed, in this order."""

    run: RunLink
    """Of the jobs that were not there before; if all were, that of the first."""
    jobs: list[UUID]
    existing: list[UUID] = []
    """Those that were there already, in runs of their own: their unique keys stood for them."""


class ProgressBody(BaseModel):
    """How far the running attempt was when it last said so."""

    done: int | float
    total: int | float | None
    unit: str
    message: str
    """What went on then."""
    began_at: datetime | None
    at: datetime | None
    """When it said so; attempts do at most every half second."""
    rate: float | None
    """Units a second, a mean over about ten seconds; null until there were two reports."""
    remaining_seconds: float | None
    """From `at` on, at that rate; null when the total or the rate is not known."""


class JobBody(BaseModel):
    """A job as the ledger has it; `reason` says why it is not (yet) succeeded."""

    service: str
    id: UUID
    kind: str
    began_as: str | None = None
    """The kind that it was owed as, of a job that went on as another."""
    queue: str
    lane: LaneName
    state: str
    attempt: int
    """The number of the last one begun, which runs if the job does; 0 before the first."""
    max_attempts: int
    crashes: int
    reason: dict[str, Any] | None
    progress: ProgressBody | None
    result: Any
    run: UUID
    cause: str
    cause_id: UUID
    batch: UUID | None
    step: int | None
    """Of its batch, from 1."""
    trace_id: str | None
    created_at: datetime
    not_before: datetime | None
    """When it is due; null until its step of a batch is open, or the batch that it goes on after has ended."""
    started_at: datetime | None
    finished_at: datetime | None
    url: str


class AttemptBody(BaseModel):
    """One finished attempt and how it ended."""

    number: int
    outcome: str
    version: str | None
    started_at: datetime
    finished_at: datetime
    error: dict[str, Any] | None


class InterventionBody(BaseModel):
    """What somebody did to a job, and how it stood before."""

    at: datetime
    act: Literal["redriven", "cancelled", "prioritised"]
    by: str
    state: str
    attempt: int
    reason: dict[str, Any] | None
    args: dict[str, Any] | None
    """The arguments before they were edited; null when they were left as they were."""
    lane: LaneName | None
    """The lane before it was put into another; null when it was left there."""


class JobDetail(JobBody):
    args: dict[str, Any]
    start_by: datetime | None = None
    deadline: datetime | None
    limit_key: str | None = None
    """What limits count it by, beside its queue, kind and workspace."""
    history: list[AttemptBody]
    interventions: list[InterventionBody]


class RetryBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    args: dict[str, Any] | None = Field(
        None, description="Other arguments, of a public kind's job alone; by default those that it had."
    )


class CancelManyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filter: JobFilter
    dry_run: bool = Field(False, description="Count only.")
    limit: Annotated[int, Field(ge=1, le=MOST_JOBS)] = Field(
        MOST_JOBS, description="At most so many of each service; `more` in the answer says to ask again."
    )


class PrioritiseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lane: LaneName


class PrioritiseManyBody(CancelManyBody):
    lane: LaneName = Field(description="Jobs that are in it already are not moved.")


class RetryManyBody(CancelManyBody):
    per_second: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] = Field(
        50.0, description="So many become due each second, of each service; at the slowest 10,000 in 116 days."
    )
    not_before: Moment | None = Field(None, description="When the first is due; by default at once.")


class MovedBody(BaseModel):
    """What was moved or, of a dry run, what would be."""

    dry_run: bool
    jobs: int
    by_kind: dict[str, int] | None = None
    """Of a dry run."""
    more: bool
    """Further jobs match: the same request goes on with them."""
    until: datetime | None = None
    """When the next redriven job would be due: `not_before` of the request that goes on."""
    runs: list[UUID] = []
    unreachable: list[str] = []
    """Services that did not answer, when the answer is the gateway's: it is not known whether their jobs moved."""


class RunPart(BaseModel):
    """One service's part of a run."""

    jobs: list[JobBody]
    events: list[Envelope]


class Tally(BaseModel):
    """How a run stands by one service's jobs of it."""

    run: UUID
    unfinished: int
    failed: str | None
    """The reason of a job that failed."""
    cancelled: str | None
    finished_at: datetime | None
    events: bool
    """Whether the service published any."""


class JobPage(BaseModel):
    items: list[JobBody]
    next: UUID | None
    """Give it as `after` for the next page; null on the last."""
    unreachable: list[str] = []
    """Services that could not be asked, when the page is the gateway's; their jobs are missing here."""
