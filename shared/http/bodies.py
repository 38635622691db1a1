"""Bodies that every service's answers share."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.contracts.envelope import Envelope

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


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
    def of(cls, job: UUID, run: UUID) -> "Accepted":
        return cls(job=JobLink(id=job, url=f"/v1/jobs/{job}"), run=RunLink.of(run))


class AcceptedBatch(BaseModel):
    """202: all of them are owed, in this order."""

    run: RunLink
    jobs: list[UUID]


class JobBody(BaseModel):
    """A job as the ledger has it; `reason` says why it is not (yet) succeeded."""

    service: str
    id: UUID
    kind: str
    queue: str
    state: str
    attempt: int
    attempts: int
    """Tries begun, the running one included: the same number, by the name that people look for."""
    max_attempts: int
    crashes: int
    reason: dict[str, Any] | None
    progress: dict[str, Any] | None
    result: Any
    run: UUID
    cause: str
    cause_id: UUID
    trace_id: str | None
    created_at: datetime
    not_before: datetime
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


class JobDetail(JobBody):
    history: list[AttemptBody]


class RunPart(BaseModel):
    """One service's part of a run."""

    jobs: list[JobBody]
    events: list[Envelope]


class JobPage(BaseModel):
    items: list[JobBody]
    next: UUID | None
    """Give it as `after` for the next page; null on the last."""
    unreachable: list[str] = []
    """Services that could not be asked, when the page is the gateway's; their jobs are missing here."""
