"""Running the jobs of one wake-up: claim them together, run each in its own span, finish with fencing."""

import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import structlog
from opentelemetry.trace import SpanKind
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from shared import telemetry
from shared.db import Connection, Database, raw
from shared.errors import LeaseLost, MillraceError
from shared.ledger import failures, moves
from shared.ledger.attempts import Attempt
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


class ResultInvalid(MillraceError):
    """The body returned something that is not JSON."""

    code = "job.result_invalid"


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
        claimed = self._claim(ids)
        unsaved: list[Returned] = []
        began = time.monotonic()
        for number, job in enumerate(claimed):
            try:
                done = self._run_one(job)
            except (SystemExit, KeyboardInterrupt):
                self._give_back(claimed[number + 1 :])
                raise
            if done is not None:
                unsaved.append(done)
            if unsaved and time.monotonic() - began > SHARED_COMMIT_SECONDS:
                self._save(unsaved)
                unsaved, began = [], time.monotonic()
        if unsaved:
            self._save(unsaved)

    def close(self) -> None:
        """Close this thread's connection; the next run opens another."""
        connection: Connection | None = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _ledger(self) -> Connection:
        """This thread's own connection. It does not wait for the disk: losing a claim repeats a wake-up."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = self._database.connect(synchronous_commit=False)
        return connection

    def _claim(self, ids: list[UUID]) -> list[Claimed]:
        try:
            return moves.claim(self._ledger(), self._worker, ids)
        except psycopg.OperationalError:
            # The server was restarted since the last message. If it is still away, this wake-up is lost
            # and the dispatcher sends another.
            return moves.claim(self._ledger(), self._worker, ids)

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
        attempt = Attempt(self._database, job, self._ledger())
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
        except (psycopg.Error, DBAPIError, OSError):
            # PostgreSQL is away: the job stays `running` until the worker's lease keeper sees that nobody runs it.
            log.error("outcome not recorded", exc_info=True)
            return
        if outcome == "lost":
            log.warning("attempt refused: the job is another's by now", error=type(error).__name__)
        else:
            log.warning("attempt failed", outcome=outcome, **_loggable(error))

    def _save(self, unsaved: list[Returned]) -> None:
        """Commit results that have no effects of their own together."""
        try:
            with self._database.transaction() as session:
                held = moves.succeed(
                    raw(session), [Finished(r.job.id, r.job.attempt, r.result, r.seconds) for r in unsaved]
                )
        except (psycopg.OperationalError, DBAPIError):
            log.error("results not recorded", jobs=len(unsaved), exc_info=True)
        except (psycopg.Error, TypeError, ValueError) as error:
            if len(unsaved) == 1:  # a result that JSON or PostgreSQL refuses
                self._settle(unsaved[0].job, ResultInvalid(f"The result cannot be stored: {error}"[:500]))
            else:  # it must not spoil the others'
                for returned in unsaved:
                    self._save([returned])
        else:
            for returned in unsaved:
                if returned.job.id not in held:
                    log.warning("attempt refused: the job is another's by now", job=str(returned.job.id))

    def _give_back(self, jobs: list[Claimed]) -> None:
        reason = {"code": "attempt.interrupted", "detail": "The worker stopped before it began this job."}
        for job in jobs:
            with self._database.transaction() as session:
                moves.release(raw(session), job.id, job.attempt, reason, crashed=False)
                session.info["wake"] = True


def _loggable(error: BaseException) -> dict[str, Any]:
    expected = isinstance(error, MillraceError | LeaseLost)
    reason = failures.describe(error)
    return {"reason": reason["detail"], "code": reason["code"], "exc_info": None if expected else error}
