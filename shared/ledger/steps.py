"""How batches go on: the next step opens, the batch ends, or what is left of it is called off.

The leading Beat looks at the batches that have not ended, and does what how their jobs stand asks for. Nothing is
counted and nothing is remembered: whoever dies when, the next look finds the same. A step is decided about under a lock
on its batch's row, so that two who believe that they lead do it once.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb

from shared.db import Connection, Database, Row, is_locked, is_outage, raw
from shared.errors import NotFound
from shared.ledger.batch_schema import CLOSED
from shared.ledger.failures import LOCK_SECONDS
from shared.ledger.redrive import CHUNK_JOBS, WrongState, cancelling
from shared.ledger.tasks import Tasks
from shared.ledger.values import text_of

log = structlog.get_logger(__name__)

BATCHES_A_LOOK = 1_000
"""So many open batches are looked at at once; the next look goes on with the others."""
BATCHES_A_ROUND = 50
"""So many, and of about so many jobs together, go on in one round: it locks their rows, and dispatch waits for it."""
JOBS_A_ROUND = 10_000
IDLE_SECONDS = 1.0
"""Longest time between two looks."""
AGAIN_SECONDS = 0.02
"""Shortest time between two looks …"""
SHARE = 5
"""… and so many times as long as the last one took, however many batches are open."""
ROUND_SECONDS = 0.5
"""So long a round calls jobs off; the next one goes on."""
CANCEL_SECONDS = 20.0
"""So long a request does; the leading Beat goes on."""
PATIENCE_SECONDS = 5.0
"""A request waits so long for a batch that is just going on."""
MOST_NAMED = 10
"""So many jobs that did not succeed are named in a reason."""


class BatchEnded(WrongState):
    """There is nothing of it to call off."""

    code, title = "batch.wrong_state", "The batch's state does not allow it"


class Stepper:
    """Looks when it is time to; one query a look."""

    def __init__(self, database: Database, tasks: Tasks, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._tasks = tasks
        self._monotonic = monotonic
        self._after = UUID(int=0)
        self._look_at = self._again_at = 0.0

    def go_on(self, connection: Connection) -> int:
        """Do what the open batches ask for; answers how many of them went on."""
        began = self._monotonic()
        if began < min(self._look_at, self._again_at):
            self._look_at = self._again_at  # whoever asked may know of a job that ended
            return 0
        [found] = connection.execute(_LOOK, {"after": self._after, "most": BATCHES_A_LOOK, "few": BATCHES_A_ROUND})
        self._again_at = began + max(AGAIN_SECONDS, SHARE * (self._monotonic() - began))
        is_whole = found["looked"] < BATCHES_A_LOOK
        self._after = UUID(int=0) if is_whole else found["last"]
        moved = advance(connection, found["ended"]) if found["ended"] else 0
        moved += _end_unawaited(connection, found["unawaited"]) if found["unawaited"] else 0
        moved += self._call_off(connection, [*found["ending"], *found["unawaited"]])
        if moved:
            self._look_at = self._again_at = 0.0  # a step may have nothing left to do
        else:
            self._look_at = began + IDLE_SECONDS if is_whole and not found["ending"] else self._again_at
        return moved

    def _call_off(self, connection: Connection, ending: Iterable[UUID]) -> int:
        moved, end = 0, time.monotonic() + ROUND_SECONDS
        for id in ending:
            connection.execute("SELECT 1")  # it ends the connection of a leader that is silent for long
            try:
                moved += call_off(self._database, self._tasks, id, max(0.0, end - time.monotonic()))
            except Exception as error:
                if is_outage(error) and not is_locked(error):
                    raise
                log.warning("batch not called off", batch=str(id), reason=text_of(error)[:300])
        return moved

    @property
    def wait(self) -> float:
        """Seconds until the next look."""
        return max(0.0005, self._look_at - self._monotonic())


_LOOK = """
WITH open AS MATERIALIZED (
  SELECT id, state, step, first_job, last_job, opens FROM batch WHERE finished_at IS NULL AND id > %(after)s
  ORDER BY id LIMIT %(most)s)
