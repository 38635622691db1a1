"""Finished work ages out: by the week where tables are partitioned, in small steps elsewhere.

A week is taken off its table and dropped afterwards, which takes no longer for millions of rows than for one. Jobs in
it that have not ended, or ended lately, survive: they move, with their attempts and interventions, to a partition of
their own for the same week, in the transaction that takes the week off.

What is forgotten must not come back as new. `horizon` says from where on the ledger remembers: intake takes nothing
in that is older, and a reader of the feed that asks for older events is told that it missed some.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from shared import ids
from shared.db import Connection
from shared.ledger import partitions
from shared.ledger.partitions import PARTITIONED, REMNANT

log = structlog.get_logger(__name__)

JOBS = ("job", *(table for table, key in PARTITIONED.items() if key == "job"))
"""`job`, and the tables that are partitioned by its id."""
MOST_SURVIVORS = 5_000
"""A week of which more jobs survive stays whole: to move them would hold everybody up."""
IDEMPOTENCY_DAYS = 7.0
UNIQUE_DAYS = 7.0
"""A key of a unique job is kept so long at least: the longest period that may be asked for."""
UNPUBLISHED = "position IS NULL OR position > coalesce((SELECT position FROM cursor WHERE name = 'published'), 0)"
JOB_IS_THERE = "EXISTS (SELECT FROM job WHERE job.id = {table}.job)"
JOB_IS_UNFINISHED = "EXISTS (SELECT FROM job WHERE job.id = {table}.job AND finished_at IS NULL)"
STEP_ROWS = 1_000


GONE = "_gone"
"""End of the name of a partition that was taken off."""
WEEKS_SECONDS = 3600.0
STEP_SECONDS = 0.5
"""Between two steps while there is more to delete: about 2,000 rows a second of each table."""


@dataclass(frozen=True)
class Aged:
    """A table of which rows are deleted when `column` (a time) is so many days ago, and `unless` does not hold."""

    table: str
    column: str
    days: float
    unless: str = "false"


@dataclass(frozen=True)
class Week:
    """One partition of a table: the week that begins at `start`, or what survived of it."""

    table: str
    start: datetime
    is_remnant: bool

    @property
    def name(self) -> str:
        return partitions.name(self.table, self.start) + (REMNANT if self.is_remnant else "")

    def of(self, table: str) -> "Week":
        return Week(table, self.start, self.is_remnant)

    @property
    def end(self) -> datetime:
        return self.start + timedelta(weeks=1)


# Weeks


def drop_weeks(connection: Connection, now: datetime, days: float, followed: Iterable[str] = ()) -> list[str]:
    """Drop the weeks that ended more than `days` before `now`; answers the partitions' names.

    `followed`: producers whose events become jobs here. No job is forgotten before their feeds have been read to the
    end lately: what has not been taken in by then never was.

    Raises LockNotAvailable after a moment when somebody reads for long (a backup); the next call goes on.
    """
    _drop_what_was_taken_off(connection)
    cutoff = now - timedelta(days=days)
    weeks = [week for table in PARTITIONED for week in _weeks(connection, table) if week.end <= cutoff]
    dropped = []
    for week in weeks:
        try:
            if week.table == "job":
                taken = _has_heard(connection, followed) and _take_off_jobs(connection, week, cutoff)
            elif week.table == "event":
                taken = _take_off_events(connection, week)
            else:
                taken = week.table == "slot" and _take_off_slots(connection, week)
        except psycopg.errors.UndefinedTable:  # another leader was quicker
            continue
        if taken:
            dropped.append(week.name)
            _drop_what_was_taken_off(connection)
    return dropped


def _weeks(connection: Connection, table: str) -> list[Week]:
    """Oldest first."""
    rows = connection.execute(
        """SELECT relname AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
           WHERE inhparent = to_regclass(%s) ORDER BY 1""",
        (table,),
    ).fetchall()
    found = (re.fullmatch(rf"{table}_(\d{{8}})({REMNANT})?", row["name"]) for row in rows)
    return [Week(table, partitions.start(each[1]), bool(each[2])) for each in found if each]


def _has_heard(connection: Connection, followed: Iterable[str]) -> bool:
    names = [f"feed:{producer}" for producer in followed]
    rows = connection.execute(
        "SELECT name FROM cursor WHERE name = ANY(%s) AND moved_at > now() - interval '1 day'", (names,)
    ).fetchall()
    if missing := sorted(set(names) - {row["name"] for row in rows}):
        log.warning("jobs are not dropped: feeds have not been read to the end lately", feeds=missing)
    return not missing


def _take_off_jobs(connection: Connection, week: Week, cutoff: datetime) -> bool:
    survivors = _survivors(connection, week, cutoff)
    if len(survivors) > MOST_SURVIVORS:
        log.warning("week not dropped: too many of its jobs have not ended", week=week.name)
        return False
    if week.is_remnant and survivors:
        return False
    with connection.transaction():
        _lock(connection, JOBS)
        # What moved since, by index: driven again (and perhaps ended by now), or enqueued late with an old id.
        survivors |= _ids(connection, _UNENDED, week)
        words = partitions.bounds("intervention", week.start) | {"cutoff": sql.Literal(cutoff)}
        survivors |= _ids(connection, _REDRIVEN, week, **words)
        for table in JOBS:
            _detach(connection, week.of(table), survivors)
        _remember(connection, "job", week, None)
    return True


def _survivors(connection: Connection, week: Week, cutoff: datetime) -> set[UUID]:
    """Jobs that have not ended, or not before `cutoff`, or whose batch has not, or the job that goes on after it: a
    look at the whole week, which locks nothing."""
    statement = sql.SQL(
        "SELECT id FROM {week} WHERE finished_at IS NULL OR finished_at >= {cutoff}"
        " OR batch IN (SELECT batch.id FROM batch LEFT JOIN job ON job.id = opens"
        " WHERE batch.finished_at IS NULL OR (opens IS NOT NULL AND job.finished_at IS NULL)) LIMIT {most}"
    )
    words = {"cutoff": sql.Literal(cutoff), "most": sql.Literal(MOST_SURVIVORS + 1)}
    return _ids(connection, statement, week, **words)


_UNENDED = sql.SQL(
    "SELECT id FROM {week} WHERE state = 'queued' AND finished_at IS NULL"
    " UNION ALL SELECT id FROM {week} WHERE state = 'running' AND finished_at IS NULL"
)
_REDRIVEN = sql.SQL(
    "SELECT id FROM {week} WHERE finished_at >= {cutoff} AND id IN"
    " (SELECT job FROM intervention WHERE {key} >= {low} AND {key} < {high} AND act = 'redriven')"
)


def _take_off_events(connection: Connection, week: Week) -> bool:
    """Events stay until they were given to the broker, however old they are."""
    waiting = sql.SQL("SELECT id FROM {week} WHERE {unpublished} LIMIT 1")
    if _ids(connection, waiting, week, unpublished=sql.SQL(UNPUBLISHED)):
        log.warning("week not dropped: events of it have not been published", week=week.name)
        return False
    with connection.transaction():
        _lock(connection, ("event",))
        row = connection.execute(
            sql.SQL("SELECT max(position) AS last FROM {}").format(sql.Identifier(week.name))
        ).fetchone()
        assert row is not None
        _detach(connection, week, set())
        _remember(connection, "event", week, row["last"])
    return True


def _take_off_slots(connection: Connection, week: Week) -> bool:
    """Slots stay while one of them waits: its schedule may be paused for longer than the retention."""
    with connection.transaction():
        _lock(connection, ("slot",))
        if _ids(connection, sql.SQL("SELECT id FROM {week} WHERE outcome = 'waiting' LIMIT 1"), week):
            log.warning("week not dropped: slots of it wait", week=week.name)
            return False
        _detach(connection, week, set())
    return True


def _lock(connection: Connection, tables: Sequence[str]) -> None:
    connection.execute("SET LOCAL lock_timeout = '1s'")
    for table in tables:
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))


def _detach(connection: Connection, week: Week, survivors: set[UUID]) -> None:
    """Take the partition off its table, which is locked; what belongs to the survivors stays, in another."""
    if not partitions.exists(connection, week.name):  # the table is younger than the week
        return
    words = {
        "table": sql.Identifier(week.table),
        "old": sql.Identifier(week.name),
        "gone": sql.Identifier(week.name + GONE),
    }
    connection.execute(sql.SQL("ALTER TABLE {table} DETACH PARTITION {old}").format(**words))
    connection.execute(sql.SQL("ALTER TABLE {old} RENAME TO {gone}").format(**words))
    if survivors:
        remnant = Week(week.table, week.start, is_remnant=True)
        rows = sql.SQL("SELECT * FROM {gone} WHERE {key} = ANY({ids})").format(
            **words, key=sql.Identifier(PARTITIONED[week.table]), ids=sql.Literal(sorted(survivors))
        )
        partitions.make(connection, week.table, remnant.name, week.start, rows)


def _drop_what_was_taken_off(connection: Connection) -> None:
    """Partitions that are nobody's any more: of this call, or of one that died before it came to it."""
    rows = connection.execute(
        """SELECT relname AS name FROM pg_class
           WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname ~ %s""",
        (rf"^({'|'.join(PARTITIONED)})_\d{{8}}({REMNANT})?{GONE}$",),
    ).fetchall()
    for row in rows:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(row["name"])))


