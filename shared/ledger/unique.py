"""Unique jobs: who asks for a job under a key gets the one that is there already, if the asker's scope takes it.

A key belongs to a workspace and a kind. Its row in `unique_key` points at the job that was owed under it last. Two that
ask at once wait for each other at that row; the state of that job then decides. Jobs without a key know nothing of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlmodel import Session

from shared import ids
from shared.db import Row, Statements, raw
from shared.ledger.enqueue import KEY_CHARACTERS, insert, job_row, origin
from shared.ledger.messages import JobArgs
from shared.ledger.retention import UNIQUE_DAYS

Scope = Literal["queued", "unfinished", "period"]
LONGEST_SECONDS = round(UNIQUE_DAYS * 24 * 3600)


def _printable(key: str) -> str:
    if not key.isprintable():
        raise ValueError("a key has printable characters only")
    return key


class Unique(BaseModel):
    """Under which key a job is the only one of its kind in the workspace, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS), AfterValidator(_printable)]
    scope: Scope = Field(
        "unfinished",
        description="`queued`: while the job waits, so that one which has begun makes room for the next; `unfinished`: "
        "until it has ended; `period`: for `period_seconds` from when it was owed, whatever becomes of it.",
    )
    period_seconds: Annotated[int, Field(ge=1, le=LONGEST_SECONDS)] | None = None

    @model_validator(mode="after")
    def _check_period(self) -> Self:
        if (self.scope == "period") != (self.period_seconds is not None):
            raise ValueError("period_seconds belongs to the scope 'period', which needs it")
        return self


@dataclass(frozen=True)
class Kept:
    """The job that a key stands for, and its run; `existing`: it was there already."""

    job: UUID
    run: UUID
    existing: bool


def enqueue_unique(
    session: Session,
    args: JobArgs,
    unique: Unique,
    *,
    not_before: datetime | None = None,
    start_by: datetime | None = None,
    deadline: datetime | None = None,
) -> Kept:
    """Owe a job unless its key stands for one; answers the one or the other. The existing one stays as it is, whatever
    its arguments are.

    One that waited (scope `queued`) begins after this transaction has committed: it sees what this one wrote.
    """
    because = origin(session)
    row = job_row(args, because, ids.draw(), not_before=not_before, start_by=start_by, deadline=deadline)
    [kept] = insert_unique(raw(session), [row], {row["id"]: unique})
    session.info["wake"] = session.info["owes"] = True
    return kept


def insert_unique(connection: Statements, rows: list[Row], wanted: Mapping[UUID, Unique]) -> list[Kept]:
    """Owe the jobs of `rows`; of those in `wanted`, by id, the ones whose key stands for none. Answers, in the order of
    the rows, which job each of them came to. A key that comes twice is the first one's. All are of one workspace."""
    mine = {row["id"]: Kept(row["id"], row["run"], existing=False) for row in rows}
    if wanted:
        mine |= _find(connection, [row for row in rows if row["id"] in wanted], wanted)
    insert(connection, [row for row in rows if not mine[row["id"]].existing])
    return [mine[row["id"]] for row in rows]


def _find(connection: Statements, rows: list[Row], wanted: Mapping[UUID, Unique]) -> dict[UUID, Kept]:
    """Which of the jobs are not to be owed, and what their keys stand for; the others have their keys then."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row["kind"], wanted[row["id"]].key), row)
    asked = [_asked(row, wanted[row["id"]]) for row in first.values()]
    held = connection.execute(_HOLD, {"asked": Jsonb(asked)}).fetchall()
    found = _standing(connection, held) if held else {}
    ended = {str(row["job"]) for row in held if row["job"] not in found}
    if free := [each for each in asked if each["job"] in ended]:
        keys = [each["key"] for each in free]
        connection.execute(_TAKE, {"asked": Jsonb(free), "workspace": rows[0]["workspace"], "keys": keys})
    for row in rows:
        before = first[row["kind"], wanted[row["id"]].key]
        if before is not row:
            found[row["id"]] = found.get(before["id"], Kept(before["id"], before["run"], existing=True))
    return found


def _standing(connection: Statements, held: list[Row]) -> dict[UUID, Kept]:
    """By the job that was asked for, the one that its key stands for."""
    connection.execute(_AWAIT, ([row["other"] for row in held if row["scope"] == "queued"],))
    others = [row["other"] for row in held]
    found = connection.execute(_STANDING, {"held": Jsonb([_plain(row) for row in held]), "others": others}).fetchall()
    return {row["job"]: Kept(row["other"], row["run"], existing=True) for row in found}


def _asked(row: Row, unique: Unique) -> dict[str, Any]:
    plain = {name: str(row[name]) for name in ("workspace", "kind")}
    period = unique.period_seconds
    return {**plain, "job": str(row["id"]), "key": unique.key, "scope": unique.scope, "period": period}


def _plain(row: Row) -> dict[str, Any]:
    return {**row, "job": str(row["job"]), "other": str(row["other"])}


_ASKED = """jsonb_to_recordset(%(asked)s) AS asked (
  workspace uuid, kind text, key text, job uuid, scope text, period double precision)"""

_HOLD = f"""
WITH asked AS MATERIALIZED (SELECT * FROM {_ASKED}),
held AS (
  INSERT INTO unique_key AS held (workspace, kind, key, job)
  SELECT workspace, kind, key, job FROM asked ORDER BY workspace, kind, key
  ON CONFLICT (workspace, kind, key) DO UPDATE SET key = excluded.key
  RETURNING kind, key, job, extract(epoch FROM clock_timestamp() - created_at)::float AS age)
SELECT asked.job, held.job AS other, asked.scope, asked.period, held.age
FROM held JOIN asked USING (kind, key) WHERE held.job <> asked.job"""  # noqa: S608  # our own words
"""Make or lock the rows of the keys, in one order for all; answers those that stand for another job. Nobody else asks
for these keys until the transaction ends."""

_AWAIT = "SELECT 1 FROM job WHERE id = ANY(%s) AND state = 'queued' ORDER BY id FOR SHARE"
"""Who is just being claimed, or called off, is seen to have been; who waits is not claimed before we commit."""

_STANDING = """
SELECT held.job, held.other, job.run FROM jsonb_to_recordset(%(held)s) AS held (
  job uuid, other uuid, scope text, period double precision, age double precision)
JOIN job ON job.id = held.other AND job.id = ANY(%(others)s)
WHERE CASE held.scope WHEN 'queued' THEN state = 'queued' AND began_as IS NULL
                      WHEN 'unfinished' THEN finished_at IS NULL ELSE held.age < held.period END"""
"""A statement of its own: it sees what was committed by those who held the rows before us. A job that waits to go on as
another kind has begun."""

_TAKE = f"""
UPDATE unique_key SET job = asked.job, created_at = clock_timestamp() FROM {_ASKED}
WHERE unique_key.workspace = %(workspace)s AND unique_key.key = ANY(%(keys)s)
  AND unique_key.kind = asked.kind AND unique_key.key = asked.key"""  # noqa: S608