SELECT (SELECT count(*) FROM open) AS looked, (SELECT id FROM open ORDER BY id DESC LIMIT 1) AS last,
       ARRAY(SELECT open.id FROM open LEFT JOIN LATERAL (
               SELECT id FROM job WHERE job.batch = open.id AND job.step = open.step AND finished_at IS NULL
                 AND job.id BETWEEN first_job AND last_job LIMIT 1) AS unfinished ON true
             WHERE state = 'running' AND unfinished.id IS NULL ORDER BY open.id LIMIT %(few)s) AS ended,
       ARRAY(SELECT open.id FROM open JOIN job ON job.id = opens
             WHERE open.state = 'running' AND job.finished_at IS NOT NULL LIMIT %(few)s) AS unawaited,
       ARRAY(SELECT id FROM open WHERE state = 'ending' ORDER BY id LIMIT %(few)s) AS ending"""
"""Batches whose open step has ended, those of which the job that was to go on after them has ended before, and those of
which jobs are to be called off. Lateral, with a limit: looked up one by one, however many jobs wait."""


# From step to step


def advance(connection: Connection, batches: list[UUID]) -> int:
    """Open the next step of those of `batches` whose open one has ended, or end them; answers how many that were.

    Batches and jobs move in one transaction: dying before its end leaves the step as it was, and it is found again.
    """
    with connection.transaction():
        found = connection.execute(_RUNNING, (batches,)).fetchall()
        few = list(_about(found, JOBS_A_ROUND))
        stands = connection.execute(_STANDS, {"ids": [row["id"] for row in few]}).fetchall()
        over = {row["id"]: row for row in stands if not row["unfinished"]}
        moves = [_move(row, over[row["id"]]) for row in few if row["id"] in over]
        for move in moves:
            connection.execute(_MOVE, move)
            if move["state"] == "running":
                connection.execute(_OPEN, move)
            elif move["state"] != "ending":
                connection.execute(_GO_ON, move)
    return len(moves)


def _about(rows: Iterable[Row], jobs: int) -> Iterable[Row]:
    """The first rows, with about so many jobs together; at least one."""
    for row in rows:
        yield row
        jobs -= row["jobs"]
        if jobs <= 0:
            return


def _move(batch: Row, stands: Row) -> Row:
    """Where a batch goes whose open step has ended. After the last one, how the jobs of all steps stand counts."""
    bad = stands["failed"] + stands["cancelled"]
    move = {**batch, "state": "succeeded", "reason": None}
    if batch["step"] < batch["steps"] and (not bad or batch["on_failure"] == "continue"):
        return move | {"step": batch["step"] + 1, "state": "running"}
    if not bad:
        return move
    facts = {name: stands[name] for name in ("failed", "cancelled", "of")} | {"jobs": list(map(str, stands["jobs"]))}
    did = f"{bad:,} of {stands['of']:,} jobs did not succeed"
    if batch["step"] < batch["steps"]:
        detail = f"Step {batch['step']} of {batch['steps']} ended and later ones are called off: {did}."
        return move | {"state": "ending", "reason": Jsonb({"code": "batch.stopped", "detail": detail, **facts})}
    return move | {
        "state": "failed",
        "reason": Jsonb({"code": "batch.failures", "detail": f"It ended: {did}.", **facts}),
    }


_RUNNING = """
SELECT id, step, steps, on_failure, jobs, first_job, last_job, opens FROM batch WHERE id = ANY(%s) AND state = 'running'
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""

_STANDS = f"""
SELECT batch.id, count(*) FILTER (WHERE job.step = batch.step AND job.finished_at IS NULL) AS unfinished,
       count(job.id) AS of, count(*) FILTER (WHERE job.state = 'failed') AS failed,
       count(*) FILTER (WHERE job.state = 'cancelled') AS cancelled,
       (array_agg(job.id ORDER BY job.id) FILTER (WHERE job.state IN ('failed', 'cancelled')))[:{MOST_NAMED}] AS jobs
FROM batch LEFT JOIN job ON job.batch = batch.id AND job.batch = ANY(%(ids)s) AND job.id BETWEEN first_job AND last_job
  AND job.step BETWEEN CASE WHEN batch.step = steps THEN 1 ELSE batch.step END AND batch.step
WHERE batch.id = ANY(%(ids)s) GROUP BY batch.id"""  # noqa: S608  # a number of ours
"""Asked under the lock: what was seen before it may have been driven again meanwhile."""

_MOVE = """
UPDATE batch SET step = %(step)s, state = %(state)s, reason = %(reason)s,
  finished_at = CASE WHEN %(state)s IN ('succeeded', 'failed') THEN clock_timestamp() END
WHERE id = %(id)s"""

_OPEN = f"""
UPDATE job SET not_before = greatest(clock_timestamp(), open_at)
WHERE batch = %(id)s AND step = %(step)s AND finished_at IS NULL AND id BETWEEN %(first_job)s AND %(last_job)s
  AND state = 'queued' AND not_before = '{CLOSED}'"""  # noqa: S608  # a time of ours

_GO_ON = f"""
UPDATE job SET not_before = clock_timestamp()
WHERE id = %(opens)s AND state = 'queued' AND not_before = '{CLOSED}'
  AND NOT EXISTS (SELECT FROM batch AS later WHERE later.opens = %(opens)s AND later.id > %(id)s)"""  # noqa: S608