def _remember(connection: Connection, table: str, week: Week, position: int | None) -> None:
    connection.execute(
        """INSERT INTO horizon (name, before, position) VALUES (%s, %s, coalesce(%s, 0))
           ON CONFLICT (name) DO UPDATE SET before = greatest(horizon.before, excluded.before),
                                            position = greatest(horizon.position, excluded.position)""",
        (table, ids.floor(week.end), position),
    )


def _ids(connection: Connection, statement: sql.SQL, week: Week, **words: sql.Composable) -> set[UUID]:
    query = statement.format(week=sql.Identifier(week.name), **words)
    return {row["id"] for row in connection.execute(query).fetchall()}


# Rows


def ledgers(days: float) -> list[Aged]:
    """The ledger's own tables that age by rows: those without partitions, and what strayed into default ones."""
    return [
        Aged("idempotency", "created_at", min(days, IDEMPOTENCY_DAYS)),
        Aged("unique_key", "created_at", UNIQUE_DAYS, unless=JOB_IS_UNFINISHED),
        Aged("effect", "created_at", days, unless=JOB_IS_THERE),
        Aged("batch", "finished_at", days, unless="EXISTS (SELECT FROM job WHERE job.batch = {table}.id)"),
        Aged("job_default", "finished_at", days),
        Aged("attempt_default", "finished_at", days, unless=JOB_IS_THERE),
        Aged("intervention_default", "at", days, unless=JOB_IS_THERE),
        Aged("event_default", "time", days, unless=UNPUBLISHED),
    ]


