"""The toy service's ledger in a test's hands."""

from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import UUID

from shared import ids
from shared.db import Connection, Database, Row
from shared.errors import MillraceError
from shared.ledger import leases, moves
from shared.ledger.attempts import Attempt
from shared.ledger.batches import CLOSED_AT
from shared.ledger.enqueue import Origin, enqueue
from shared.ledger.execute import Executor
from shared.ledger.messages import JobArgs
from shared.ledger.moves import Claimed
from shared.ledger.tasks import Tasks
from tests.integration.toy.jobs import Do, NoteThing

Body = Callable[[Attempt, Any], Any]


class Broken(MillraceError):
    code, status, title = "thing.broken", 422, "Broken"


class Toy:
    """Jobs enqueued, claimed and looked at."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.workspace = ids.draw()
        self._eyes = database.connect()

    def close(self) -> None:
        self._eyes.close()

    def connect(self) -> Connection:
        return self.database.connect()

    def enqueue(self, args: JobArgs | None = None, **options: Any) -> UUID:
        with self.database.transaction(origin=Origin.request(self.workspace)) as session:
            return enqueue(session, args or Do(), **options)

    def execute(self, statement: str, *values: Any) -> list[Row]:
        cursor = self._eyes.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def job(self, id: UUID) -> Row:
        [row] = self.execute("SELECT * FROM job WHERE id = %s", id)
        return row

    def attempts(self, id: UUID) -> list[Row]:
        return self.execute("SELECT * FROM attempt WHERE job = %s ORDER BY number", id)

    def outcomes(self, id: UUID) -> list[str]:
        return [row["outcome"] for row in self.attempts(id)]

    def worker(self, seconds: float = 300.0) -> UUID:
        """A worker incarnation with a lease of so many seconds."""
        worker = ids.draw()
        leases.renew(self._eyes, worker, "toy@test", seconds)
        return worker

    def lose(self, worker: UUID) -> None:
        """As if the worker had not renewed its lease in time."""
        self.execute("UPDATE worker SET lease_until = now() - interval '1 second' WHERE id = %s", worker)

    def claim(self, *jobs: UUID, worker: UUID | None = None) -> list[Claimed]:
        return moves.claim(self._eyes, worker or self.worker(), list(jobs))

    def hurry(self) -> None:
        """Whatever waits for a later try is due now."""
        self.execute("UPDATE job SET not_before = now() WHERE state = 'queued' AND not_before < %s", CLOSED_AT)

    def run(self, tasks: Tasks, *jobs: UUID, kind: str | None = None, worker: UUID | None = None) -> None:
        """What a worker does with one wake-up for the jobs, of the kind that the first of them is."""
        kind = kind or self.job(jobs[0])["kind"]
        with closing(Executor(self.database, tasks, worker or self.worker())) as executor:
            executor.run(kind, list(jobs))

    def run_out(self, tasks: Tasks, job: UUID) -> None:
        """Wake-ups for the job, without waiting for back-off, until it has ended."""
        while self.job(job)["state"] == "queued":
            self.hurry()
            self.run(tasks, job)


def tasks_of(body: Body, **options: Any) -> Tasks:
    """The toy's tasks, with `body` for the kind `toy.thing.do`."""
    tasks = Tasks()
    tasks.job(Do, **options)(body)
    tasks.job(NoteThing)(lambda attempt, args: None)
    return tasks


def effects(toy: Toy) -> list[str]:
    return [row["key"] for row in toy.execute("SELECT key FROM effect ORDER BY created_at")]
