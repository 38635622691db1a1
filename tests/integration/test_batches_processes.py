"""Batches under real processes: Beats that are killed while steps end, and a broker that is emptied."""

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from shared.ledger.batches import enqueue_batch
from shared.ledger.enqueue import Origin
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked
from tests.integration.toy.plant import ROOT, Plant

STEPS = 24
SOON = 90.0
"""Seconds within which it must be done on two busy cores."""


@pytest.fixture
def broker(servers: SimpleNamespace) -> Iterator[Any]:
    with closing(redis.Redis.from_url(servers.broker)) as client:
        client.flushall()
        yield client


@pytest.fixture
def plant(servers: SimpleNamespace, toy_url: str, broker: Any, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(
        {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "MILLRACE_DATABASE_URL": toy_url,
            "MILLRACE_BROKER_URL": servers.broker,
            "MILLRACE_OBJECTS_URL": f"file://{tmp_path}",
            "MILLRACE_REDISPATCH_SECONDS": "1",
            "MILLRACE_FOLLOW_SECONDS": "3600",
            "MILLRACE_LOG_FORMAT": "console",
        },
        tmp_path,
    )
    yield made
    made.end()


def test_every_step_opens_once_though_beats_are_killed_and_the_broker_is_emptied(
    toy: Toy, plant: Plant, broker: Any
) -> None:
    plant.worker()
    beats = [plant.beat(), plant.beat()]
    sizes = [1 + number % 5 for number in range(STEPS)]
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        owed = enqueue_batch(session, [[Asked(count=number)] * size for number, size in enumerate(sizes)])

    def stands() -> dict[str, Any]:
        [row] = toy.execute("SELECT step, state FROM batch WHERE id = %s", owed.id)
        return row

    for step in (5, 14):
        until(lambda step=step: stands()["step"] >= step, SOON)  # type: ignore[misc]
        plant.end(beats.pop(0))  # whichever leads: the other one takes over, or goes on
        broker.flushall()
        beats.append(plant.beat())
    until(lambda: stands()["state"] == "succeeded", SOON)
    rows = toy.execute("SELECT * FROM job WHERE batch = %s", owed.id)
    assert {(row["state"], row["attempt"]) for row in rows} == {("succeeded", 1)}
    assert len(rows) == sum(sizes)
    steps = [[row for row in rows if row["step"] == number] for number in range(1, STEPS + 1)]
    for before, after in pairwise(steps):
        assert max(row["finished_at"] for row in before) <= min(row["started_at"] for row in after)
