"""Batches: jobs in steps. The jobs of a step run side by side, and the next step opens when all of them have ended. A
chain is a batch whose steps have one job each; a completion is a last step. A job may also owe a batch and go on when
that has ended (`Attempt.continue_as`).

All jobs are owed at once, in the caller's transaction; those of later steps are not due. Which step is open is decided
by the leading Beat (steps.py) from how the jobs stand, never by counting their ends: the last one cannot be missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlmodel import Session

from shared import ids, telemetry
from shared.db import Row, Statements, raw
from shared.errors import MillraceError, NotFound
from shared.ledger.batch_schema import CLOSED
from shared.ledger.enqueue import Origin, insert, job_row, origin
from shared.ledger.messages import JobArgs
from shared.ledger.moves import Claimed

MOST_JOBS = 10_000
"""Of one batch, in all steps together."""
MOST_STEPS = 100
NAME_CHARACTERS = 200

OnFailure = Literal["stop", "continue"]
"""When a job of a step did not succeed: `stop` calls later steps off, `continue` opens them all the same."""
BatchState = Literal["running", "ending", "succeeded", "failed", "cancelled"]
CLOSED_AT = datetime.fromisoformat(CLOSED)


class BatchInvalid(MillraceError):
    """No steps, too many, an empty one, or too many jobs."""

    code, status, title = "batch.invalid", 422, "The batch cannot be owed"


@dataclass(frozen=True)
class Batch:
    """A batch that was owed, and its jobs by step; no jobs of one that the ledger had already."""

    id: UUID
    jobs: list[list[UUID]]


def enqueue_batch(
    session: Session,
    steps: Sequence[Sequence[JobArgs]],
    *,
    name: str | None = None,
    on_failure: OnFailure = "stop",
    id: UUID | None = None,
) -> Batch:
    """Owe jobs in steps. With an `id` that the ledger already has, nothing is added: done once. Raises BatchInvalid."""
    because, traceparent = origin(session), telemetry.traceparent()
    rows = [[job_row(args, because, ids.draw(), traceparent=traceparent) for args in step] for step in steps]
    return insert_batch(session, because, rows, name=name, on_failure=on_failure, id=id)


def insert_batch(
    session: Session,
    because: Origin,
    steps: Sequence[Sequence[Row]],
    *,
    name: str | None,
    on_failure: OnFailure,
    id: UUID | None = None,
) -> Batch:
    """The same of jobs as `job_row` makes them."""
    check_size([len(step) for step in steps])
    batch = id or ids.draw()
    for number, step in enumerate(steps, start=1):
        for row in step:
            row |= {"batch": batch, "step": number}
            if number > 1:
                row |= {"open_at": row["not_before"], "not_before": CLOSED}
    rows = [row for step in steps for row in step]
    jobs = sorted(row["id"] for row in rows)
    values = {
        "id": batch,
        "workspace": because.workspace,
        "run": because.run,
        "cause": because.cause,
        "cause_id": because.cause_id,
        "name": name,
        "on_failure": on_failure,
        "jobs": len(rows),
        "steps": len(steps),
        "first": jobs[0],
        "last": jobs[-1],
    }
    if not raw(session).execute(_INSERT, values).rowcount:
        return Batch(batch, [])
    insert(raw(session), rows)
    session.info["wake"] = session.info["owes"] = True
    return Batch(batch, [[row["id"] for row in step] for step in steps])


_INSERT = """
INSERT INTO batch (id, workspace, run, cause, cause_id, name, on_failure, jobs, steps, first_job, last_job, created_at)
VALUES (%(id)s, %(workspace)s, %(run)s, %(cause)s, %(cause_id)s, %(name)s, %(on_failure)s, %(jobs)s, %(steps)s,
        %(first)s, %(last)s, clock_timestamp())
ON CONFLICT (id) DO NOTHING"""


def check_size(steps: Sequence[int]) -> None:
    """`steps`: how many jobs each has. Raises BatchInvalid."""
    if not 1 <= len(steps) <= MOST_STEPS:
        raise BatchInvalid(f"A batch has 1 to {MOST_STEPS} steps, not {len(steps):,}.", limit=MOST_STEPS)
    if 0 in steps:
        number = steps.index(0) + 1
        raise BatchInvalid(f"Step {number} has no jobs.", step=number)
    if sum(steps) > MOST_JOBS:
        raise BatchInvalid(f"A batch has at most {MOST_JOBS:,} jobs, not {sum(steps):,}.", limit=MOST_JOBS)


# What a later step learns of those before it


@dataclass(frozen=True)
class Outcome:
    """How the steps before a job's own ended."""

    counts: dict[str, int]
    """Jobs by state."""
    unsuccessful: list[UUID]
    """Those that failed or were cancelled, in the order in which they were owed."""


def outcome_before(session: Session, job: Claimed) -> Outcome:
    """How the steps before the running job's own ended, for a completion to act on. Empty for a job of no batch."""
    rows = raw(session).execute(_BEFORE, (job.batch, job.step)).fetchall()
    unsuccessful = sorted(id for row in rows for id in row["unsuccessful"] or ())
    return Outcome({row["state"]: row["jobs"] for row in rows}, unsuccessful)


_BEFORE = """
SELECT state, count(*) AS jobs, array_agg(id) FILTER (WHERE state IN ('failed', 'cancelled')) AS unsuccessful
FROM job WHERE batch = %s AND step < %s GROUP BY state"""


def results_of(session: Session, batch: UUID, step: int) -> list[Row]:
    """`id`, `state`, `result` and `error` of each job of a step of the batch, in the order in which they were owed."""
    statement = "SELECT id, state, result, error FROM job WHERE batch = %s AND step = %s ORDER BY id"
    return raw(session).execute(statement, (batch, step)).fetchall()


# Reading, for people


def list_batches(
    connection: Statements,
    workspace: UUID,
    *,
    state: BatchState | None = None,
    run: UUID | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> dict[str, Any]:
    """A page of batches, newest first: `items`, and the `next` cursor or None."""
    clauses = {"workspace = %s": workspace, "state = %s": state, "run = %s": run, "id < %s": after}
    given = {clause: value for clause, value in clauses.items() if value is not None}
    rows = connection.execute(
        f"SELECT * FROM batch WHERE {' AND '.join(given)} ORDER BY id DESC LIMIT %s",  # noqa: S608  # the clauses above
        (*given.values(), limit + 1),
    ).fetchall()
    return {"items": rows[:limit], "next": rows[limit - 1]["id"] if len(rows) > limit else None}


def show_batch(connection: Statements, workspace: UUID, id: UUID) -> Row:
    """One batch, with `counts`: the jobs of each step by state. Raises NotFound, also for another workspace's."""
    row = connection.execute("SELECT * FROM batch WHERE id = %s AND workspace = %s", (id, workspace)).fetchone()
    if row is None:
        raise NotFound("There is no such batch.", id=str(id))
    counts: list[dict[str, int]] = [{} for _ in range(row["steps"])]
    counted = "SELECT step, state, count(*) AS jobs FROM job WHERE batch = %s GROUP BY step, state"
    for each in connection.execute(counted, (id,)):
        counts[each["step"] - 1][each["state"]] = each["jobs"]
    return {**row, "counts": counts}