"""The job that waits for the batch, and not for a later one of its own."""


# Calling off


def _end_unawaited(connection: Connection, batches: list[UUID]) -> int:
    """Of a job that was called off, or gave up, what it waited for is called off, too."""
    detail = "The job that was to go on after it has ended."
    return connection.execute(_END_UNAWAITED, (Jsonb({"code": "batch.cancelled", "detail": detail}), batches)).rowcount


_END_UNAWAITED = """
UPDATE batch SET state = 'ending', reason = %s FROM job
WHERE batch.id = ANY(%s) AND batch.state = 'running' AND job.id = batch.opens AND job.finished_at IS NOT NULL"""


def cancel_batch(database: Database, tasks: Tasks, workspace: UUID, id: UUID, by: str) -> None:
    """`running → ending → cancelled`: nothing of it opens from now on, and all its jobs that have not ended are called
    off, as single ones are. Raises NotFound, BatchEnded.

    Dying in between leaves it ending: the leading Beat goes on with what is left. So it does when an attempt that is
    being committed holds its job for long.
    """
    reason = {"code": "batch.cancelled", "detail": f"Cancelled by {by}."}
    with database.transaction(lock_seconds=PATIENCE_SECONDS) as session:
        statement = "SELECT state FROM batch WHERE id = %s AND workspace = %s FOR NO KEY UPDATE"
        row = raw(session).execute(statement, (id, workspace)).fetchone()
        if row is None:
            raise NotFound("There is no such batch.", id=str(id))
        state = row["state"]
        if state not in ("running", "ending"):
            raise BatchEnded(f"The batch is {state}: only running ones can be cancelled.", state=state)
        raw(session).execute(
            "UPDATE batch SET state = 'ending', reason = %s WHERE id = %s AND state = 'running'", (Jsonb(reason), id)
        )
        session.info["wake"] = True
    call_off(database, tasks, id, CANCEL_SECONDS)
    try:  # what is just being claimed must not begin after the answer
        call_off(database, tasks, id, PATIENCE_SECONDS, waits=True)
    except Exception as error:
        if not is_locked(error):
            raise


def call_off(database: Database, tasks: Tasks, id: UUID, seconds: float, *, waits: bool = False) -> bool:
    """Call off what is left of an ending batch, for about so long; whether anything of it moved.

    A transaction a chunk, which leaves out jobs that somebody holds now, or `waits` for them. The batch ends in a
    transaction of its own, once none of its jobs is unfinished.
    """
    moved, end = False, time.monotonic() + seconds
    left_now = _LEFT if waits else f"{_LEFT} SKIP LOCKED"
    while True:
        with database.transaction(lock_seconds=PATIENCE_SECONDS if waits else LOCK_SECONDS) as session:
            connection = raw(session)
            batch = connection.execute("SELECT * FROM batch WHERE id = %s AND state = 'ending'", (id,)).fetchone()
            left = connection.execute(left_now, (id, CHUNK_JOBS)).fetchall() if batch is not None else []
            if batch is not None and left:
                cancelling(tasks, batch["workspace"], "its batch", _told(batch)).make(
                    session, [row["id"] for row in left], 0
                )
        if not left:
            return _end(database, id) or moved
        moved = True
        if time.monotonic() > end:
            return moved


def _end(database: Database, id: UUID) -> bool:
    """Whether the ending batch has ended now: nothing of it was left."""
    with database.transaction() as session:
        ended = raw(session).execute(_END, (id,)).fetchone()
        if ended is not None and ended["opens"] is not None:
            raw(session).execute(_GO_ON, ended)
            session.info["wake"] = True
    return ended is not None


def _told(batch: Row) -> dict[str, Any]:
    """The reason of a job that goes with its batch."""
    name = f" {batch['name']}" if batch["name"] else ""
    reason = batch["reason"]
    detail = f"Called off with its batch{name}. {reason['detail']}"
    return {"code": reason["code"], "detail": detail, "batch": str(batch["id"])}


_LEFT = "SELECT id FROM job WHERE batch = %s AND finished_at IS NULL LIMIT %s FOR NO KEY UPDATE"

_END = """
UPDATE batch SET state = CASE reason ->> 'code' WHEN 'batch.cancelled' THEN 'cancelled' ELSE 'failed' END,
  finished_at = clock_timestamp()
WHERE id = %s AND state = 'ending'
  AND NOT EXISTS (SELECT FROM job WHERE job.batch = batch.id AND job.finished_at IS NULL)
RETURNING id, opens"""
