"""A worker's lease: one row renewed for all it runs, and the search for jobs that it no longer runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from shared.db import Database, Row, Statements, is_locked, is_outage, raw
from shared.errors import LeaseLost, TimeLimitPassed
from shared.ledger import moves
from shared.ledger.bench import Bench, Seat
from shared.ledger.failures import LOCK_SECONDS, Held, fail, take_back
from shared.ledger.tasks import Tasks
from shared.version import VERSION

log = structlog.get_logger(__name__)

OVERTIME_SECONDS = 30.0
"""So long after its time limit, whoever still runs a job has lost it. Celery kills pool processes before."""
UNRECORDED = ("attempt.unrecorded", "The attempt ended and its outcome could not be recorded.")
BESIDE = ("attempt.beside", "Its worker process was killed because of another job.")
"""No fault of the job's, and no try of it."""


@dataclass(frozen=True)
class About:
    """What a worker says of itself: the queues it takes from, its pool, how many messages it works on at a time, and
    how many of these slots were `busy`, a mean since it said so last."""

    queues: tuple[str, ...] = ()
    pool: str | None = None
    slots: int | None = None
    busy: float | None = None


def renew(connection: Statements, worker: UUID, name: str, seconds: float, about: About = About()) -> bool:
    """Hold the lease for so long from now; the first call enters the worker. Answers whether it is to be drained."""
    row = connection.execute(
        """INSERT INTO worker (id, name, version, lease_until, renewed_at, queues, pool, slots, busy)
           VALUES (%(id)s, %(name)s, %(version)s, now() + %(lease)s, now(), %(queues)s, %(pool)s, %(slots)s, %(busy)s)
           ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, renewed_at = now(), busy = excluded.busy
           RETURNING draining_at IS NOT NULL AS drained""",
        {
            "id": worker,
            "name": name,
            "version": VERSION,
            "lease": timedelta(seconds=seconds),
            "queues": list(about.queues),
            "pool": about.pool,
            "slots": about.slots,
            "busy": about.busy,
        },
    ).fetchone()
    return row is not None and row["drained"]


def end(connection: Statements, worker: UUID) -> None:
    """The worker stops in good order: what it still holds may be taken at once."""
    connection.execute("UPDATE worker SET lease_until = now(), ended_at = now() WHERE id = %s", (worker,))


def forget(connection: Statements) -> None:
    """Drop the rows of workers that ended a day ago and hold nothing any more."""
    connection.execute(
        """DELETE FROM worker WHERE lease_until < now() - interval '1 day'
           AND NOT EXISTS (SELECT 1 FROM job WHERE job.worker = worker.id AND job.state = 'running'
                           AND job.finished_at IS NULL)"""
    )


