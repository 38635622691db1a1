"""Weekly partitions, made ahead of time, so that old weeks can be dropped whole (retention.py)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from shared import ids

PARTITIONED = {"job": "id", "attempt": "job", "event": "id", "intervention": "job", "slot": "id"}
"""Tables partitioned by week, and the time-ordered id that they are partitioned by."""
REMNANT = "_kept"
"""End of the name of a partition with what survived of its week (retention.py)."""
WEEKS_AHEAD = 4
_STORAGE = sql.SQL(
    "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1"
)


def week_of(at: datetime) -> datetime:
    """Monday 00:00 UTC of the week of `at`."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def name(table: str, week: datetime) -> str:
    """Of the partition that holds the week which begins then."""
    return f"{table}_{week:%Y%m%d}"


def start(text: str) -> datetime:
    """When the week begins whose partition's name ends with `text`."""
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)


def ensure(connection: psycopg.Connection[Any], now: datetime) -> None:
    """Make the partitions of this week and the next ones. Idempotent.

    Raises LockNotAvailable after a moment when a long reader (a backup) holds the default partition: to wait
    for it would make every other query wait behind us. What is enqueued meanwhile stays in the default one.
    """
    first = week_of(now) - timedelta(weeks=1)
    for week in (first + timedelta(weeks=n) for n in range(WEEKS_AHEAD + 2)):
        for table in PARTITIONED:
            partition = name(table, week)
            # The schema may be older than the code.
            if exists(connection, table) and not _is_held(connection, partition):
                _make_from_default(connection, table, partition, week)
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '1s'")
        connection.execute(_UNLEARN, (list(PARTITIONED),))


def _is_held(connection: psycopg.Connection[Any], partition: str) -> bool:
    """Whether the week has a partition: its own, or one of what survived of it, which takes in the whole week too."""
    return exists(connection, partition) or exists(connection, partition + REMNANT)


def exists(connection: psycopg.Connection[Any], table: str) -> bool:
    found = connection.cursor(row_factory=scalar_row).execute("SELECT to_regclass(%s)", (table,)).fetchone()
    return found is not None


def _make_from_default(connection: psycopg.Connection[Any], table: str, partition: str, week: datetime) -> None:
    """Rows may have come before their partition: Beat was away for weeks, or a clock was ahead."""
    default = sql.Identifier(f"{table}_default")
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '1s'")
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(default))
        if not _is_held(connection, partition):  # another leader may have been quicker
            rows = sql.SQL("DELETE FROM {default} WHERE {key} >= {low} AND {key} < {high} RETURNING *").format(
                default=default, **bounds(table, week)
            )
            make(connection, table, partition, week, rows)


def make(connection: psycopg.Connection[Any], table: str, partition: str, week: datetime, rows: sql.Composable) -> None:
    """Make a partition for the week, of the rows that the statement `rows` answers, in the caller's transaction."""
    words = {
        "table": sql.Identifier(table),
        "partition": sql.Identifier(partition),
        "rows": rows,
        "storage": _STORAGE,
        **bounds(table, week),
    }
    for statement in _MAKE:
        connection.execute(sql.SQL(statement).format(**words))


def bounds(table: str, week: datetime) -> dict[str, sql.Composable]:
    """The table's key, from where on the week's rows have it, and where those of the next week begin."""
    return {
        "key": sql.Identifier(PARTITIONED[table]),
        "low": sql.Literal(str(ids.floor(week))),
        "high": sql.Literal(str(ids.floor(week + timedelta(weeks=1)))),
    }


_UNLEARN = """
SELECT pg_clear_relation_stats(current_schema()::text, child.relname::text)
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent ON parent.oid = inhparent
WHERE child.reltuples = 0 AND child.relkind = 'r' AND parent.relname = ANY(%s)
  AND parent.relnamespace = current_schema()::regnamespace"""
"""Partitions that somebody had analyzed while they were empty count as never looked at again. To a planner that knows
of no row any index is as good as another, and plans are kept: in a week that begins so, the dispatcher's look at what
runs read a whole index, 28 ms with 100,000 rows in place of 0.1, until autovacuum came by."""

_MAKE = (
    "CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ({storage})",
    "WITH moved AS ({rows}) INSERT INTO {partition} SELECT * FROM moved",
    "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high})",
)
