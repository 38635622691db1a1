"""Owing work and stating facts, in the caller's transaction: rolled back means never happened."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlmodel import Session

from shared import ids, telemetry
from shared.contracts.envelope import Envelope, Event
from shared.db import Statements, raw
from shared.errors import BadRequest, KeyReused
from shared.ledger.messages import EventArgs, JobArgs

Cause = Literal["request", "event", "schedule", "job"]

KEY_CHARACTERS = 255
"""Longest Idempotency-Key."""


@dataclass(frozen=True)
class Origin:
    """Why work is enqueued, and for whom: every job and event made in a transaction carries it."""

    workspace: UUID
    run: UUID
    cause: Cause
    cause_id: UUID

    @classmethod
    def request(cls, workspace: UUID) -> "Origin":
        """A new run, begun by a request."""
        run = ids.draw()
        return cls(workspace, run, "request", run)


def origin(session: Session) -> Origin:
    """The origin that the transaction was begun with: `database.transaction(origin=…)`."""
    found: Origin = session.info["origin"]
    return found


_INSERT = """
INSERT INTO job (id, kind, queue, priority, args, workspace, run, cause, cause_id, max_attempts, not_before, start_by,
                 deadline, traceparent, limit_key, batch, step, open_at, created_at)
SELECT id, kind, queue, priority, args, workspace, run, cause, cause_id, max_attempts,
       coalesce(not_before, clock_timestamp()), start_by, deadline, traceparent, limit_key, batch, step, open_at,
       clock_timestamp()
FROM jsonb_to_recordset(%s) AS owed (
  id uuid, kind text, queue text, priority smallint, args jsonb, workspace uuid, run uuid, cause text, cause_id uuid,
  max_attempts integer, not_before timestamptz, start_by timestamptz, deadline timestamptz, traceparent text,
  limit_key text, batch uuid, step smallint, open_at timestamptz)