def delete_step(connection: Connection, now: datetime, aged: Aged, rows: int = STEP_ROWS) -> bool:
    """Delete the oldest rows of the table that have aged, a few; whether there may be more of them."""
    table, column = sql.Identifier(aged.table), sql.Identifier(aged.column)
    unless = sql.SQL(aged.unless).format(table=table)
    statement = sql.SQL(
        """DELETE FROM {table} WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM {table} WHERE {column} < %s AND NOT ({unless}) ORDER BY {column} LIMIT %s))"""
    ).format(table=table, column=column, unless=unless)
    return connection.execute(statement, (now - timedelta(days=aged.days), rows)).rowcount == rows


# Both


class Retention:
    """What the leading Beat does beside its rounds, on a connection of its own."""

    def __init__(
        self, days: float, followed: Iterable[str], more: Sequence[Aged], monotonic: Callable[[], float]
    ) -> None:
        self._days = days
        self._followed = tuple(followed)
        self._aged = [*ledgers(days), *more]
        self._monotonic = monotonic
        self._weeks_due = 0.0

    def round(self, connection: Connection, now: datetime) -> float:
        """Drop the weeks that are due, and delete a step of each table; answers the seconds to the next round."""
        if self._monotonic() >= self._weeks_due:
            self._weeks_due = self._monotonic() + WEEKS_SECONDS
            try:
                if dropped := drop_weeks(connection, now, self._days, self._followed):
                    log.info("weeks dropped", partitions=dropped)
            except psycopg.errors.LockNotAvailable:
                log.warning("weeks not dropped this time: somebody reads them")
        more = [aged.table for aged in self._aged if delete_step(connection, now, aged)]
        return STEP_SECONDS if more else WEEKS_SECONDS
