"""Reading the ledger for people."""

from typing import Any
from uuid import UUID

from shared.db import Row, Statements
from shared.errors import NotFound
from shared.ledger.enqueue import envelope


def list_jobs(
    connection: Statements,
    service: str,
    workspace: UUID,
    *,
    run: UUID | None = None,
    state: str | None = None,
    kind: str | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> dict[str, Any]:
    """A page of jobs, newest first: `items`, and the `next` cursor or None."""
    wheres, values = ["workspace = %s"], [workspace]
    for clause, value in (("run = %s", run), ("state = %s", state), ("kind = %s", kind), ("id < %s", after)):
        if value is not None:
            wheres.append(clause)
            values.append(value)  # type: ignore[arg-type]
    rows = connection.execute(
        # The clauses are the ones above; values travel as parameters.
        f"SELECT * FROM job WHERE {' AND '.join(wheres)} ORDER BY id DESC LIMIT %s",  # noqa: S608
        (*values, limit + 1),
    ).fetchall()
    more = len(rows) > limit
    return {"items": [_body(service, row) for row in rows[:limit]], "next": rows[limit - 1]["id"] if more else None}


def show_job(connection: Statements, service: str, workspace: UUID, id: UUID) -> dict[str, Any]:
    """One job with its attempts, oldest first. Raises NotFound, also for another workspace's."""
    row = connection.execute("SELECT * FROM job WHERE id = %s AND workspace = %s", (id, workspace)).fetchone()
    if row is None:
        raise NotFound("There is no such job.", id=str(id))
    history = connection.execute("SELECT * FROM attempt WHERE job = %s ORDER BY number", (id,)).fetchall()
    return {**_body(service, row), "history": history}


def depths(connection: Statements) -> list[Row]:
    """What waits and what runs, by queue: `queue`, `state`, `jobs`, and `oldest` (seconds since it was due)."""
    return connection.execute(
        """SELECT queue, state, count(*) AS jobs, extract(epoch FROM now() - min(not_before))::float AS oldest
           FROM job WHERE state = 'queued' OR state = 'running' GROUP BY queue, state"""
    ).fetchall()


def part_of_run(connection: Statements, service: str, workspace: UUID, run: UUID) -> dict[str, Any]:
    """This service's jobs and events of a run, oldest first, from one snapshot: a job that is seen finished
    is seen with the events that its finishing transaction published."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    jobs = connection.execute(
        "SELECT * FROM job WHERE run = %s AND workspace = %s ORDER BY id", (run, workspace)
    ).fetchall()
    events = connection.execute(
        "SELECT * FROM event WHERE run = %s AND workspace = %s ORDER BY id", (run, workspace)
    ).fetchall()
    return {"jobs": [_body(service, row) for row in jobs], "events": [envelope(service, row) for row in events]}


def _body(service: str, row: Row) -> dict[str, Any]:
    return {
        **row,
        "service": service,
        "attempts": row["attempt"],
        "reason": row["error"],
        "trace_id": (row["traceparent"] or "").partition("-")[2][:32] or None,
        "url": f"/v1/jobs/{row['id']}",
    }
