"""Running the jobs of one wake-up: claim them together, run each in its own span, finish with fencing."""

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from shared import telemetry
from shared.db import Database, Lasting, raw
from shared.errors import LeaseLost, MillraceError, RetryLater, Snooze
from shared.ledger import failures, moves
from shared.ledger.attempts import UNSTORABLE, Attempt, ResultInvalid
from shared.ledger.moves import Claimed, Finished
from shared.ledger.tasks import Task, Tasks

log = structlog.get_logger(__name__)

SHARED_COMMIT_SECONDS = 0.05
"""Results without effects of their own wait for each other's commit at most so long."""


class ArgumentsInvalid(MillraceError):
    """The stored arguments are not of the kind's shape."""

    code = "job.arguments_invalid"


class KindUnknown(MillraceError):
    """No code of this service runs the kind."""

    code = "job.kind_unknown"


@dataclass(frozen=True)
class Returned:
    """A body that returned without a transaction of its own: its result is still to be saved."""

    job: Claimed
    result: Any
    seconds: float


class Executor:
    """Runs jobs in a worker's pool process or thread. `worker` is the incarnation that holds their lease."""

    def __init__(self, database: Database, tasks: Tasks, worker: UUID) -> None:
        self._database = database
        self._tasks = tasks
        self._worker = worker
        self._local = threading.local()

    def run(self, kind: str, ids: list[UUID]) -> None:
        """Do what a wake-up for `ids` asks for. Whatever happens to one job, the others go on."""
        claimed = moves.claim(self._ledger, self._worker, ids)
        unsaved: list[Returned] = []
        began = time.monotonic()
        late = began + self._time_limit(kind)
        for number, job in enumerate(claimed):
            if number and time.monotonic() > late:
                self._give_back(claimed[number:], "The message's time was used up before this job was begun.")
                break
            try:
                done = self._run_one(job)
            except (SystemExit, KeyboardInterrupt):
                self._save(unsaved)
                self._give_back(claimed[number + 1 :], "The worker stopped before it began this job.")
                raise
            if done is not None:
                unsaved.append(done)
            if unsaved and time.monotonic() - began > SHARED_COMMIT_SECONDS:
                self._save(unsaved)
                unsaved, began = [], time.monotonic()
        self._save(unsaved)

    def _time_limit(self, kind: str) -> float:
        """Seconds. Celery's limit is the message's: whoever still runs when it is up is killed."""
        task = self._tasks.by_kind.get(kind)
        return task.time_limit if task is not None else float("inf")

    def close(self) -> None:
        """Close this thread's connection; the next run opens another."""
        connection: Lasting | None = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    @property
    def _ledger(self) -> Lasting:
        """This thread's own connection. It does not wait for the disk: losing a claim repeats a wake-up."""
        connection: Lasting | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Lasting(partial(self._database.connect, synchronous_commit=False))
        return connection

    def _run_one(self, job: Claimed) -> Returned | None:
        """Answers a result that is still to be saved, or None when the job's transaction is behind us."""
        structlog.contextvars.bind_contextvars(job=str(job.id), kind=job.kind, run=str(job.run), attempt=job.attempt)
        try:
            with telemetry.span(
                job.kind,
                job.traceparent,
                SpanKind.CONSUMER,
                workspace=job.workspace,
                job_id=str(job.id),
                job_attempt=job.attempt,
                millrace_run=str(job.run),
            ):
                return self._attempt(job)
        except BaseException as error:
            self._settle(job, error)
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            return None
        finally:
            structlog.contextvars.clear_contextvars()

    def _attempt(self, job: Claimed) -> Returned | None:
        task = self._task(job)
        try:
            args = task.args.model_validate(job.args)
        except ValidationError as error:
            raise ArgumentsInvalid(str(error)[:500]) from error
        attempt = Attempt(self._database, job, self._ledger)
        result = task.body(attempt, args)
        return None if attempt.finished else Returned(job, result, attempt.seconds)

    def _task(self, job: Claimed) -> Task:
        try:
            return self._tasks.by_kind[job.kind]
        except KeyError:
            raise KindUnknown(f"No code here runs jobs of kind {job.kind}.") from None

    def _settle(self, job: Claimed, error: BaseException) -> None:
        try:
            outcome = failures.settle(self._database, self._tasks.by_kind.get(job.kind), job, error)
        except Exception:
            # PostgreSQL is away: the job stays `running` until the worker's lease keeper sees that nobody runs it.
            log.error("outcome not recorded", exc_info=True)
            return
        if outcome == "lost":
            log.warning("attempt refused: the job is another's by now", error=type(error).__name__)
        else:
            log.warning("attempt failed", outcome=outcome, **_loggable(error))

    def _save(self, unsaved: list[Returned]) -> None:
        """Commit results that have no effects of their own together."""
        if not unsaved:
            return
        try:
            with self._database.transaction() as session:
                held = moves.succeed(
                    raw(session), [Finished(r.job.id, r.job.attempt, r.result, r.seconds) for r in unsaved]
                )
        except UNSTORABLE as error:
            if len(unsaved) == 1:
                self._settle(unsaved[0].job, ResultInvalid.of(error))
            else:  # one must not spoil the others'
                for returned in unsaved:
                    self._save([returned])
        except Exception:
            log.error("results not recorded", jobs=len(unsaved), exc_info=True)
        else:
            for returned in unsaved:
                if returned.job.id not in held:
                    log.warning("attempt refused: the job is another's by now", job=str(returned.job.id))

    def _give_back(self, jobs: list[Claimed], detail: str) -> None:
        """Jobs that were claimed and not begun. Should it fail, the lease keeper gives them back."""
        reason = {"code": "attempt.not_begun", "detail": detail}
        try:
            with self._database.transaction() as session:
                for job in jobs:
                    moves.snooze(raw(session), job.id, job.attempt, reason, 0.0)
                session.info["wake"] = True
        except Exception:
            log.error("jobs not given back", jobs=len(jobs), exc_info=True)


def _loggable(error: BaseException) -> dict[str, Any]:
    expected = isinstance(error, MillraceError | RetryLater | Snooze | LeaseLost)
    reason = failures.describe(error)
    return {"reason": reason["detail"], "code": reason["code"], "exc_info": None if expected else error}
