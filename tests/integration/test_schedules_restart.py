"""Two Beats over a PostgreSQL that is stopped, crashed and started again: every slot fires once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from infra.local import ports, postgres
from infra.local.process import Status, View
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.probe import schema
from infra.provision import DATABASE, at
from shared.beat import Leader
from shared.celery import Service
from shared.db import Database
from shared.settings import Settings
from shared.testing.waiting import until
from tests.conftest import PASSWORD
from tests.integration.toy.harness import Toy
from tests.integration.toy.scheduled import SECOND, Schedules
from tests.integration.toy.tasks import tasks
from tests.integration.toy.wire import Wire

SOON = 60.0
TAKEOVER = timedelta(seconds=15)


class Server:
    """A PostgreSQL of the test's own, with a ledger in it; it starts again whenever it ends."""

    def __init__(self, folder: Path) -> None:
        state, port = State(folder / "state"), ports.free()["postgres"]
        state.create()
        self.admin = postgres.admin_url(port, PASSWORD)
        self.url = at(self.admin, schema.NAME, PASSWORD, DATABASE)
        self._supervisor = Supervisor([postgres.process(state, port, PASSWORD)], state.log, f"restart-{os.getpid()}")

    def start(self) -> None:
        self._supervisor.start()
        self._supervisor.wait(timeout=SOON)
        schema.make(self.admin, PASSWORD)

    def stop(self) -> None:
        self._supervisor.stop()

    def restart(self, number: signal.Signals) -> None:
        """Ends it by the signal; returns when it takes connections again."""
        before = self._view()
        assert before.pid
        os.kill(before.pid, number)
        until(lambda: self._view().restarts > before.restarts and self._view().status is Status.READY, SOON)

    def _view(self) -> View:
        [view] = self._supervisor.views()
        return view


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for parent in [tmp_path, *tmp_path.parents]:  # PostgreSQL may run as another user
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


class Beats:
    """Two Beats in turn, in a thread."""

    def __init__(self, url: str, folder: Path) -> None:
        settings = Settings(database_url=url, broker_url="redis://127.0.0.1:1/0", objects_url=f"file://{folder}")  # type: ignore[arg-type]
        self._services = [
            Service("toy", lambda: settings, tasks, {}, queues=("toy.jobs",), pool="solo", concurrency=1)
            for _ in range(2)
        ]
        self._leaders = [Leader(service, Wire()) for service in self._services]  # type: ignore[arg-type]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        assert self._thread.is_alive(), "a Beat died"
        self._stopped.set()
        self._thread.join()
        for leader, service in zip(self._leaders, self._services, strict=True):
            leader.close()
            service.database.dispose()

    def _run(self) -> None:
        while not self._stopped.wait(0.01):
            for leader in self._leaders:
                leader.tick()


@contextmanager
def toy_at(url: str) -> Iterator[Toy]:
    database = Database(url, application="test")
    try:
        with closing(Toy(database)) as toy:
            yield toy
    finally:
        database.dispose()


def goes_on(url: str, schedules: list[UUID]) -> None:
    """Slots from now on fire."""
    begin = datetime.now(UTC) + SECOND
    with toy_at(url) as toy:
        latest = "SELECT min(last_slot) > %s AS fired FROM schedule WHERE id = ANY(%s)"
        until(lambda: toy.execute(latest, begin, schedules)[0]["fired"], SOON)


@pytest.mark.timeout(180)
def test_no_slot_is_missed_and_none_fires_twice_when_postgresql_restarts(server: Server, tmp_path: Path) -> None:
    with toy_at(server.url) as toy:
        begin = datetime.now(UTC)
        made = [Schedules(toy).make(begin, name="cron", cron="* * * * * *", misfire="all"),
                Schedules(toy).make(begin, name="interval", every_seconds=1, misfire="skip")]  # fmt: skip
    with closing(Beats(server.url, tmp_path)):
        for number in (signal.SIGINT, signal.SIGKILL):  # stopped in order, and crashed
            goes_on(server.url, made)
            server.restart(number)
        goes_on(server.url, made)
    with toy_at(server.url) as toy:
        for id in made:
            slots, jobs = Schedules(toy).slots(id), Schedules(toy).jobs(id)
            assert [slot["at"] for slot in slots] == [slots[0]["at"] + n * SECOND for n in range(len(slots))]
            assert {slot["outcome"] for slot in slots} == {"fired"}
            assert [job["id"] for job in jobs] == [slot["id"] for slot in slots]
            assert max(job["created_at"] - slot["at"] for job, slot in zip(jobs, slots, strict=True)) < TAKEOVER
            assert slots[0]["at"] - begin <= SECOND
