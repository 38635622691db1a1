"""What people do to jobs: a dead letter is driven again, work is called off, what waits is put into another lane; one
job, or all that a filter matches.

A redriven job stays the same job: its run, its history and its attempt numbers go on, so that an attempt of its
former life that thaws is still refused; its tries and crashes are counted afresh. What it was, who moved it and when
is kept in `intervention`.

A cancelled job never starts, and nothing that its running attempt does commits from then on: the attempt is told at
its next checkpoint (LeaseLost). Its process goes on until then, or until its worker stops it (leases.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb
from sqlmodel import Session

from shared.db import Database, Row, Statements, is_outage, raw
from shared.errors import Conflict, NotFound, Unprocessable
from shared.ledger import failures
from shared.ledger.batch_schema import CLOSED
from shared.ledger.execute import KindUnknown
from shared.ledger.failures import Held, HookFailed
from shared.ledger.filters import JobFilter
from shared.ledger.limits_schema import ASKED
from shared.ledger.messages import JobArgs, Lane, Retry
from shared.ledger.requests import KindPrivate, check
from shared.ledger.tasks import Task, Tasks
from shared.version import VERSION

log = structlog.get_logger(__name__)

MOST_JOBS = 10_000
"""Moved by one request; the next one goes on."""
CHUNK_JOBS = 200
"""Moved by one transaction: it holds their rows until the hooks of all of them have run."""
LOCK_SECONDS = 5
REDRIVABLE, CANCELLABLE, WAITING = ("failed", "cancelled"), ("queued", "running"), ("queued",)


class WrongState(Conflict):
    """The job is where the move does not begin."""

    code, title = "job.wrong_state", "The job's state does not allow it"


@dataclass(frozen=True)
class Move:
    """One of the moves: from which states (also in words that the indexes of such jobs know), and what it does to
    the jobs of `ids` in a transaction."""

    name: str
    states: tuple[str, ...]
    where: str
    make: Callable[[Session, list[UUID], int], list[Row]]
    spared: tuple[str, ...] = ()
    """Kinds that no filter matches."""
    lane: Lane | None = None
    """Where jobs are put; those that are there already are not moved."""


@dataclass
class Moved:
    """What became of a request to move many: `runs` they belong to, and whether `more` of them match."""

    jobs: int = 0
    more: bool = False
    runs: set[UUID] = field(default_factory=set)


# One job


def redrive_one(
    database: Database, tasks: Tasks, workspace: UUID, id: UUID, by: str, args: dict[str, Any] | None = None
) -> None:
    """`failed | cancelled → queued`, due now, with other arguments if they are given.

    Raises NotFound, WrongState; with arguments KindUnknown, KindPrivate and ArgumentsInvalid: those of a private
    kind name rows that the service trusts to be the workspace's own.
    """
    edited = None if args is None else _edited(database, tasks, workspace, id, args)
    _one(database, workspace, id, redriving(tasks, workspace, by, args=edited))


def _edited(database: Database, tasks: Tasks, workspace: UUID, id: UUID, args: dict[str, Any]) -> JobArgs:
    with database.transaction() as session:
        kind = _find(raw(session), workspace, id)["kind"]
    task = tasks.by_kind.get(kind)
    if task is None:
        raise KindUnknown(f"No code here runs jobs of kind {kind}.", kind=kind)
    if not task.args.public:
        raise KindPrivate(f"Arguments of {kind} are the service's own: it can be retried as it was.", kind=kind)
    return check(task.args, args)


def cancel_one(database: Database, tasks: Tasks, workspace: UUID, id: UUID, by: str) -> None:
    """`queued | running → cancelled`. Raises NotFound, WrongState."""
    _one(database, workspace, id, cancelling(tasks, workspace, by))


def prioritise_one(database: Database, workspace: UUID, id: UUID, by: str, lane: Lane) -> None:
    """Put a queued job into the lane, if it is not there. Raises NotFound, WrongState."""
    _one(database, workspace, id, prioritising(workspace, by, lane))


def _one(database: Database, workspace: UUID, id: UUID, move: Move) -> None:
    with _patient(database) as session:
        if not move.make(session, [id], 0):
            job = _find(raw(session), workspace, id)
            state = job["state"]
            if state in move.states and job["priority"] == move.lane:
                return
            wanted = " and ".join(move.states)
            raise WrongState(f"The job is {state}: only {wanted} jobs can be {move.name}.", state=state)


def _find(connection: Statements, workspace: UUID, id: UUID) -> Row:
    row = connection.execute(
        "SELECT kind, state, priority FROM job WHERE id = %s AND workspace = %s", (id, workspace)
    ).fetchone()
    if row is None:
        raise NotFound("There is no such job.", id=str(id))
    return row


# All that a filter matches


def count(connection: Statements, workspace: UUID, wanted: JobFilter, move: Move) -> dict[str, int]:
    """How many jobs the move would move, by kind. Raises Unprocessable."""
    where, values = _where(workspace, wanted, move)
    rows = connection.execute(
        f"SELECT kind, count(*) AS jobs FROM job WHERE {where} GROUP BY kind ORDER BY kind",  # noqa: S608  # see filters
        values,
    ).fetchall()
    return {row["kind"]: row["jobs"] for row in rows}


def first_due(connection: Statements, not_before: datetime | None) -> datetime:
    """When redriven jobs begin to be due: by the database's clock, not earlier than now."""
    row = connection.execute("SELECT greatest(now(), %s::timestamptz) AS first", (not_before,)).fetchone()
    assert row is not None
    first: datetime = row["first"]
    return first


