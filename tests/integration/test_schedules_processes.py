"""Schedules under real Beat processes that are killed, frozen and cut off: every slot fires once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis

from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.plant import ROOT, Plant, Running
from tests.integration.toy.scheduled import Schedules

TAKEOVER_SECONDS = 15.0
SOON = 60.0
"""Seconds within which processes must have started on two busy cores."""


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


class Watch:
    """Schedules that fire every second, and how late they were at worst since the last look."""

    def __init__(self, toy: Toy, schedules: Schedules, ids: list[UUID]) -> None:
        self.toy, self.schedules, self.ids = toy, schedules, ids

    def now(self) -> datetime:
        [row] = self.toy.execute("SELECT clock_timestamp() AS now")
        found: datetime = row["now"]
        return found.astimezone(UTC)

    def goes_on(self, seconds: float = SOON) -> None:
        """Slots from now on fire."""
        begun = self.now() + timedelta(seconds=1)
        until(lambda: all(self._last(id) > begun for id in self.ids), seconds)

    def late(self, since: datetime) -> float:
        [row] = self.toy.execute(
            "SELECT max(extract(epoch FROM decided_at - due_at))::float AS late FROM slot WHERE at > %s", since
        )
        return float(row["late"])

    def _last(self, id: UUID) -> datetime:
        [row] = self.toy.execute("SELECT max(at) AS last FROM slot WHERE schedule = %s", id)
        return row["last"] or datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def watch(toy: Toy) -> Watch:
    schedules = Schedules(toy)
    begin = datetime.now(UTC)
    made = [schedules.make(begin, cron="* * * * * *", misfire="all"),
            schedules.make(begin, every_seconds=1, misfire="once"),
            schedules.make(begin, every_seconds=1, misfire="skip", jitter_seconds=1)]  # fmt: skip
    return Watch(toy, schedules, made)


def leads(beat: Running) -> Callable[[], bool]:
    return lambda: beat.says("leading")


def test_no_slot_is_missed_and_none_fires_twice_whatever_dies(
    watch: Watch, plant: Plant, broker: Any, toy: Toy, servers: SimpleNamespace
) -> None:
    plant.worker()
    first = plant.beat()
    until(leads(first), SOON)
    second = plant.beat()
    watch.goes_on()

    killed_at = watch.now()
    first.send_all(signal.SIGKILL)
    until(leads(second), SOON)
    watch.goes_on()
    assert watch.late(killed_at) < TAKEOVER_SECONDS

    broker.flushall()
    third = plant.beat()
    until(lambda: third.says("Starting"), SOON)
    watch.goes_on()

    frozen_at = watch.now()
    second.send_all(signal.SIGSTOP)
    until(leads(third), SOON)
    watch.goes_on()
    second.send_all(signal.SIGCONT)
    watch.goes_on()
    assert watch.late(frozen_at) < TAKEOVER_SECONDS

    with psycopg.connect(servers.postgres, autocommit=True) as connection:  # as a restart of the database does
        connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE usename = 'toy' AND application_name LIKE 'millrace-toy%'"""
        )
    watch.goes_on()

    ends = watch.now()
    plant.end(second, third)
    for id in watch.ids:
        slots = [row["at"] for row in toy.execute("SELECT at FROM slot WHERE schedule = %s ORDER BY at", id)]
        assert slots == [slots[0] + timedelta(seconds=n) for n in range(len(slots))], "each second once"
        assert set(watch.schedules.outcomes(id)) == {"fired"}
        assert len(watch.schedules.jobs(id)) == len(slots)
        assert ends - slots[-1] < timedelta(seconds=TAKEOVER_SECONDS)
    last = plant.beat()
    until(leads(last), SOON)
    with_jobs = "SELECT count(*) AS left FROM job WHERE cause = 'schedule' AND state <> 'succeeded' AND id < %s"
    known = max(job["id"] for id in watch.ids for job in watch.schedules.jobs(id))
    until(lambda: toy.execute(with_jobs, known)[0]["left"] == 0, SOON)
