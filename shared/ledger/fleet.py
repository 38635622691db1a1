"""The installation as a whole: what each queue holds and how fast it moves, and which workers there are."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared import ids
from shared.db import Row, Statements
from shared.errors import Conflict, NotFound
from shared.ledger.messages import Lane

RATE_SECONDS = 60
"""Rates are of the last so many seconds."""
MOST_WORKERS = 500


class WorkerGone(Conflict):
    """It has stopped, or lost its lease: there is nothing to drain."""

    code, title = "worker.gone", "The worker is gone"


def list_queues(connection: Statements, known: Iterable[str]) -> list[Row]:
    """The `known` queues, and others that hold jobs, by name: what is due, what waits for later, what runs, in all and
    by lane; since when the oldest is due; jobs that came and tries that ended a second; workers and their slots."""
    queues = {name: _nothing(name) for name in known}
    for row in connection.execute(_WAITING).fetchall() + connection.execute(_RUNNING).fetchall():
        queue = queues.setdefault(row["queue"], _nothing(row["queue"]))
        lane = queue["lanes"].setdefault(_lane(row["priority"]), {"due": 0, "later": 0, "running": 0})
        for what in ("due", "later", "running"):
            queue[what] += row[what]
            lane[what] += row[what]
        if row["oldest"] is not None:
            queue["oldest_due_seconds"] = max(row["oldest"], queue["oldest_due_seconds"] or 0.0)
    since = ids.floor(datetime.now(UTC) - timedelta(seconds=RATE_SECONDS))
    for row in connection.execute(_CAME, (since,)).fetchall():
        queues.setdefault(row["queue"], _nothing(row["queue"]))["in_per_second"] = row["jobs"] / RATE_SECONDS
    for row in connection.execute(_WENT, (timedelta(seconds=RATE_SECONDS),)).fetchall():
        queues.setdefault(row["queue"], _nothing(row["queue"]))["out_per_second"] = row["jobs"] / RATE_SECONDS
    for row in connection.execute(_SERVED).fetchall():
        queues.setdefault(row["queue"], _nothing(row["queue"])).update(workers=row["workers"], slots=row["slots"])
    return sorted(queues.values(), key=lambda queue: str(queue["name"]))


def _nothing(name: str) -> dict[str, Any]:
    lanes = {lane.name.lower(): {"due": 0, "later": 0, "running": 0} for lane in Lane}
    counts = {"due": 0, "later": 0, "running": 0, "workers": 0, "slots": 0}
    return {
        "name": name,
        **counts,
        "oldest_due_seconds": None,
        "in_per_second": 0.0,
        "out_per_second": 0.0,
        "lanes": lanes,
    }


def _lane(priority: int) -> str:
    return Lane(priority).name.lower() if priority in list(Lane) else str(priority)


def list_workers(connection: Statements, *, ended: bool) -> list[Row]:
    """Workers by name, the newest first: those that are alive, and that vanished within the hour; with `ended`, also
    those that stopped in good order within a day."""
    where = "true" if ended else "ended_at IS NULL AND lease_until > now() - interval '1 hour'"
    return connection.execute(
        f"{_WORKERS} WHERE {where} ORDER BY name, started_at DESC LIMIT {MOST_WORKERS}"
    ).fetchall()


def drain(connection: Statements, id: UUID, by: str) -> Row:
    """The worker gets no further jobs from now on; it hears so when it next renews its lease, ends what it runs, and
    stops. Again, nothing changes. Raises NotFound, and WorkerGone."""
    moved = connection.execute(
        """UPDATE worker SET draining_at = coalesce(draining_at, now()), drained_by = coalesce(drained_by, %s)
           WHERE id = %s AND ended_at IS NULL AND lease_until > now()""",
        (by, id),
    ).rowcount
    row = connection.execute(f"{_WORKERS} WHERE id = %s", (id,)).fetchone()
    if row is None:
        raise NotFound("There is no such worker.", id=str(id))
    if not moved:
        raise WorkerGone(f"The worker is {row['state']}.", id=str(id), state=row["state"])
    return row


_WORKERS = """
SELECT id, name, version, started_at, renewed_at, lease_until, ended_at, draining_at, drained_by, queues, pool, slots,
       (busy / nullif(slots, 0))::float AS utilisation,
       CASE WHEN ended_at IS NOT NULL THEN 'ended' WHEN lease_until <= now() THEN 'lost'
            WHEN draining_at IS NOT NULL THEN 'draining' ELSE 'alive' END AS state,
       (SELECT count(*) FROM job
        WHERE job.worker = worker.id AND job.state = 'running' AND job.finished_at IS NULL) AS running
FROM worker"""

_WAITING = """
SELECT queue, priority, count(*) FILTER (WHERE not_before <= now()) AS due,
       count(*) FILTER (WHERE not_before > now()) AS later, 0 AS running,
       (extract(epoch FROM now() - min(not_before) FILTER (WHERE not_before <= now())))::float AS oldest
FROM job WHERE state = 'queued' AND finished_at IS NULL GROUP BY queue, priority"""

_RUNNING = """
SELECT queue, priority, 0 AS due, 0 AS later, count(*) AS running, NULL::float AS oldest
FROM job WHERE state = 'running' AND finished_at IS NULL GROUP BY queue, priority"""

_CAME = "SELECT queue, count(*) AS jobs FROM job WHERE id > %s GROUP BY queue"

# Lateral, with a limit: looked up one by one, never by reading all jobs.
_WENT = """
SELECT queue, count(*) AS jobs
FROM attempt CROSS JOIN LATERAL (SELECT queue FROM job WHERE job.id = attempt.job LIMIT 1) AS its
WHERE attempt.finished_at > now() - %s::interval GROUP BY queue"""

_SERVED = """
SELECT queue, count(*) AS workers, coalesce(sum(slots), 0) AS slots FROM worker CROSS JOIN unnest(queues) AS queue
WHERE ended_at IS NULL AND lease_until > now() AND draining_at IS NULL GROUP BY queue"""