def move_all(database: Database, workspace: UUID, wanted: JobFilter, move: Move, limit: int = MOST_JOBS) -> Moved:
    """Move what matches, oldest first, at most `limit`. Raises Unprocessable.

    A transaction a chunk: dying in between leaves the rest as it was, and the same request goes on with it.
    """
    where, values = _where(workspace, wanted, move)
    moved = Moved()
    last = UUID(int=0)
    while True:
        chunk = min(CHUNK_JOBS, limit - moved.jobs)
        with _patient(database) as session:
            found = raw(session).execute(
                f"SELECT id FROM job WHERE {where} AND id > %s ORDER BY id LIMIT %s",  # noqa: S608  # see filters
                (*values, last, chunk + 1),
            )
            ids = [row["id"] for row in found.fetchall()]
            rows = move.make(session, ids[:chunk], moved.jobs) if chunk else []
        moved.jobs += len(rows)
        moved.runs |= {row["run"] for row in rows}
        moved.more = len(ids) > chunk
        if not moved.more or not chunk:
            return moved
        last = ids[chunk - 1]


def _where(workspace: UUID, wanted: JobFilter, move: Move) -> tuple[str, list[Any]]:
    if wanted.state is not None and wanted.state not in move.states:
        raise Unprocessable(f"Only {' and '.join(move.states)} jobs can be {move.name}, not {wanted.state} ones.")
    where, values = wanted.where(workspace)
    where, values = f"{where} AND {move.where} AND kind <> ALL(%s)", [*values, list(move.spared)]
    return (where, values) if move.lane is None else (f"{where} AND priority <> %s", [*values, int(move.lane)])


# The moves


def redriving(
    tasks: Tasks,
    workspace: UUID,
    by: str,
    *,
    args: JobArgs | None = None,
    first: datetime | None = None,
    per_second: float | None = None,
) -> Move:
    """Drive jobs again, at once or from `first` on, `per_second` of them becoming due each second."""
    tries = {kind: task.args.retry.max_attempts for kind, task in tasks.by_kind.items()}
    apart = timedelta(seconds=1 / per_second) if per_second else timedelta(0)

    def make(session: Session, ids: list[UUID], before: int) -> list[Row]:
        values = {
            "ids": ids,
            "workspace": workspace,
            "by": by,
            "tries": Jsonb(tries),
            "default": Retry().max_attempts,
            "args": None if args is None else Jsonb(args.model_dump(mode="json")),
            "kind": None if args is None else args.kind,
            "limit_key": None if args is None else args.limit_key(),
            "first": first,
            "apart": apart,
            "before": before,
        }
        rows = raw(session).execute(_REDRIVE, values).fetchall()
        session.info["wake"] = True
        for job, task in _heard(tasks, rows):
            if task.on_redriven is not None:
                with _hook(session, job):
                    task.on_redriven(session, task.args.model_validate(job.args))
        return rows

    return Move("redriven", REDRIVABLE, "state IN ('failed', 'cancelled')", make)


def cancelling(tasks: Tasks, workspace: UUID, by: str, reason: dict[str, Any] | None = None) -> Move:
    """Call jobs off. To the service a cancelled job is one that failed, with the code `job.cancelled`, or another
    `reason`."""
    reason = reason or {"code": "job.cancelled", "detail": f"Cancelled by {by}."}

    def make(session: Session, ids: list[UUID], before: int) -> list[Row]:
        values = {"ids": ids, "workspace": workspace, "by": by, "error": Jsonb(reason), "version": VERSION}
        rows = raw(session).execute(_CANCEL, values).fetchall()
        session.info["wake"] = True  # one may have been the last of its step
        for job, task in _heard(tasks, rows):
            if task.on_failed is not None:
                with _hook(session, job):
                    failures.call_hook(session, task, job, reason)
        return rows

    return Move("cancelled", CANCELLABLE, "finished_at IS NULL AND (state = 'queued' OR state = 'running')", make)


def prioritising(workspace: UUID, by: str, lane: Lane) -> Move:
    """Put queued jobs into the lane. What the broker has of them already goes in its order there."""

    def make(session: Session, ids: list[UUID], before: int) -> list[Row]:
        values = {"ids": ids, "workspace": workspace, "by": by, "lane": int(lane)}
        session.info["wake"] = True
        return raw(session).execute(_PRIORITISE, values).fetchall()

    return Move("prioritised", WAITING, "finished_at IS NULL AND state = 'queued'", make, lane=lane)


