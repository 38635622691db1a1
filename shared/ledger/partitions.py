"""Weekly partitions: made ahead of time, and dropped whole when their week has aged out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from shared import ids

PARTITIONED = ("job", "attempt", "event")
"""Tables partitioned by week; their first key column is a time-ordered id."""
WEEKS_AHEAD = 4
_STORAGE = sql.SQL(
    "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1"
)


def week_of(at: datetime) -> datetime:
    """Monday 00:00 UTC of the week of `at`."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


def ensure(connection: psycopg.Connection[Any], now: datetime) -> None:
    """Make the partitions of this week and the next ones. Idempotent."""
    first = week_of(now) - timedelta(weeks=1)
    for week in (first + timedelta(weeks=n) for n in range(WEEKS_AHEAD + 2)):
        for table in PARTITIONED:
            connection.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({}) WITH ({})").format(
                    sql.Identifier(f"{table}_{week:%Y%m%d}"),
                    sql.Identifier(table),
                    sql.Literal(str(ids.floor(week))),
                    sql.Literal(str(ids.floor(week + timedelta(weeks=1)))),
                    _STORAGE,
                )
            )
