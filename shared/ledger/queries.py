"""Reading the ledger for people."""

from typing import Any
from uuid import UUID

from shared.db import Row, Statements
from shared.errors import NotFound
from shared.ledger import progress
from shared.ledger.batches import CLOSED_AT
from shared.ledger.enqueue import envelope
from shared.ledger.filters import JobFilter
from shared.ledger.messages import Lane


def list_jobs(
    connection: Statements,
    service: str,
    workspace: UUID,
    wanted: JobFilter,
    *,
    after: UUID | None = None,
    limit: int = 100,
) -> dict[str, Any]:
    """A page of jobs, newest first: `items`, and the `next` cursor or None."""
    where, values = wanted.where(workspace)
    if after is not None:
        where, values = f"{where} AND id < %s", [*values, after]
    rows = connection.execute(
        f"SELECT * FROM job WHERE {where} ORDER BY id DESC LIMIT %s",  # noqa: S608  # clauses of filters alone
        (*values, limit + 1),
    ).fetchall()
    more = len(rows) > limit
    return {"items": [_body(service, row) for row in rows[:limit]], "next": rows[limit - 1]["id"] if more else None}


def show_job(connection: Statements, service: str, workspace: UUID, id: UUID) -> dict[str, Any]:
    """One job with its attempts and interventions, oldest first. Raises NotFound, also for another workspace's."""
    row = connection.execute("SELECT * FROM job WHERE id = %s AND workspace = %s", (id, workspace)).fetchone()
    if row is None:
        raise NotFound("There is no such job.", id=str(id))
    history = connection.execute("SELECT * FROM attempt WHERE job = %s ORDER BY number", (id,)).fetchall()
    acts = connection.execute("SELECT * FROM intervention WHERE job = %s ORDER BY at", (id,)).fetchall()
    interventions = [{**act, "reason": act["error"], "lane": lane_name(act["priority"])} for act in acts]
    return {**_body(service, row), "history": history, "interventions": interventions}


def watched(connection: Statements, service: str, jobs: list[UUID]) -> dict[UUID, dict[str, Any]]:
    """How these jobs stand, by id; those that are not there (any more) are missing. Without arguments: they may be
    large, and do not change."""
    rows = connection.execute(
        """SELECT id, kind, queue, priority, state, attempt, max_attempts, crashes, error, progress, result, run, cause,
                  cause_id, batch, step, began_as, traceparent, created_at, not_before, started_at, finished_at
           FROM job WHERE id = ANY(%s)""",
        (jobs,),
    ).fetchall()
    return {row["id"]: _body(service, row) for row in rows}


def depths(connection: Statements) -> list[Row]:
    """What waits and what runs, by queue: `queue`, `state` (`later`: queued and not due yet, as are jobs whose step of
    a batch is not open), `jobs`, and `oldest` (seconds since it was due)."""
    return connection.execute(
        """SELECT queue, CASE WHEN state = 'queued' AND not_before > now() THEN 'later' ELSE state END AS state,
                  count(*) AS jobs, extract(epoch FROM now() - min(not_before))::float AS oldest
           FROM job WHERE finished_at IS NULL AND (state = 'queued' OR state = 'running') GROUP BY 1, 2"""
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


def scheduled_runs(connection: Statements, workspace: UUID, since: UUID, until: UUID, limit: int) -> list[UUID]:
    """Runs that schedules began, newest first, of those between the two."""
    rows = connection.execute(
        """SELECT run FROM job WHERE workspace = %s AND cause = 'schedule' AND run > %s AND run < %s
           ORDER BY run DESC LIMIT %s""",
        (workspace, since, until, limit),
    ).fetchall()
    return [row["run"] for row in rows]


def tallies(connection: Statements, workspace: UUID, since: UUID, until: UUID) -> list[Row]:
    """How the runs stand whose ids are in [since, until), by this service's jobs and events of them: `run`, how many
    jobs are `unfinished`, the reason of one that `failed` and of one that was `cancelled`, `finished_at`, and whether
    there are `events`. From one snapshot."""
    return connection.execute(
        """SELECT run, count(*) FILTER (WHERE state IN ('queued', 'running')) AS unfinished,
                  min(kind || ': ' || coalesce(error ->> 'detail', state)) FILTER (WHERE state = 'failed') AS failed,
                  min(kind || ': ' || coalesce(error ->> 'detail', state)) FILTER (WHERE state = 'cancelled')
                    AS cancelled,
                  max(finished_at) AS finished_at,
                  EXISTS (SELECT FROM event WHERE event.run = job.run) AS events
           FROM job WHERE run >= %s AND run < %s AND workspace = %s GROUP BY run ORDER BY run""",
        (since, until, workspace),
    ).fetchall()


def lane_name(priority: int | None) -> str | None:
    return None if priority is None else Lane(priority).name.lower()


def _body(service: str, row: Row) -> dict[str, Any]:
    return {
        **row,
        "service": service,
        "lane": lane_name(row["priority"]),
        "not_before": row["not_before"] if row["not_before"] < CLOSED_AT else None,
        "progress": progress.shown(row["progress"]),
        "reason": row["error"],
        "trace_id": (row["traceparent"] or "").partition("-")[2][:32] or None,
        "url": f"/v1/jobs/{row['id']}",
    }
