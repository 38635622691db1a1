"""When the leading Beat looks: at the time of the next slot, and at once when somebody changes something."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared import beat
from shared.beat import Leader
from shared.celery import Service
from shared.db import Connection, raw
from shared.ledger import firing, schedules
from shared.ledger.firing import AGAIN_SECONDS, IDLE_SECONDS, Firer
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.scheduled import Schedules
from tests.integration.toy.tasks import tasks
from tests.integration.toy.wire import Wire


class Clock:
    """A monotonic clock that the test moves, and the statements of a connection, counted."""

    def __init__(self, connection: Connection) -> None:
        self.seconds = 1000.0
        self.asked = 0
        self._connection = connection

    def __call__(self) -> float:
        return self.seconds

    def execute(self, *statement: object) -> object:
        self.asked += 1
        return self._connection.execute(*statement)  # type: ignore[arg-type]

    def transaction(self) -> object:
        return self._connection.transaction()


@pytest.fixture
def clock(toy: Toy) -> Iterator[Clock]:
    with toy.connect() as connection:
        yield Clock(connection)


def test_idle_it_asks_one_question_a_second(toy: Toy, clock: Clock) -> None:
    firer = Firer(toy.database, tasks, clock)
    Schedules(toy).make(datetime.now(UTC), at="2199-01-01T00:00:00Z")
    firer.fire(clock)  # type: ignore[arg-type]
    asked = clock.asked
    assert firer.wait == pytest.approx(IDLE_SECONDS)
    for _ in range(3):
        clock.seconds += IDLE_SECONDS
        assert firer.fire(clock) == 0  # type: ignore[arg-type]
    assert clock.asked == asked + 3


def test_rounds_that_follow_each_other_ask_seldom(toy: Toy, clock: Clock) -> None:
    firer = Firer(toy.database, tasks, clock)
    firer.fire(clock)  # type: ignore[arg-type]
    asked = clock.asked
    for _ in range(100):
        clock.seconds += AGAIN_SECONDS / 50
        firer.fire(clock)  # type: ignore[arg-type]
    assert clock.asked <= asked + 2


def test_it_waits_for_the_next_slot_and_no_longer(toy: Toy, clock: Clock) -> None:
    firer = Firer(toy.database, tasks, clock)
    Schedules(toy).make(datetime.now(UTC), at=(datetime.now(UTC) + timedelta(seconds=0.5)).isoformat())
    firer.fire(clock)  # type: ignore[arg-type]
    assert 0 < firer.wait < 0.5


@pytest.fixture
def leader(toy: Toy, toy_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    """A leader that looks by itself twice a minute, but when it knows better."""
    monkeypatch.setattr(beat, "IDLE_SECONDS", 30.0)
    monkeypatch.setattr(firing, "IDLE_SECONDS", 30.0)
    settings = Settings(database_url=toy_url, broker_url="redis://127.0.0.1:1/0", objects_url=f"file://{tmp_path}")  # type: ignore[arg-type]
    service = Service("toy", lambda: settings, tasks, {}, queues=("toy.jobs",), pool="solo", concurrency=1)
    made = Leader(service, Wire())  # type: ignore[arg-type]
    until(lambda: made.tick() == 0.0)
    yield made
    made.close()
    service.database.dispose()


def fired(leader: Leader, made: Schedules) -> Callable[[], bool]:
    def look() -> bool:
        leader.tick()
        return bool(made.toy.execute("SELECT id FROM slot"))

    return look


def test_a_leader_wakes_for_a_slot(toy: Toy, leader: Leader) -> None:
    made = Schedules(toy)
    id = made.make(datetime.now(UTC), at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    until(fired(leader, made), 20)
    assert len(made.jobs(id)) == 1


def test_a_leader_hears_of_a_schedule_that_is_made_while_it_waits(toy: Toy, leader: Leader) -> None:
    made = Schedules(toy)
    id = made.make(datetime.now(UTC), at="2199-01-01T00:00:00Z")
    leader.tick()
    with toy.database.transaction() as session:  # as a request does
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        raw(session).execute("UPDATE schedule SET at = %s, next_slot = %s, next_at = %s", (soon, soon, soon))
        session.info["wake"] = True
    until(fired(leader, made), 20)
    assert len(made.jobs(id)) == 1


def test_what_a_leader_cannot_do_about_schedules_does_not_keep_it_from_dispatching(
    toy: Toy, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(firing, "fire_due", fail)
    made = Schedules(toy)
    id = made.make(datetime.now(UTC) - timedelta(minutes=1), cron="* * * * *")
    job = toy.enqueue()
    wire = leader._broker
    until(lambda: leader.tick() == 0.0 and job in wire.jobs(), 20)
    assert made.jobs(id) == []


def test_the_database_says_what_time_it_is(toy: Toy) -> None:
    with toy.connect() as connection:
        connection.execute("SET TIME ZONE 'Australia/Lord_Howe'")
        assert schedules.clock(connection).tzinfo is UTC
