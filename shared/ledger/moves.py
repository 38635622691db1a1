"""The moves of a job. Each is one statement that checks the state and the attempt that it moves from."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Row, Statements
from shared.ledger.batch_schema import CLOSED
from shared.ledger.limits_schema import ASKED
from shared.ledger.messages import JobArgs
from shared.version import VERSION


@dataclass(frozen=True)
class Claimed:
    """A job that this worker now runs; `attempt` is the fencing token of everything it writes."""

    id: UUID
    kind: str
    attempt: int
    max_attempts: int
    crashes: int
    args: dict[str, Any]
    workspace: UUID
    run: UUID
    traceparent: str | None
    created_at: datetime
    deadline: datetime | None
    part: str
    """The partition that has its row, as SQL names it."""
    batch: UUID | None = None
    step: int | None = None


def claim(connection: Statements, worker: UUID, ids: list[UUID], kind: str | None = None) -> list[Claimed]:
    """Take those of `ids` that are queued and due, and of the kind if one is given, in the order of `ids`.

    What is not returned belongs to somebody else or is done: a second message finds nothing. Nor does one of the kind
    that a job was before it went on as another: time limits are those of a message's kind. Rows that
    another claim holds are skipped, not waited for. A worker without a lease gets nothing: nobody would take
    the jobs back from one that was never entered, and from one that lost its lease they would be at once. Nor does
    one that is being drained.

    The claim may be lost when PostgreSQL crashes (synchronous_commit = off). Another claim then gets the same
    attempt number: still only one of the two commits, as `succeeded` is reached once; the other's work is in vain.
    """
    rows = connection.execute(
        """UPDATE job SET state = 'running', attempt = attempt + 1, worker = %(worker)s, started_at = now(),
                  progress = NULL
           FROM (SELECT id FROM job WHERE id = ANY(%(ids)s) AND state = 'queued' AND not_before <= now()
                   AND (%(kind)s::text IS NULL OR kind = %(kind)s)
                   AND (deadline IS NULL OR deadline > now())
                   AND (start_by IS NULL OR start_by > now() OR attempt > 0)
                 ORDER BY id FOR UPDATE SKIP LOCKED) AS due
           WHERE job.id = due.id AND job.id = ANY(%(ids)s)
             AND EXISTS (SELECT 1 FROM worker
                         WHERE worker.id = %(worker)s AND lease_until > now() AND draining_at IS NULL)
           RETURNING job.id, kind, attempt, max_attempts, crashes, args, workspace, run, traceparent, created_at,
                     deadline, job.tableoid::regclass::text AS part, batch, step""",
        {"worker": worker, "ids": ids, "kind": kind},
    ).fetchall()
    place = {id: n for n, id in enumerate(ids)}
    return [Claimed(**row) for row in sorted(rows, key=lambda row: place[row["id"]])]


@dataclass(frozen=True)
class Finished:
    """The outcome of one attempt, on its way into the ledger."""

    id: UUID
    attempt: int
    result: Any = None
    seconds: float | None = None


def succeed_one(connection: Statements, done: Finished, part: str = "job", *, durably: bool = True) -> bool:
    """What `succeed` does, for a transaction of the job's own. The commit that follows waits for the disk when it is
    to be done `durably`.

    `part` is the partition that had the job's row when it was claimed: the statement on it alone takes PostgreSQL less
    than half the time. Should the row have been moved since, it is looked for in the whole table.
    """
    values = (Jsonb(done.result), done.id, done.attempt, VERSION, done.seconds, durably)
    held = connection.execute(_succeed_in(part), values).fetchone() is not None
    return held or (part != "job" and succeed_one(connection, done, durably=durably))


@cache
def _succeed_in(part: str) -> str:
    return f"""
      WITH moved AS (
        UPDATE {part} SET state = 'succeeded', result = %s, error = NULL, finished_at = now()
        WHERE id = %s AND attempt = %s::integer AND state = 'running' RETURNING id, attempt, worker, started_at)
      INSERT INTO attempt (job, number, outcome, worker, version, seconds, started_at, finished_at)
      SELECT id, attempt, 'succeeded', worker, %s, %s::real, started_at, now() FROM moved
      RETURNING CASE WHEN %s THEN NULL ELSE set_config('synchronous_commit', 'off', true) END"""  # noqa: S608 - ours


def succeed(connection: Statements, finished: list[Finished]) -> set[UUID]:
    """`running → succeeded` for every attempt that still holds its job; answers those that did."""
    done = [{"id": str(f.id), "attempt": f.attempt, "result": f.result, "seconds": f.seconds} for f in finished]
    rows = connection.execute(
        """WITH moved AS (
             UPDATE job SET state = 'succeeded', result = coalesce(done.result, 'null'), error = NULL,
                    finished_at = now()
             FROM jsonb_to_recordset(%s) AS done (id uuid, attempt integer, result jsonb, seconds real)
             WHERE job.id = done.id AND job.id = ANY(%s) AND job.attempt = done.attempt AND job.state = 'running'
             RETURNING job.id, job.attempt, worker, started_at, done.seconds)
           INSERT INTO attempt (job, number, outcome, worker, version, seconds, started_at, finished_at)
           SELECT id, attempt, 'succeeded', worker, %s, seconds, started_at, now() FROM moved RETURNING job""",
        (Jsonb(done), [f.id for f in finished], VERSION),
    ).fetchall()
    return {row["job"] for row in rows}


def fence(connection: Statements, id: UUID, attempt: int) -> bool:
    """Whether the attempt still holds its job; until the transaction ends nobody can take it away."""
    row = connection.execute(
        "SELECT 1 FROM job WHERE id = %s AND attempt = %s AND state = 'running' FOR NO KEY UPDATE", (id, attempt)
    ).fetchone()
    return row is not None


def holds(connection: Statements, id: UUID, attempt: int) -> bool:
    """Whether the attempt holds its job at this moment; the next moment it may not."""
    row = connection.execute(
        "SELECT 1 FROM job WHERE id = %s AND attempt = %s AND state = 'running'", (id, attempt)
    ).fetchone()
    return row is not None


@dataclass(frozen=True)
class Next:
    """As what a job goes on, and after which batch: one that this very attempt owes."""

    args: JobArgs
    after: UUID | None = None


def continue_as(connection: Statements, done: Finished, next: Next) -> bool:
    """`running → queued`: this attempt has done its part, and the job goes on as another kind, due now or when the
    batch `next.after` has ended. Whether the attempt still held the job. Raises ValueError for a batch that is not
    the job's own: two that waited for each other would wait for ever.

    It stays the same job: its id, run, lane, deadline, place in a batch, schedule and unique key are kept. Tries and
    crashes are counted afresh.
    """
    args = next.args
    said = {"code": "attempt.continued", "detail": f"It went on as {args.kind}."}
    values = {
        "id": done.id,
        "attempt": done.attempt,
        "kind": args.kind,
        "queue": args.queue,
        "args": Jsonb(args.model_dump(mode="json")),
        "limit_key": args.limit_key(),
        "tries": args.retry.max_attempts,
        "after": next.after,
        "version": VERSION,
        "seconds": done.seconds,
        "said": Jsonb(said),
    }
    row = connection.execute(_CONTINUE, values).fetchone()
    if row is not None and next.after is not None and not row["awaits"]:
        raise ValueError(f"The batch {next.after} was not owed by this job, or another one goes on after it.")
    return row is not None


_CONTINUE = f"""
WITH old AS (SELECT id, attempt, worker, started_at FROM job
             WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running' FOR NO KEY UPDATE),
awaited AS (UPDATE batch SET opens = old.id FROM old
            WHERE batch.id = %(after)s::uuid AND cause_id = old.id AND opens IS NULL AND finished_at IS NULL
            RETURNING batch.id),
moved AS (
  UPDATE job SET state = 'queued', kind = %(kind)s, began_as = coalesce(began_as, kind), queue = %(queue)s,
         args = %(args)s, max_attempts = job.attempt + %(tries)s,
         limit_key = coalesce(%(limit_key)s, CASE WHEN starts_with(limit_key, '{ASKED}') THEN limit_key END),
         crashes = 0, worker = NULL, progress = NULL, error = NULL,
         not_before = CASE WHEN EXISTS (SELECT FROM awaited) THEN '{CLOSED}' ELSE now() END
  FROM old WHERE job.id = old.id AND job.id = %(id)s RETURNING job.id)
INSERT INTO attempt (job, number, outcome, worker, version, seconds, started_at, finished_at, error)
SELECT old.id, old.attempt, 'continued', old.worker, %(version)s, %(seconds)s::real, old.started_at, now(), %(said)s
FROM old JOIN moved USING (id) RETURNING EXISTS (SELECT FROM awaited) AS awaits"""  # noqa: S608  # a time of ours


def retry(connection: Statements, id: UUID, attempt: int, error: dict[str, Any], after: float) -> bool:
    """`running → queued`, due again in `after` seconds."""
    return _leave(connection, id, attempt, "queued", "retried", error, after)


def snooze(connection: Statements, id: UUID, attempt: int, error: dict[str, Any], after: float) -> bool:
    """`running → queued`, due again in `after` seconds; the try does not count."""
    return _leave(connection, id, attempt, "queued", "snoozed", error, after, granted=1)


def fail(connection: Statements, id: UUID, attempt: int, error: dict[str, Any], *, crashed: bool = False) -> bool:
    """`running → failed`, for good; `crashed`: its worker died with it."""
    return _leave(connection, id, attempt, "failed", "failed", error, 0, crashes=int(crashed))


def release(
    connection: Statements, id: UUID, attempt: int, error: dict[str, Any], after: float = 0.0, *, crashed: bool
) -> bool:
    """`running → queued`: its worker is gone (`crashed`), or does not run it any more."""
    return _leave(connection, id, attempt, "queued", "lost", error, after, crashes=int(crashed))


def _leave(
    connection: Statements,
    id: UUID,
    attempt: int,
    state: str,
    outcome: str,
    error: dict[str, Any],
    after: float,
    crashes: int = 0,
    granted: int = 0,
) -> bool:
    """Move a running attempt out, and keep its record. Whether it still held the job."""
    short = {key: value for key, value in error.items() if key != "traceback"}
    row = connection.execute(
        """WITH old AS (SELECT id, attempt, worker, started_at FROM job
                        WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running' FOR NO KEY UPDATE),
                moved AS (
             UPDATE job SET state = %(state)s, error = %(short)s, worker = NULL, crashes = crashes + %(crashes)s,
                    max_attempts = max_attempts + %(granted)s,
                    not_before = CASE WHEN %(state)s = 'queued' THEN now() + %(after)s ELSE not_before END,
                    finished_at = CASE WHEN %(state)s = 'queued' THEN NULL ELSE now() END
             FROM old WHERE job.id = old.id AND job.id = %(id)s RETURNING job.id)
           INSERT INTO attempt (job, number, outcome, worker, version, started_at, finished_at, error)
           SELECT old.id, old.attempt, %(outcome)s, old.worker, %(version)s, old.started_at, now(), %(error)s
           FROM old JOIN moved USING (id) RETURNING job""",
        {
            "id": id,
            "attempt": attempt,
            "state": state,
            "outcome": outcome,
            "short": Jsonb(short),
            "crashes": crashes,
            "granted": granted,
            "after": timedelta(seconds=after),
            "error": Jsonb(error),
            "version": VERSION,
        },
    ).fetchone()
    return row is not None


def abandoned(connection: Statements, limit: int = 500) -> list[Row]:
    """Running jobs whose worker's lease has run out, or whose worker nobody knows."""
    return connection.execute(
        """SELECT job.id, kind, attempt, crashes, max_attempts, workspace, run, args,
                  coalesce(worker.name, job.worker::text) AS worker, worker.ended_at IS NOT NULL AS ended
           FROM job LEFT JOIN worker ON worker.id = job.worker
           WHERE job.state = 'running' AND job.finished_at IS NULL
             AND coalesce(worker.lease_until, '-infinity') < now()
           LIMIT %s""",
        (limit,),
    ).fetchall()


def overdue(connection: Statements, limit: int = 500) -> list[Row]:
    """Jobs that have not ended and whose deadline has passed, and those that have not begun and were to by now: with
    their `state`, and the column of that time as `passed`."""
    return connection.execute(_OVERDUE, {"limit": limit}).fetchall()


_OVERDUE = """
(SELECT id, kind, state, attempt, crashes, max_attempts, workspace, run, args, 'deadline' AS passed FROM job
 WHERE finished_at IS NULL AND deadline < now() ORDER BY deadline LIMIT %(limit)s)
UNION ALL
(SELECT id, kind, state, attempt, crashes, max_attempts, workspace, run, args, 'start_by' FROM job
 WHERE finished_at IS NULL AND attempt = 0 AND start_by < now() AND (deadline IS NULL OR deadline >= now())
 ORDER BY start_by LIMIT %(limit)s)"""


def give_up(connection: Statements, id: UUID, attempt: int, error: dict[str, Any]) -> bool:
    """`queued → failed`: it will not be tried (again). Whether it waited still, with no attempt begun meanwhile."""
    row = connection.execute(
        """UPDATE job SET state = 'failed', error = %s, finished_at = now() WHERE id = %s AND state = 'queued'
             AND attempt = %s
           RETURNING id""",
        (Jsonb(error), id, attempt),
    ).fetchone()
    return row is not None


def report_progress(connection: Statements, id: UUID, attempt: int, progress: dict[str, Any]) -> bool:
    """Write progress. False when the attempt no longer holds its job."""
    row = connection.execute(
        "UPDATE job SET progress = %s WHERE id = %s AND attempt = %s AND state = 'running' RETURNING id",
        (Jsonb(progress), id, attempt),
    ).fetchone()
    return row is not None
