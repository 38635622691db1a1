"""Batches of the toy service, run to their ends one step at a time."""

from typing import Any
from uuid import UUID

from shared.db import Connection, Row, raw
from shared.ledger import batches, steps
from shared.ledger.attempts import Attempt
from shared.ledger.batches import Batch, Outcome, enqueue_batch
from shared.ledger.enqueue import Origin
from shared.ledger.tasks import Tasks
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Do


class Batches:
    """Jobs are named after what they do: `fail` fails, `look` keeps what it learns of the steps before it."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.seen: list[Outcome] = []
        self.tasks: Tasks = tasks_of(self._body)
        self.heard: list[tuple[str, str]] = []
        """By the failure hook: the job's name, and the code of its reason."""
        self.tasks.failed(Do)(lambda session, args, reason: self.heard.append((args.name, reason["code"])))

    def _body(self, attempt: Attempt, args: Do) -> Any:
        if args.name == "fail":
            raise Broken("No.")
        if args.name == "look":
            with attempt.reading() as session:
                self.seen.append(batches.outcome_before(session, attempt.job))
        return args.name

    def owe(self, *named: list[str], **options: Any) -> Batch:
        with self.toy.database.transaction(origin=Origin.request(self.toy.workspace)) as session:
            return enqueue_batch(session, [[Do(name=name) for name in step] for step in named], **options)

    def go_on(self, connection: Connection | None = None) -> int:
        """All that a leading Beat does for batches now; answers how often one went on."""
        if connection is None:
            with self.toy.connect() as own:
                return self.go_on(own)
        moved = 0
        while more := steps.Stepper(self.toy.database, self.tasks).go_on(connection):
            moved += more
        return moved

    def due(self, batch: Batch) -> list[UUID]:
        statement = "SELECT id FROM job WHERE batch = %s AND state = 'queued' AND not_before <= now() ORDER BY id"
        return [row["id"] for row in self.toy.execute(statement, batch.id)]

    def run_due(self, batch: Batch) -> None:
        """A worker runs what is due of it, once."""
        self.toy.run(self.tasks, *self.due(batch))

    def run_out(self, batch: Batch) -> None:
        """Workers and Beat, until nothing of it is due."""
        while self.due(batch):
            self.run_due(batch)
            self.go_on()

    def cancel(self, batch: Batch) -> None:
        steps.cancel_batch(self.toy.database, self.tasks, self.toy.workspace, batch.id, "somebody")

    def row(self, batch: Batch) -> Row:
        with self.toy.database.transaction() as session:
            return batches.show_batch(raw(session), self.toy.workspace, batch.id)

    def states(self, batch: Batch) -> list[list[str]]:
        """Of its jobs, by step."""
        return [[self.toy.job(job)["state"] for job in step] for step in batch.jobs]
