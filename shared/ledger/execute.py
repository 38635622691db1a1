"""Running the jobs of one wake-up: claim them together, run each in its own span, finish with fencing."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from shared import telemetry
from shared.db import Database, Lasting, Row, raw
from shared.errors import LeaseLost, MillraceError, RetryLater, Snooze, TimeLimitPassed
from shared.ledger import failures, moves
from shared.ledger.attempts import UNSTORABLE, Attempt, ResultInvalid
from shared.ledger.bench import Bench
from shared.ledger.enqueue import insert_events
from shared.ledger.moves import Claimed, Finished
from shared.ledger.patience import Patience
from shared.ledger.tasks import Task, Tasks

log = structlog.get_logger(__name__)

SHARED_COMMIT_SECONDS = 0.05
"""Results without effects of their own wait for each other's commit at most so long."""
HELD_UP_SECONDS = 1.0
"""A message is sized for far less work; what it has not begun by then is held up by a job that takes long."""


class ArgumentsInvalid(MillraceError):
    """The stored arguments are not of the kind's shape."""

    code, status, title = "job.arguments_invalid", 422, "The arguments are not those of the kind"


class KindUnknown(MillraceError):
    """No code of this service runs the kind."""

    code, status, title = "job.kind_unknown", 422, "Unknown kind"


@dataclass(frozen=True)
class Returned:
    """A body that returned without a transaction of its own: its result and events are still to be saved."""

    job: Claimed
    result: Any
    seconds: float
    events: list[Row]


class _Message:
    """The jobs of one wake-up on their way: those not begun, and the results not saved. Two threads use it."""

    def __init__(self, jobs: list[Claimed]) -> None:
        self.is_shared = len(jobs) > 1
        self._waiting = deque(jobs)
        self._returned: list[Returned] = []
        self._lock = threading.Lock()

    def begin(self) -> Claimed | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def has_more(self) -> bool:
        with self._lock:
            return bool(self._waiting)

    def put(self, returned: Returned | None) -> None:
        if returned is not None:
            with self._lock:
                self._returned.append(returned)

    def take_waiting(self) -> list[Claimed]:
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def take_returned(self) -> list[Returned]:
        with self._lock:
            returned, self._returned = self._returned, []
        return returned


class Executor:
    """Runs jobs in a worker's pool process or thread. `worker` is the incarnation that holds their lease, `bench` is
    where its keeper sees what is run."""

    def __init__(self, database: Database, tasks: Tasks, worker: UUID, bench: Bench | None = None) -> None:
        self._database = database
        self._tasks = tasks
        self._worker = worker
        self._bench = bench or Bench()
        self._local = threading.local()
        self._patience = Patience(self._let_go, HELD_UP_SECONDS)

    def run(self, kind: str, ids: list[UUID]) -> None:
        """Do what a wake-up for `ids` asks for. Whatever happens to one job, the others go on."""
        message = _Message(moves.claim(self._ledger, self._worker, ids, kind))
        try:
            with self._patience.watching(message) if message.is_shared else nullcontext():
                self._work(message)
        finally:
            self._let_go(message)  # of jobs that were not begun something is left only when the worker stops

    def _work(self, message: "_Message") -> None:
        began = time.monotonic()
        while (job := message.begin()) is not None:
            message.put(self._run_one(job, message.has_more))
            if time.monotonic() - began > SHARED_COMMIT_SECONDS:
                self._save(message.take_returned())
                began = time.monotonic()

    def _let_go(self, message: "_Message") -> None:
        """Jobs behind one that takes long are given back, for another process or thread to run."""
        self._give_back(message.take_waiting())
        self._save(message.take_returned())

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

    def _run_one(self, job: Claimed, is_followed: Callable[[], bool]) -> Returned | None:
        """Answers a result that is still to be saved, or None when the job's transaction is behind us."""
        id, run = str(job.id), str(job.run)
        structlog.contextvars.bind_contextvars(job=id, kind=job.kind, run=run, attempt=job.attempt)
        try:
            with telemetry.span(
                job.kind,
                job.traceparent,
                SpanKind.CONSUMER,
                workspace=job.workspace,
                job_id=id,
                job_attempt=job.attempt,
                millrace_run=run,
            ):
                return self._attempt(job, is_followed)
        except BaseException as error:
            self._settle(job, error)
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            return None
        finally:
            structlog.contextvars.clear_contextvars()

    def _attempt(self, job: Claimed, is_followed: Callable[[], bool]) -> Returned | None:
        task = self._task(job)
        try:
            args = task.args.model_validate(job.args)
        except ValidationError as error:
            raise ArgumentsInvalid(str(error)[:500]) from error
        attempt = Attempt(self._database, job, self._ledger, is_followed=is_followed)
        try:
            with self._bench.working_on(job.id, job.attempt):
                result = task.body(attempt, args)
        except SoftTimeLimitExceeded as error:  # Celery's, in a pool process
            raise TimeLimitPassed from error
        if attempt.next is not None and not attempt.finished:
            with attempt.finishing():
                pass
        if attempt.finished:
            return None
        attempt.write_progress()
        return Returned(job, result, attempt.seconds, attempt.events)

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
            with self._database.transaction(kept=True) as session:
                held = moves.succeed(
                    raw(session), [Finished(r.job.id, r.job.attempt, r.result, r.seconds) for r in unsaved]
                )
                events = [event for r in unsaved if r.job.id in held for event in r.events]
                insert_events(raw(session), events)
                session.info["wake"] = bool(events) or any(r.job.batch for r in unsaved)
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

    def _give_back(self, jobs: list[Claimed]) -> None:
        """Jobs that were claimed and not begun. Should it fail, the lease keeper gives them back."""
        if not jobs:
            return
        reason = {"code": "attempt.not_begun", "detail": "The worker stopped, or another job held this one up."}
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
    return {"reason": reason["detail"], "code": reason["code"], "traceback": None if expected else reason["traceback"]}