_REDRIVE = f"""
WITH was AS (
  SELECT id, state, attempt, error, args, batch, step FROM job
  WHERE id = ANY(%(ids)s) AND workspace = %(workspace)s AND state IN ('failed', 'cancelled')
    AND (%(kind)s::text IS NULL OR kind = %(kind)s)  -- edited arguments are of the kind that was looked at
  ORDER BY id FOR NO KEY UPDATE),
-- What a batch has still to come to waits for it again. The lock: its step is not opened, nor ended, meanwhile.
open AS (SELECT id, step FROM batch WHERE id IN (SELECT batch FROM was) AND finished_at IS NULL FOR SHARE),
placed AS (
  SELECT was.*, %(before)s + row_number() OVER (ORDER BY was.id) - 1 AS place, was.step > open.step AS waits
  FROM was LEFT JOIN open ON open.id = was.batch),
moved AS (
  UPDATE job SET state = 'queued', crashes = 0, worker = NULL, progress = NULL, result = NULL, error = NULL,
         started_at = NULL, finished_at = NULL, args = coalesce(%(args)s, job.args),
         limit_key = CASE WHEN %(args)s::jsonb IS NULL OR starts_with(job.limit_key, '{ASKED}') THEN job.limit_key
                          ELSE %(limit_key)s END,
         max_attempts = job.attempt + coalesce((%(tries)s::jsonb ->> kind)::integer, %(default)s),
         not_before = CASE WHEN placed.waits THEN '{CLOSED}'
                           ELSE coalesce(%(first)s::timestamptz, now()) + placed.place * %(apart)s END,
         start_by = CASE WHEN start_by > now() THEN start_by END,
         deadline = CASE WHEN deadline > now() THEN deadline END
  FROM placed WHERE job.id = placed.id AND job.id = ANY(%(ids)s)
  RETURNING job.id, kind, job.attempt, crashes, max_attempts, workspace, run, job.args),
kept AS (
  INSERT INTO intervention (job, act, by, state, attempt, error, args)
  SELECT id, 'redriven', %(by)s, state, attempt, error, CASE WHEN %(args)s::jsonb IS NOT NULL THEN args END FROM was)
SELECT * FROM moved ORDER BY id"""  # noqa: S608  # a time and a word of ours

_CANCEL = """
WITH was AS (
  SELECT id, state, attempt, error, worker, started_at FROM job
  WHERE id = ANY(%(ids)s) AND workspace = %(workspace)s AND state IN ('queued', 'running')
  ORDER BY id FOR NO KEY UPDATE),
moved AS (
  UPDATE job SET state = 'cancelled', error = %(error)s, worker = NULL, finished_at = now()
  FROM was WHERE job.id = was.id AND job.id = ANY(%(ids)s)
  RETURNING job.id, kind, job.attempt, crashes, max_attempts, workspace, run, args),
ended AS (
  INSERT INTO attempt (job, number, outcome, worker, version, started_at, finished_at, error)
  SELECT id, attempt, 'cancelled', worker,
         coalesce((SELECT version FROM worker WHERE worker.id = was.worker), %(version)s), started_at, now(), %(error)s
  FROM was WHERE state = 'running'),
kept AS (
  INSERT INTO intervention (job, act, by, state, attempt, error)
  SELECT id, 'cancelled', %(by)s, state, attempt, error FROM was)
SELECT * FROM moved ORDER BY id"""

_PRIORITISE = """
WITH was AS (
  SELECT id, state, attempt, error, priority FROM job
  WHERE id = ANY(%(ids)s) AND workspace = %(workspace)s AND state = 'queued' AND priority <> %(lane)s
  ORDER BY id FOR NO KEY UPDATE),
moved AS (
  UPDATE job SET priority = %(lane)s FROM was WHERE job.id = was.id AND job.id = ANY(%(ids)s)
  RETURNING job.id, kind, run),
kept AS (
  INSERT INTO intervention (job, act, by, state, attempt, error, priority)
  SELECT id, 'prioritised', %(by)s, state, attempt, error, priority FROM was)
SELECT * FROM moved ORDER BY id"""


@contextmanager
def _patient(database: Database) -> Iterator[Session]:
    """A transaction that waits a moment for a row whose attempt is just being committed, and no longer."""
    with database.transaction() as session:
        raw(session).execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS}s",))
        yield session


def _heard(tasks: Tasks, rows: list[Row]) -> Iterator[tuple[Held, Task]]:
    """The moved jobs whose kind is known here."""
    for row in rows:
        if row["kind"] in tasks.by_kind:
            yield Held(**row), tasks.by_kind[row["kind"]]


@contextmanager
def _hook(session: Session, job: Held) -> Iterator[None]:
    """What a move means to the service, in the same transaction. A hook that fails is left out, and said: the job has
    moved nevertheless."""
    session.info["origin"] = job.origin
    try:
        with session.begin_nested():
            session.connection()  # the savepoint is set now, whichever way the hook writes
            yield
    except Exception as error:
        if is_outage(error):
            raise
        cause = error.__cause__ if isinstance(error, HookFailed) else error
        said = failures.describe(cause or error)["detail"]
        log.error("hook failed", job=str(job.id), kind=job.kind, reason=said)
        raw(session).execute(
            "UPDATE job SET error = coalesce(error, '{}') || %s WHERE id = %s", (Jsonb({"hook": said}), job.id)
        )