class Keeper:
    """Runs beside the pool in the worker's main process.

    A pool process that dies takes no lease with it: the worker lives on. So each round also compares the
    jobs that the ledger says this worker runs with those it really has in hand, and takes back the rest.

    The other way round, an attempt that has ended in the ledger (called off, too late, taken away) is told so at its
    next checkpoint; a body that has not come to one within the grace is stopped: `kill` ends its pool process, in a
    thread LeaseLost is raised.
    """

    def __init__(
        self,
        database: Database,
        tasks: Tasks,
        worker: UUID,
        name: str,
        *,
        lease_seconds: float,
        max_crashes: int,
        in_hand: Callable[[], set[UUID]],
        about: Callable[[], About] = About,
        bench: Bench | None = None,
        grace_seconds: float = 10.0,
        kill: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self.is_drained = False
        """Whether the worker is to be drained: it gets no further jobs."""
        self.again_in = float("inf")
        """Seconds after which the next round is wanted, though the lease needs none yet."""
        self._bench = bench or Bench()
        self._grace = grace_seconds
        self._kill = kill
        self._about = about
        self._database = database
        self._tasks = tasks
        self._worker = worker
        self._name = name
        self._lease = lease_seconds
        self._max_crashes = max_crashes
        self._in_hand = in_hand
        self._reasons: dict[UUID, tuple[str, str]] = {}
        self._missing: set[UUID] = set()

    def lost(self, ids: list[UUID], code: str, detail: str) -> None:
        """Told by the pool: the process that had these jobs is gone."""
        self._reasons.update(dict.fromkeys(ids, (code, detail)))

    def round(self, connection: Statements) -> None:
        self.again_in = float("inf")
        self.is_drained = renew(connection, self._worker, self._name, self._lease, self._about())
        held = connection.execute(
            """SELECT id, kind, attempt, crashes, max_attempts, workspace, run, args,
                      extract(epoch FROM now() - started_at)::float AS seconds
               FROM job WHERE worker = %s AND state = 'running' AND finished_at IS NULL""",
            (self._worker,),
        ).fetchall()
        in_hand = self._in_hand()
        seats = {(seat.job, seat.attempt): seat for seat in self._bench.seats()}
        absent = {row["id"] for row in held} - in_hand
        for row in held:
            seconds, seat = row.pop("seconds"), seats.pop((row["id"], row["attempt"]), None)
            if row["id"] in absent & (self._missing | self._reasons.keys()):
                self._take_back(Held(**row), *self._reasons.pop(row["id"], UNRECORDED))
            elif row["id"] in in_hand and seconds > self._time_limit(row["kind"]) + OVERTIME_SECONDS:
                detail = f"It ran past its time limit, for {seconds:.0f} s, and could not be stopped."
                self._take_back(Held(**row), "attempt.time_limit", detail)
            elif seat is not None and seat.is_thread:  # Celery interrupts pool processes, and kills them
                self._limit_thread(seat, self._time_limit(row["kind"]) - seconds)
        self._stop_what_has_ended(connection, seats)
        # Around a reconnect Celery forgets for a moment what its pool has begun: absent once is not yet lost.
        self._missing = absent
        self._reasons = {id: reason for id, reason in self._reasons.items() if id in in_hand}

    def _time_limit(self, kind: str) -> float:
        task = self._tasks.by_kind.get(kind)
        return task.time_limit if task is not None else float("inf")

    def _take_back(self, job: Held, code: str, detail: str) -> None:
        log.warning("job taken back", job=str(job.id), kind=job.kind, attempt=job.attempt, code=code)
        reason, crashed = {"code": code, "detail": detail}, code == "worker.lost"
        with _alone(job):
            if code == BESIDE[0]:
                _give_back(self._database, job, reason)
            else:
                take_back(self._database, self._tasks, job, reason, self._max_crashes, crashed=crashed)

    def _limit_thread(self, seat: Seat, left: float) -> None:
        if left > 0:
            self.again_in = min(self.again_in, left)
        else:
            log.warning("interrupted at its time limit", job=str(seat.job), attempt=seat.attempt)
            self._bench.interrupt(seat, TimeLimitPassed)

    def _stop_what_has_ended(self, connection: Statements, seats: dict[tuple[UUID, int], Seat]) -> None:
        """`seats`: those at an attempt that the ledger does not have running here."""
        if not seats:
            return
        ended = connection.execute(_ENDED, ([seat.job for seat in seats.values()],)).fetchall()
        for row in ended:
            seat = seats.get((row["job"], row["number"]))
            left = self._grace - row["seconds"]
            if seat is not None and left > 0:
                self.again_in = min(self.again_in, left)
            elif seat is not None:
                self._stop(connection, seat)

    def _stop(self, connection: Statements, seat: Seat) -> None:
        """Dying after the record stops the body as well: it was this worker's. In the instant between the last look at
        the seat and the signal the process may have come to other jobs: then they run again."""
        log.warning("stopped: it went on after its end", job=str(seat.job), attempt=seat.attempt, pid=seat.pid)
        how = "interrupted" if seat.is_thread else "killed"
        said = f" It did not stop within {self._grace:g} s and was {how}."
        connection.execute(_SAY_STOPPED, {"job": seat.job, "attempt": seat.attempt, "said": said})
        if seat.is_thread:
            self._bench.interrupt(seat, LeaseLost)
        elif seat in self._bench.seats():
            self._bench.clear(seat)
            self._kill(seat.pid)


_ENDED = """
SELECT job, number, extract(epoch FROM now() - finished_at)::float AS seconds FROM attempt
WHERE job = ANY(%s) AND outcome NOT IN ('succeeded', 'continued')"""
"""A body that has done its part may still have something to put away."""

_SAY_STOPPED = """
WITH said AS (
  UPDATE attempt SET error = error || jsonb_build_object('detail', error ->> 'detail' || %(said)s, 'stopped', true)
  WHERE job = %(job)s AND number = %(attempt)s AND error ->> 'stopped' IS NULL)
UPDATE job SET error = error || jsonb_build_object('detail', error ->> 'detail' || %(said)s, 'stopped', true)
WHERE id = %(job)s AND attempt = %(attempt)s AND finished_at IS NOT NULL AND error ->> 'stopped' IS NULL"""


def reap(database: Database, connection: Statements, tasks: Tasks, max_crashes: int) -> int:
    """Take back the jobs of workers whose lease ran out; answers how many. Run by the leading Beat."""
    found = moves.abandoned(connection)
    for row in _heard(connection, found):
        name, ended = row.pop("worker"), row.pop("ended")
        log.warning("lease lost", job=str(row["id"]), kind=row["kind"], attempt=row["attempt"], worker=name)
        job = Held(**row)
        with _alone(job):
            if ended:
                detail = f"Worker {name} was stopped before the job was done."
                _give_back(database, job, {"code": "worker.stopped", "detail": detail})
            else:
                reason = {"code": "worker.lost", "detail": f"Worker {name} stopped renewing its lease."}
                take_back(database, tasks, job, reason, max_crashes)
    return len(found)


def _heard(connection: Statements, rows: list[Row]) -> Iterator[Row]:
    """The rows, with a word to PostgreSQL at each: it ends the connection of a leader that is silent for long."""
    for row in rows:
        connection.execute("SELECT 1")
        yield row


def _give_back(database: Database, job: Held, reason: dict[str, Any]) -> None:
    """It was stopped by no fault of the job's."""
    with database.transaction(lock_seconds=LOCK_SECONDS) as session:
        moves.snooze(raw(session), job.id, job.attempt, reason, 0.0)
        session.info["wake"] = True


def expire(database: Database, connection: Statements, tasks: Tasks) -> int:
    """Fail jobs whose deadline has passed, or that were not started in time; answers how many. Of one that runs nothing
    commits any more."""
    found = moves.overdue(connection)
    for row in _heard(connection, found):
        queued, passed = row.pop("state") == "queued", row.pop("passed")
        detail = f"Its {passed} passed before it was {'started' if queued else 'done'}."
        reason, job = {"code": f"job.{passed}", "detail": detail}, Held(**row)
        with _alone(job):
            fail(database, tasks.by_kind.get(job.kind), job, reason, queued=queued, lock_seconds=LOCK_SECONDS)
    return len(found)


@contextmanager
def _alone(job: Held) -> Iterator[None]:
    """One job that cannot be decided about must not hold up the others; an outage holds up all."""
    try:
        yield
    except Exception as error:
        if is_locked(error):
            log.warning("job not moved this time: its row is held", job=str(job.id), kind=job.kind)
            return
        if is_outage(error):
            raise
        log.exception("job not moved", job=str(job.id), kind=job.kind)
