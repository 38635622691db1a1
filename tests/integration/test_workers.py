"""Workers that are taken out, over real processes."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import UUID

import pytest
import redis

from shared.ledger import fleet
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do
from tests.integration.toy.plant import ROOT, Plant

SOON = 30.0
"""Seconds within which something must have happened on two busy cores."""


@pytest.fixture
def plant(
    servers: SimpleNamespace, toy: Toy, toy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    with redis.Redis.from_url(servers.broker) as broker:
        broker.flushall()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "MILLRACE_DATABASE_URL": toy_url,
        "MILLRACE_BROKER_URL": servers.broker,
        "MILLRACE_OBJECTS_URL": "file:///nowhere",
        "MILLRACE_LEASE_SECONDS": "10",
        "MILLRACE_LEASE_RENEWAL_SECONDS": "0.5",
        "MILLRACE_REDISPATCH_SECONDS": "1",
        "MILLRACE_LOG_FORMAT": "console",
    }
    plant = Plant(environment, tmp_path_factory.mktemp("plant"))
    yield plant
    plant.end()


def workers(toy: Toy) -> list[str]:
    """States, by age."""
    with toy.connect() as connection:
        found = fleet.list_workers(connection, ended=True)
    return [worker["state"] for worker in sorted(found, key=lambda worker: worker["started_at"])]


def running(toy: Toy, job: UUID) -> UUID:
    """The worker that runs it."""
    [row] = until(lambda: toy.execute("SELECT worker FROM job WHERE id = %s AND state = 'running'", job), SOON)
    return UUID(str(row["worker"]))


def open_gate(toy: Toy, job: UUID) -> None:
    toy.execute("INSERT INTO effect (key, job) VALUES (%s, %s)", f"open {job}", job)


def test_a_drained_worker_ends_what_it_runs_takes_nothing_more_and_stops(toy: Toy, plant: Plant) -> None:
    plant.beat()
    process = plant.worker()
    held = toy.enqueue(Do(name="hold"))
    worker = running(toy, held)
    with toy.connect() as connection:
        fleet.drain(connection, worker, "somebody")
    later = toy.enqueue(Do(name="answer", value=1))
    until(lambda: process.says("drained: no more jobs are taken"), SOON)
    assert workers(toy) == ["draining"]
    open_gate(toy, held)
    assert process.wait(SOON) == 0
    assert (toy.job(held)["state"], toy.outcomes(held)) == ("succeeded", ["succeeded"])
    assert workers(toy) == ["ended"]
    assert (toy.job(later)["state"], toy.job(later)["attempt"]) == ("queued", 0)
    plant.worker()
    until(lambda: toy.job(later)["state"] == "succeeded", SOON)
    assert workers(toy) == ["ended", "alive"]


def test_a_worker_tells_how_busy_it_is(toy: Toy, plant: Plant) -> None:
    plant.beat()
    plant.worker()
    held = toy.enqueue(Do(name="hold"))
    running(toy, held)

    def utilisation() -> float | None:
        with toy.connect() as connection:
            [worker] = fleet.list_workers(connection, ended=False)
        assert (worker["queues"], worker["pool"], worker["slots"]) == (["toy.jobs"], "prefork", 2)
        return worker["utilisation"]  # type: ignore[no-any-return]

    until(lambda: utilisation() == 0.5, SOON)
    open_gate(toy, held)
    until(lambda: utilisation() == 0, SOON)
