"""Running a service's jobs in the test's own process, on a real database, without Celery."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any
from uuid import UUID

from shared import ids
from shared.contracts.envelope import Envelope, Event
from shared.db import Database
from shared.ledger import leases
from shared.ledger.batches import CLOSED_AT
from shared.ledger.execute import Executor
from shared.ledger.intake import Intake
from shared.ledger.messages import Subscriptions
from shared.ledger.steps import Stepper
from shared.ledger.tasks import Tasks

MAX_ROUNDS = 200


def run_due(database: Database, tasks: Tasks, *, hurry: bool = True) -> int:
    """Run every queued job, and those they enqueue, until none is due, batches step by step; answers how many attempts
    ran.

    With `hurry`, jobs that wait for a later try become due at once, so that retries run to their end.
    """
    worker, ran = ids.draw(), 0
    executor = Executor(database, tasks, worker)
    with database.connect() as connection, closing(executor):
        leases.renew(connection, worker, "test", 300.0)
        for _ in range(MAX_ROUNDS):
            if hurry:
                connection.execute(
                    """UPDATE job SET not_before = now()
                       WHERE state = 'queued' AND not_before > now() AND not_before < %s""",
                    (CLOSED_AT,),
                )
            moved = Stepper(database, tasks).go_on(connection)
            due = connection.execute(
                """SELECT id, kind FROM job WHERE state = 'queued' AND not_before <= now()
                   ORDER BY priority, not_before, id"""
            ).fetchall()
            if not due and not moved:
                return ran
            for row in due:
                executor.run(row["kind"], [row["id"]])
                ran += 1
    raise AssertionError(f"jobs were still due after {MAX_ROUNDS} rounds")


def give_event(
    database: Database,
    subscriptions: Subscriptions,
    event: Event,
    *,
    workspace: UUID,
    run: UUID | None = None,
    id: UUID | None = None,
) -> Envelope:
    """Have the service take in an event, as its worker does; answers the envelope."""
    run = run or ids.draw()
    given = Envelope(
        id=id or ids.draw(),
        source=f"/millrace/{event.producer()}",
        type=event.type,
        subject=str(run),
        time=ids.time_of(run),
        workspace=workspace,
        runid=run,
        causationid=run,
        data=event.model_dump(mode="json"),
    )
    Intake(database, subscriptions).receive([given.model_dump(mode="json")])
    return given


def jobs(database: Database, **where: Any) -> list[dict[str, Any]]:
    """Rows of the ledger, oldest first, that have the given column values."""
    return _rows(database, "job", where)


def events(database: Database, **where: Any) -> list[dict[str, Any]]:
    """Published events, oldest first, that have the given column values."""
    return _rows(database, "event", where)


def _rows(database: Database, table: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
    with database.connect() as connection:
        found = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608  # the two names above
    return [row for row in found if all(row[key] == value for key, value in where.items())]


__all__ = ["events", "give_event", "jobs", "run_due"]