ON CONFLICT (id) DO NOTHING"""
"""Due by the database's clock: one that is ahead elsewhere keeps no work waiting. One document is cheaper than
arrays or a statement a row, for one row as for ten thousand (docs/decisions/0009)."""


def enqueue(
    session: Session,
    args: JobArgs,
    *,
    id: UUID | None = None,
    not_before: datetime | None = None,
    start_by: datetime | None = None,
    deadline: datetime | None = None,
) -> UUID:
    """Owe a job; answers its id. With an `id` that the ledger already has, nothing is added: done once."""
    job = id or ids.draw()
    row = job_row(args, origin(session), job, not_before=not_before, start_by=start_by, deadline=deadline)
    insert(raw(session), [row])
    session.info["wake"] = session.info["owes"] = True
    return job


def enqueue_many(session: Session, many: Iterable[JobArgs]) -> list[UUID]:
    """Owe many jobs in one go; answers their ids in the order of the arguments."""
    because = origin(session)
    rows = [job_row(args, because, ids.draw()) for args in many]
    insert(raw(session), rows)
    session.info["wake"] = session.info["owes"] = True
    return [row["id"] for row in rows]


def insert(connection: Statements, rows: list[dict[str, Any]]) -> None:
    """Owe the jobs of `rows`, as `job_row` makes them; those whose id the ledger has are left out."""
    if rows:
        connection.execute(_INSERT, (Jsonb(rows, dumps=_dumps),))


_dumps = partial(json.dumps, default=str)
"""Ids and times as PostgreSQL reads them."""


def job_row(
    args: JobArgs,
    because: Origin,
    id: UUID,
    *,
    not_before: datetime | None = None,
    start_by: datetime | None = None,
    deadline: datetime | None = None,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """The row of a job that is owed, below the given span or the current one."""
    return {
        "id": id,
        "kind": args.kind,
        "queue": args.queue,
        "priority": int(args.lane),
        "args": args.model_dump(mode="json"),
        "workspace": because.workspace,
        "run": because.run,
        "cause": because.cause,
        "cause_id": because.cause_id,
        "max_attempts": args.retry.max_attempts,
        "not_before": not_before,
        "start_by": start_by,
        "deadline": deadline,
        "traceparent": traceparent or telemetry.traceparent(),
        "limit_key": args.limit_key(),
    }


def job_of(event: Envelope, kind: type[EventArgs]) -> UUID:
    """The id of the job that an event causes: derived, so receiving twice makes it once."""
    return ids.derive(event.id, kind.kind)


def event_job(args: EventArgs, traceparent: str | None) -> dict[str, Any]:
    """The row of the job that an event causes."""
    envelope = args.envelope
    because = Origin(envelope.workspace, envelope.runid, "event", envelope.id)
    return job_row(args, because, job_of(envelope, type(args)), traceparent=traceparent or envelope.traceparent)


def publish(session: Session, event: Event, *, subject: UUID) -> UUID:
    """State a fact: an event row, given to the broker and the feed after the commit. Answers its id."""
    row = event_row(event, subject, origin(session))
    insert_events(raw(session), [row])
    session.info["wake"] = True
    return row["id"]  # type: ignore[no-any-return]


def event_row(event: Event, subject: UUID, because: Origin) -> dict[str, Any]:
    """The row of an event that is stated now, in the current span."""
    id = ids.draw()
    return {
        "id": id,
        "type": event.type,
        "subject": str(subject),
        "time": ids.time_of(id),
        "workspace": because.workspace,
        "run": because.run,
        "causation": because.cause_id,
        "traceparent": telemetry.traceparent(),
        "data": event.model_dump(mode="json"),
    }


def insert_events(connection: Statements, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_INSERT_EVENTS, (Jsonb(rows, dumps=_dumps),))


_INSERT_EVENTS = """
INSERT INTO event (id, type, subject, time, workspace, run, causation, traceparent, data)
SELECT * FROM jsonb_to_recordset(%s) AS stated (
  id uuid, type text, subject text, time timestamptz, workspace uuid, run uuid, causation uuid, traceparent text,
  data jsonb)"""


def envelope(service: str, row: dict[str, Any]) -> Envelope:
    """The CloudEvent of an event row."""
    return Envelope(
        id=row["id"],
        source=f"/millrace/{service}",
        type=row["type"],
        subject=row["subject"],
        time=row["time"],
        workspace=row["workspace"],
        runid=row["run"],
        causationid=row["causation"],
        traceparent=row["traceparent"],
        data=row["data"],
    )


def remember(
    session: Session, workspace: UUID, key: str, fingerprint: str, response: dict[str, Any]
) -> dict[str, Any] | None:
    """Bind an Idempotency-Key to this request, in its transaction.

    None when the key is new: go on. Otherwise the response that was given then: roll back and give it
    again. Raises KeyReused when the key came with another request, BadRequest when it is no key. Two
    requests at once: the second waits here for the first one's commit.
    """
    if not 0 < len(key) <= KEY_CHARACTERS or not key.isprintable():
        raise BadRequest(f"An Idempotency-Key has 1 to {KEY_CHARACTERS} printable characters.")
    connection = raw(session)
    inserted = connection.execute(
        """INSERT INTO idempotency (workspace, key, fingerprint, response)
           VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (workspace, key, fingerprint, Jsonb(response)),
    ).rowcount
    if inserted:
        return None
    row = connection.execute(
        "SELECT fingerprint, response FROM idempotency WHERE workspace = %s AND key = %s", (workspace, key)
    ).fetchone()
    assert row is not None
    if row["fingerprint"] != fingerprint:
        raise KeyReused("This Idempotency-Key was used for another request.")
    given: dict[str, Any] = row["response"]
    return given


def amend(session: Session, workspace: UUID, key: str, response: dict[str, Any]) -> None:
    """Bind a key that `remember` found to be new, in this transaction, to another response."""
    raw(session).execute(
        "UPDATE idempotency SET response = %s WHERE workspace = %s AND key = %s", (Jsonb(response), workspace, key)
    )
