"""One attempt at a job, as the code that does the work sees it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from sqlmodel import Session

from shared.contracts.envelope import Event
from shared.db import Database, Row, Statements, is_outage, raw
from shared.errors import LeaseLost, MillraceError
from shared.ledger import moves, progress
from shared.ledger.enqueue import Origin, event_row, insert_events
from shared.ledger.messages import JobArgs
from shared.ledger.moves import Claimed, Finished, Next
from shared.ledger.values import storable

T = TypeVar("T")

PROGRESS_SECONDS = 0.5
"""Progress is written at most so often."""


UNSTORABLE = (TypeError, ValueError, RecursionError, psycopg.DataError, psycopg.errors.ProgramLimitExceeded)
"""What storing a value that is not JSON, or not PostgreSQL's, may raise."""


class ResultInvalid(MillraceError):
    """The body answered something that is not JSON."""

    code = "job.result_invalid"

    @classmethod
    def of(cls, error: BaseException) -> "ResultInvalid":
        return cls(f"The result cannot be stored: {error}"[:500])


class Attempt:
    """What a task body gets: the job's facts, and the only ways to write.

    The long part of the work is done outside any transaction. What it means is then written in
    `finishing()`: the effects, the events and `succeeded` commit together, or not at all. The server ends a
    transaction in which it hears nothing for as long as a lease: who holds it is taken for frozen.
    """

    def __init__(
        self,
        database: Database,
        claimed: Claimed,
        ledger: Statements,
        *,
        is_followed: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_followed`: whether another job of the same message comes after this one, and waits for the disk."""
        self.job = claimed
        self.finished = False
        self.events: list[Row] = []
        """Stated by the body; they commit with `succeeded`."""
        self.next: Next | None = None
        """As what the job goes on, if it does."""
        self._database = database
        self._ledger = ledger
        self._is_followed = is_followed
        self._progress_at = 0.0
        self._unwritten: tuple[int, int | None, str, str] | None = None
        self._reported: dict[str, Any] | None = None
        self._began = time.monotonic()

    @property
    def workspace(self) -> UUID:
        return self.job.workspace

    @property
    def run(self) -> UUID:
        return self.job.run

    @property
    def origin(self) -> Origin:
        return Origin(self.job.workspace, self.job.run, "job", self.job.id)

    @property
    def seconds(self) -> float:
        """Since the body began."""
        return time.monotonic() - self._began

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only session."""
        with self._database.transaction(kept=True) as session:
            raw(session).execute("SET TRANSACTION READ ONLY")
            yield session

    @contextmanager
    def finishing(self, result: Any = None) -> Iterator[Session]:
        """The one transaction of this attempt. Raises LeaseLost at its end, with nothing written, if the job
        was taken away meanwhile: the last statement before the commit moves the job only if it is still ours.

        The commit leaves the wait for the disk to the next job of the message, unless it owes further jobs. Should
        PostgreSQL crash in that moment, the effects and the end of the job are gone together, and it runs again
        (docs/decisions/0010).
        """
        self.write_progress()
        with self._database.transaction(kept=True, origin=self.origin) as session:
            yield session
            session.flush()
            insert_events(raw(session), self.events)
            session.info["wake"] = session.info.get("wake") or bool(self.events or self.job.batch)
            if not self._end(session, Finished(self.job.id, self.job.attempt, result, self.seconds)):
                raise LeaseLost
        self.finished = True

    def _end(self, session: Session, done: Finished) -> bool:
        if self.next is not None:
            session.info["wake"] = True
            return moves.continue_as(raw(session), done, self.next)
        durably = bool(session.info.get("owes")) or not self._is_followed()
        try:
            return moves.succeed_one(raw(session), done, self.job.part, durably=durably)
        except UNSTORABLE as error:
            raise ResultInvalid.of(error) from error

    def continue_as(self, args: JobArgs, *, after: UUID | None = None) -> None:
        """When this attempt has done its part the job has not ended: it goes on as another kind, at once or when the
        batch `after`, which this attempt owes, has ended, however that was. Its result is then what the last kind
        answers, not this attempt's.

        It stays one job, so its batch, schedule and unique key wait for all of it, and calling it off calls off what
        it is by then, and the batch that it waits for.
        """
        if self.finished:
            raise RuntimeError("The attempt has ended the job: it does not go on.")
        self.next = Next(args, after)

    def publish(self, event: Event, *, subject: UUID) -> UUID:
        """State a fact that is true once this attempt has succeeded, whichever transaction ends it. A body with no
        other effects needs none of its own: the ends of many such jobs commit together. Answers the event's id.
        """
        row = event_row(event, subject, self.origin)
        self.events.append(row)
        return row["id"]  # type: ignore[no-any-return]

    @contextmanager
    def noting(self) -> Iterator[Session]:
        """A transaction that does not end the job: what is true even if this attempt fails. Raises LeaseLost.

        A later attempt meets what this one wrote, so write it in a way that can be repeated.
        """
        with self._database.transaction(kept=True, origin=self.origin) as session:
            if not moves.fence(raw(session), self.job.id, self.job.attempt):
                raise LeaseLost
            yield session

    def progress(self, done: int, total: int | None = None, unit: str = "", message: str = "") -> None:
        """Say how far the work is; written at most every half second, with the rate, and at the end. Raises LeaseLost
        when it is in vain. `done` and `total` are counted in `unit`; `message` says what goes on now."""
        self._unwritten = done, total, unit, message
        if time.monotonic() - self._progress_at >= PROGRESS_SECONDS:
            self.write_progress()

    def write_progress(self) -> None:
        """Write what was said last, if it is not. Raises LeaseLost."""
        if self._unwritten is None:
            return
        self._progress_at = time.monotonic()
        report = storable(progress.told(self._reported, *self._unwritten, datetime.now(UTC)))
        self._unwritten = None
        try:
            held = moves.report_progress(self._ledger, self.job.id, self.job.attempt, report)
        except psycopg.Error as error:
            if not is_outage(error):
                raise
            return  # PostgreSQL is away for a moment: that is no reason to throw the work away
        if not held:
            raise LeaseLost
        self._reported = report

    def effect_once(self, key: str, act: Callable[[], T]) -> T:
        """Do something outside the database once: a later attempt finds it done and gets its first result.

        `act` answers something JSON can hold; what it cannot is answered as its text. Dying between the act
        and its record repeats the act, so give the outside world a stable id to know it by (Message-ID,
        webhook-id). Raises LeaseLost, without acting, when the job was taken away.
        """
        found = self._ledger.execute("SELECT result FROM effect WHERE key = %s", (key,)).fetchone()
        if found is not None:
            return found["result"]  # type: ignore[no-any-return]
        if not moves.holds(self._ledger, self.job.id, self.job.attempt):
            raise LeaseLost
        done: T = storable(act())
        with self._database.transaction(kept=True) as session:
            raw(session).execute(
                "INSERT INTO effect (key, job, result) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (key, self.job.id, Jsonb(done)),
            )
        return done
