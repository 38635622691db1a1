"""A worker's lease: one row renewed for all it runs, and the search for jobs that it no longer runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from shared.db import Database, Row, Statements, is_locked, is_outage, raw
from shared.ledger import moves
from shared.ledger.failures import LOCK_SECONDS, Held, fail, take_back
from shared.ledger.tasks import Tasks
from shared.version import VERSION

log = structlog.get_logger(__name__)

OVERTIME_SECONDS = 30.0
"""So long after its time limit, whoever still runs a job has lost it. Celery kills pool processes before."""
UNRECORDED = ("attempt.unrecorded", "The attempt ended and its outcome could not be recorded.")


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
    ) -> None:
        self.is_drained = False
        """Whether the worker is to be drained: it gets no further jobs."""
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
        self.is_drained = renew(connection, self._worker, self._name, self._lease, self._about())
        held = connection.execute(
            """SELECT id, kind, attempt, crashes, max_attempts, workspace, run, args,
                      extract(epoch FROM now() - started_at)::float AS seconds
               FROM job WHERE worker = %s AND state = 'running' AND finished_at IS NULL""",
            (self._worker,),
        ).fetchall()
        in_hand = self._in_hand()
        absent = {row["id"] for row in held} - in_hand
        for row in held:
            seconds = row.pop("seconds")
            if row["id"] in absent & (self._missing | self._reasons.keys()):
                self._take_back(Held(**row), *self._reasons.pop(row["id"], UNRECORDED))
            elif row["id"] in in_hand and seconds > self._time_limit(row["kind"]):
                detail = f"It ran past its time limit, for {seconds:.0f} s, and could not be stopped."
                self._take_back(Held(**row), "attempt.time_limit", detail)
        # Around a reconnect Celery forgets for a moment what its pool has begun: absent once is not yet lost.
        self._missing = absent
        self._reasons = {id: reason for id, reason in self._reasons.items() if id in in_hand}

    def _time_limit(self, kind: str) -> float:
        """Seconds. A pool process has been killed by then; a thread cannot be, but its job need not wait for it."""
        task = self._tasks.by_kind.get(kind)
        return task.time_limit + OVERTIME_SECONDS if task is not None else float("inf")

    def _take_back(self, job: Held, code: str, detail: str) -> None:
        log.warning("job taken back", job=str(job.id), kind=job.kind, attempt=job.attempt, code=code)
        reason, crashed = {"code": code, "detail": detail}, code == "worker.lost"
        with _alone(job):
            take_back(self._database, self._tasks, job, reason, self._max_crashes, crashed=crashed)


def reap(database: Database, connection: Statements, tasks: Tasks, max_crashes: int) -> int:
    """Take back the jobs of workers whose lease ran out; answers how many. Run by the leading Beat."""
    found = moves.abandoned(connection)
    for row in _heard(connection, found):
        name, ended = row.pop("worker"), row.pop("ended")
        log.warning("lease lost", job=str(row["id"]), kind=row["kind"], attempt=row["attempt"], worker=name)
        job = Held(**row)
        with _alone(job):
            if ended:
                _give_back(database, job, name)
            else:
                reason = {"code": "worker.lost", "detail": f"Worker {name} stopped renewing its lease."}
                take_back(database, tasks, job, reason, max_crashes)
    return len(found)


def _heard(connection: Statements, rows: list[Row]) -> Iterator[Row]:
    """The rows, with a word to PostgreSQL at each: it ends the connection of a leader that is silent for long."""
    for row in rows:
        connection.execute("SELECT 1")
        yield row


def _give_back(database: Database, job: Held, worker: str) -> None:
    """A worker that was told to stop had not the time to finish the job: that is no fault of the job's."""
    reason = {"code": "worker.stopped", "detail": f"Worker {worker} was stopped before the job was done."}
    with database.transaction(lock_seconds=LOCK_SECONDS) as session:
        moves.snooze(raw(session), job.id, job.attempt, reason, 0.0)
        session.info["wake"] = True


def expire(database: Database, connection: Statements, tasks: Tasks) -> int:
    """Fail queued jobs whose deadline has passed; answers how many."""
    found = moves.overdue(connection)
    for row in _heard(connection, found):
        reason = {"code": "job.deadline", "detail": "Its deadline passed before it was started."}
        job = Held(**row)
        with _alone(job):
            fail(database, tasks.by_kind.get(job.kind), job, reason, queued=True, lock_seconds=LOCK_SECONDS)
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
