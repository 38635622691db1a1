"""What a test that walks through the ledger's states knows of it: how jobs and batches must stand."""

from dataclasses import dataclass, field
from uuid import UUID

from shared.ledger import redrive
from tests.integration.toy.jobs import Do


@dataclass
class Known:
    """What a job's state must be."""

    tries: int = Do.retry.max_attempts
    state: str = "queued"
    attempt: int = 0
    crashes: int = 0
    granted: int = 0
    """Attempts that it may have more than its kind's: begun in a former life, or snoozed."""
    is_late: bool = False
    batch: "KnownBatch | None" = field(default=None, repr=False)
    step: int = 0
    waits: bool = False
    """For its step, or for the batch that it goes on after."""
    worker: UUID | None = None
    outcomes: list[str] = field(default_factory=list)
    acts: list[str] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        return self.state == "queued" and not self.is_late and not self.waits

    def leaves(self, state: str, outcome: str, crashed: bool = False) -> None:
        self.state, self.worker = state, None
        self.outcomes.append(outcome)
        self.crashes += crashed
        self.granted += outcome == "snoozed"

    def cancel(self) -> None:
        if self.state == "running":
            self.leaves("cancelled", "cancelled")
        self.state = "cancelled"
        self.acts.append("cancelled")

    def continues(self, after: "KnownBatch | None" = None) -> None:
        self.leaves("queued", "continued")
        self.crashes, self.granted, self.waits = 0, self.attempt, after is not None

    def redrive(self) -> None:
        self.state, self.crashes, self.is_late, self.granted = "queued", 0, False, self.attempt
        self.waits = self.batch is not None and self.batch.state == "running" and self.step > self.batch.step
        self.acts.append("redriven")


@dataclass
class KnownBatch:
    """How a batch must stand."""

    steps: list[list[Known]]
    on_failure: str
    step: int = 1
    state: str = "running"
    opens: Known | None = None
    """The job that goes on after it."""

    def go_on(self) -> bool:
        """What one look of the leading Beat does; whether it went on."""
        before = self.state, self.step
        if self.state == "running" and not self._unfinished(self.steps[self.step - 1]):
            self._advance()
        if self.state == "running" and self.opens is not None and self.opens.state not in redrive.CANCELLABLE:
            self.end("cancelled")
        return (self.state, self.step) != before

    def _advance(self) -> None:
        did = all(job.state == "succeeded" for job in self.steps[self.step - 1])
        if self.step == len(self.steps):
            did = all(job.state == "succeeded" for step in self.steps for job in step)
            self._ended("succeeded" if did else "failed")
        elif did or self.on_failure == "continue":
            self.step += 1
            for job in self._unfinished(self.steps[self.step - 1]):
                job.waits = False
        else:
            self.end("failed")

    def end(self, state: str) -> None:
        for job in self._unfinished([job for step in self.steps for job in step]):
            job.cancel()
        self._ended(state)

    def _ended(self, state: str) -> None:
        self.state = state
        if self.opens is not None and self.opens.state == "queued":
            self.opens.waits = False

    def _unfinished(self, jobs: list[Known]) -> list[Known]:
        return [job for job in jobs if job.state in redrive.CANCELLABLE]


@dataclass(frozen=True)
class Believed:
    """A worker's belief that it holds a job."""

    job: UUID
    attempt: int
    part: str
