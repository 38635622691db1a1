"""Schedules of the toy service, and a leading Beat whose clock the test sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Connection, Row, raw
from shared.ledger import firing, schedules
from shared.ledger.tasks import Tasks
from shared.schedules.request import ScheduleRequest
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked
from tests.integration.toy.tasks import tasks as toy_tasks

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Schedules:
    """Schedules made, fired at the times that the test says, and looked at."""

    def __init__(self, toy: Toy, tasks: Tasks = toy_tasks) -> None:
        self.toy = toy
        self.tasks = tasks
        self._made = 0

    def make(self, begin: datetime = NOON, **wanted: Any) -> UUID:
        """A schedule (each minute, unless told) as if it had been made at `begin`: that is its first possible slot."""
        self._made += 1
        if not wanted.keys() & {"every_seconds", "at"}:
            wanted.setdefault("cron", "* * * * *")
        body = {"name": f"s{self._made}", "kind": Asked.kind, "args": {"count": self._made}, **wanted}
        with self._at(begin), self.toy.database.transaction() as session:
            request = ScheduleRequest.model_validate(body)
            id: UUID = schedules.create(raw(session), self.tasks, self.toy.workspace, request)["id"]
        return id

    def change(self, act: Any, id: UUID, now: datetime, *more: Any) -> Row:
        """`schedules.pause` and its like, at `now`."""
        with self._at(now), self.toy.database.transaction() as session:
            found: Row = act(raw(session), *more, self.toy.workspace, id)
            return found

    def fire(self, now: datetime, connection: Connection | None = None) -> int:
        """All that a leading Beat does when its clock shows `now`; answers how many schedules it worked on."""
        with self._connected(connection) as given:
            fired = 0
            while more := self._once(given, now):
                fired += more
            return fired

    def _once(self, connection: Connection, now: datetime) -> int:
        fired = firing.fire_due(connection, self.tasks, now)
        fired += firing.make_way(self.toy.database, connection, self.tasks)
        return fired + firing.release(connection, self.tasks, now)

    def run(self, job: UUID) -> None:
        """A worker runs the job to its end."""
        self.toy.hurry()
        self.toy.run(self.tasks, job, kind=Asked.kind)
        assert self.toy.job(job)["state"] == "succeeded"

    def row(self, id: UUID) -> Row:
        [row] = self.toy.execute("SELECT * FROM schedule WHERE id = %s", id)
        return row

    def slots(self, id: UUID) -> list[Row]:
        """Oldest first."""
        return self.toy.execute("SELECT * FROM slot WHERE schedule = %s ORDER BY at", id)

    def outcomes(self, id: UUID) -> list[str]:
        return [row["outcome"] for row in self.slots(id)]

    def jobs(self, id: UUID) -> list[Row]:
        """The jobs it fired, in the order of their slots."""
        return self.toy.execute("SELECT * FROM job WHERE cause = 'schedule' AND cause_id = %s ORDER BY id", id)

    def minutes(self, id: UUID) -> list[float]:
        """Of the slots that fired a job, after NOON."""
        fired = {job["id"] for job in self.jobs(id)}
        return [(row["at"] - NOON) / MINUTE for row in self.slots(id) if row["id"] in fired]

    @contextmanager
    def _connected(self, connection: Connection | None) -> Iterator[Connection]:
        if connection is not None:
            yield connection
        else:
            with self.toy.connect() as own:
                yield own

    @contextmanager
    def _at(self, now: datetime) -> Iterator[None]:
        """PostgreSQL's clock shows `now` to people's requests."""
        real = schedules.clock
        schedules.clock = lambda connection: now  # type: ignore[assignment]
        try:
            yield
        finally:
            schedules.clock = real
