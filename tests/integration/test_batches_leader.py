"""When the leading Beat looks at batches: at once when a job of one has ended, and seldom otherwise."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared import beat
from shared.beat import Leader
from shared.celery import Service
from shared.ledger import firing, redrive, steps
from shared.ledger.steps import AGAIN_SECONDS, IDLE_SECONDS, SHARE, Stepper
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.toy.batches import Batches
from tests.integration.toy.harness import Broken, Toy
from tests.integration.toy.jobs import Do
from tests.integration.toy.wire import Wire


class Asked:
    """A connection of which the statements are counted, and take their time by a clock that the test moves."""

    def __init__(self, connection: Any) -> None:
        self.asked, self.seconds, self.takes = 0, 1000.0, 0.0
        self._connection = connection

    def __call__(self) -> float:
        return self.seconds

    def execute(self, *statement: Any) -> Any:
        self.asked += 1
        self.seconds += self.takes
        return self._connection.execute(*statement)

    def transaction(self) -> Any:
        return self._connection.transaction()


@pytest.fixture
def made(toy: Toy) -> Batches:
    return Batches(toy)


@pytest.fixture
def asked(toy: Toy) -> Iterator[Asked]:
    with toy.connect() as connection:
        yield Asked(connection)


def test_idle_it_asks_one_question_a_second(made: Batches, asked: Asked) -> None:
    made.owe(["a"], ["b"])
    stepper = Stepper(made.toy.database, made.tasks, asked)
    stepper.go_on(asked)  # type: ignore[arg-type]
    assert stepper.wait == pytest.approx(IDLE_SECONDS)
    for _ in range(3):
        asked.seconds += IDLE_SECONDS
        assert stepper.go_on(asked) == 0  # type: ignore[arg-type]
    assert asked.asked == 4


def test_rounds_that_follow_each_other_ask_seldom(made: Batches, asked: Asked) -> None:
    stepper = Stepper(made.toy.database, made.tasks, asked)
    for _ in range(100):
        asked.seconds += AGAIN_SECONDS / 50
        stepper.go_on(asked)  # type: ignore[arg-type]
    assert asked.asked <= 4


def test_looks_that_take_long_are_far_apart(made: Batches, asked: Asked) -> None:
    stepper = Stepper(made.toy.database, made.tasks, asked)
    asked.takes = 0.05
    stepper.go_on(asked)  # type: ignore[arg-type]
    began = asked.seconds - asked.takes
    stepper.go_on(asked)  # type: ignore[arg-type]
    assert asked.asked == 1
    assert stepper.wait == pytest.approx(began + SHARE * asked.takes - asked.seconds)


@pytest.fixture
def leader(made: Batches, toy_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    """A leader that looks by itself twice a minute, but when it is told."""
    for module in (beat, firing, steps):
        monkeypatch.setattr(module, "IDLE_SECONDS", 30.0)
    settings = Settings(database_url=toy_url, broker_url="redis://127.0.0.1:1/0", objects_url=f"file://{tmp_path}")  # type: ignore[arg-type]
    service = Service("toy", lambda: settings, made.tasks, {}, queues=("toy.jobs",), pool="solo", concurrency=1)
    leader = Leader(service, Wire())  # type: ignore[arg-type]
    until(lambda: leader.tick() == 0.0)
    yield leader
    leader.close()
    service.database.dispose()


def finish(made: Batches) -> None:
    def body(attempt: Any, args: Do) -> None:
        with attempt.finishing():
            pass

    made.tasks.by_kind[Do.kind].body = body


def fail(made: Batches) -> None:
    def body(attempt: Any, args: Do) -> None:
        raise Broken("No.")

    made.tasks.by_kind[Do.kind].body = body


@pytest.mark.parametrize("how", [lambda made: None, finish, fail], ids=["returned", "finished", "failed"])
def test_a_leader_hears_at_once_that_a_step_has_ended(
    made: Batches, leader: Leader, how: Callable[[Batches], None]
) -> None:
    how(made)
    batch = made.owe(["a"], ["b"], on_failure="continue")
    wire = leader._broker
    until(lambda: leader.tick() == 0.0 and batch.jobs[0][0] in wire.jobs(), 20)
    made.toy.run(made.tasks, *batch.jobs[0])
    until(lambda: leader.tick() == 0.0 and batch.jobs[1][0] in wire.jobs(), 20)
    made.toy.run(made.tasks, *batch.jobs[1])
    until(lambda: leader.tick() == 0.0 and made.row(batch)["finished_at"], 20)


def test_a_leader_hears_at_once_that_the_last_job_of_a_step_was_called_off(made: Batches, leader: Leader) -> None:
    batch = made.owe(["a"], ["b"], on_failure="continue")
    redrive.cancel_one(made.toy.database, made.tasks, made.toy.workspace, batch.jobs[0][0], "somebody")
    until(lambda: leader.tick() == 0.0 and batch.jobs[1][0] in leader._broker.jobs(), 20)


def test_what_a_leader_cannot_do_about_batches_does_not_keep_it_from_dispatching(
    made: Batches, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(steps, "advance", broken)
    batch = made.owe(["a"], ["b"])
    redrive.cancel_one(made.toy.database, made.tasks, made.toy.workspace, batch.jobs[0][0], "somebody")
    job = made.toy.enqueue()
    until(lambda: leader.tick() == 0.0 and job in leader._broker.jobs(), 20)
    assert made.row(batch)["state"] == "running"


def test_a_leader_that_takes_over_goes_on_with_what_was_left(made: Batches, leader: Leader) -> None:
    batch = made.owe(["a"], ["b"])
    leader.tick()
    leader.close()
    made.toy.run(made.tasks, *batch.jobs[0])
    assert made.due(batch) == []
    with closing(Leader(leader._service, Wire())) as other:  # type: ignore[arg-type]
        until(lambda: other.tick() == 0.0 and batch.jobs[1][0] in other._broker.jobs(), 20)
