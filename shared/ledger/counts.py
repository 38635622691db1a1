"""How many jobs there were over time, how they stand, how long they waited and took."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from shared import ids
from shared.db import Row, Statements
from shared.errors import Unprocessable

Bucket = Literal["minute", "hour", "day"]
LENGTHS: dict[str, timedelta] = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
USUAL_BUCKETS = 24
MOST_BUCKETS = 500
MOST_JOBS = 100_000
"""The newest so many are looked at: half a second's work for PostgreSQL."""


def count(
    connection: Statements,
    workspace: UUID,
    bucket: Bucket,
    since: datetime | None,
    until: datetime | None,
    *,
    kind: str | None = None,
) -> dict[str, Any]:
    """The workspace's jobs that were created in [since, until), by kind: in buckets (of UTC), and over all of it.

    Answers `since` (the first bucket's beginning), `until`, `is_complete` (whether all were looked at; if not, `since`
    is where those begin), `buckets` and `kinds`. Raises Unprocessable for a range that is empty or has more than
    MOST_BUCKETS.
    """
    length = LENGTHS[bucket]
    until = until or datetime.now(UTC)
    since = _begin(since or until - (USUAL_BUCKETS - 1) * length, length)
    if since >= until:
        raise Unprocessable("The range is empty: it ends before it begins.")
    if until - since > MOST_BUCKETS * length:
        raise Unprocessable(f"The range has more than {MOST_BUCKETS} buckets: take longer ones, or a shorter range.")
    values = {"workspace": workspace, "low": ids.floor(since), "high": ids.floor(until), "most": MOST_JOBS}
    before = connection.execute(_BEFORE, values).fetchone()
    if before is not None:
        values["low"], since = before["id"], ids.time_of(before["id"])
    rows = connection.execute(_COUNT, {**values, "length": length, "kind": kind}).fetchall()
    return {
        "since": since,
        "until": until,
        "is_complete": before is None,
        "buckets": [_told(row) for row in rows if row["start"] is not None],
        "kinds": [_told(row) for row in rows if row["start"] is None],
    }


def _begin(at: datetime, length: timedelta) -> datetime:
    return at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % length


def _told(row: Row) -> dict[str, Any]:
    states = {state: row[state] for state in STATES if row[state]}
    times = {name: _spread(row[name], row[f"{name}_max"]) for name in ("wait", "took")}
    return {"start": row["start"], "kind": row["kind"], "jobs": row["jobs"], "states": states, **times}


def _spread(middle: list[float | None] | None, most: float | None) -> dict[str, float | None] | None:
    """Seconds; None when no job has come so far."""
    return None if middle is None or most is None else {"p50": middle[0], "p95": middle[1], "max": most}


_BEFORE = """
SELECT id FROM job WHERE workspace = %(workspace)s AND id > %(low)s AND id < %(high)s
ORDER BY id DESC OFFSET %(most)s LIMIT 1"""
"""The newest of those that are too many."""

_AT = "to_timestamp(('x' || left(replace(job.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
"""When a job came about: what its id begins with, and so what ranges of it are bounded by."""

_COUNT = f"""
WITH told AS (
  SELECT date_bin(%(length)s, {_AT}, 'epoch') AS start, job.kind, job.state,
         extract(epoch FROM coalesce(first.started_at, job.started_at) - job.created_at)::float AS waited,
         extract(epoch FROM job.finished_at - job.started_at)::float AS worked
  FROM job LEFT JOIN attempt AS first ON first.job = job.id AND first.job > %(low)s AND first.job < %(high)s
    AND first.number = 1 AND (job.attempt > 1 OR job.started_at IS NULL)
  WHERE job.workspace = %(workspace)s AND job.id > %(low)s AND job.id < %(high)s
    AND (%(kind)s::text IS NULL OR job.kind = %(kind)s))
SELECT start, kind, count(*) AS jobs,
       {", ".join(f"count(*) FILTER (WHERE state = '{state}') AS {state}" for state in STATES)},
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY waited) AS wait, max(waited) AS wait_max,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY worked) AS took, max(worked) AS took_max
FROM told GROUP BY GROUPING SETS ((start, kind), (kind)) ORDER BY start, kind"""  # noqa: S608  # our own words
