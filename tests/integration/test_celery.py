"""The ledger through real Celery processes: what dies is run again, what was done is done once."""

import base64
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import redis
from celery.result import AsyncResult

from infra.provision import at
from shared import ids
from shared.celery import CeleryBroker, Service, make_celery
from shared.db import Database, raw
from shared.ledger.messages import JobArgs
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.conftest import TABLES
from tests.integration.toy.events import SUBSCRIPTIONS
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Brief, Do
from tests.integration.toy.plant import ROOT, Plant, Running
from tests.integration.toy.tasks import tasks
from tests.integration.toy.web import application, served

LEASE_SECONDS = 2.0
SOON = 20.0
"""Seconds within which something must have happened on two busy cores."""


@pytest.fixture(scope="module")
def environment(
    servers: SimpleNamespace, toy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("objects")
    app = application(toy_url, folder)
    with served(app) as url:
        yield {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "MILLRACE_DATABASE_URL": toy_url,
            "MILLRACE_BROKER_URL": servers.broker,
            "MILLRACE_OBJECTS_URL": f"file://{folder}",
            "MILLRACE_SERVICE_URLS": f'{{"toy": "{url}"}}',
            "MILLRACE_SERVICE_KEY": "events-key",
            "MILLRACE_LEASE_SECONDS": str(LEASE_SECONDS),
            "MILLRACE_LEASE_RENEWAL_SECONDS": "0.5",
            "MILLRACE_REDISPATCH_SECONDS": "1",
            "MILLRACE_FOLLOW_SECONDS": "3600",
            "MILLRACE_LOG_FORMAT": "console",
        }
    app.state.database.dispose()


@pytest.fixture(scope="module")
def broker(servers: SimpleNamespace) -> Iterator[Any]:
    with closing(redis.Redis.from_url(servers.broker)) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def plant(
    environment: dict[str, str], broker: Any, toy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    database = Database(toy_url, application="toy-test")
    with database.connect() as connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}")
    plant = Plant(environment, tmp_path_factory.mktemp("plant"))
    try:
        yield plant
    finally:
        plant.end()
        database.dispose()


@pytest.fixture
def works(plant: Plant, open_toy: Callable[[], Database], request: pytest.FixtureRequest) -> Iterator["Works"]:
    """The toy with its processes; each test looks at its own jobs alone."""
    with closing(Toy(open_toy())) as toy:
        yield Works(toy, plant)


_running: dict[str, Running] = {}


class Works:
    def __init__(self, toy: Toy, plant: Plant) -> None:
        self.toy = toy
        self.plant = plant

    # The processes. They go on from test to test; who kills one starts another.

    def run(self, name: str, **environment: str) -> Running:
        """The running worker or Beat; started when there is none, or when it needs another environment."""
        if name in _running and environment:
            self.end(name)
        if name not in _running:
            start = self.plant.worker if name == "worker" else self.plant.beat
            _running[name] = start(**environment)
        return _running[name]

    def all(self) -> Running:
        """Beat and worker run; answers the worker."""
        self.run("beat")
        return self.run("worker")

    def end(self, name: str) -> None:
        if name in _running:
            self.plant.end(_running.pop(name))

    # Jobs

    def owe(self, args: JobArgs | None = None, **options: Any) -> UUID:
        return self.toy.enqueue(args or Do(name="answer", value="done"), **options)

    def state(self, job: UUID) -> str:
        """Its state; queued as well while an event is on its way to become it."""
        rows = self.toy.execute("SELECT state FROM job WHERE id = %s", job)
        return str(rows[0]["state"]) if rows else "queued"

    def ends(self, job: UUID, seconds: float = SOON) -> dict[str, Any]:
        until(lambda: self.state(job) not in ("queued", "running"), seconds)
        return self.toy.job(job)

    def pid(self, job: UUID, attempt: int = 1) -> int:
        """The process that runs a `hold`, once it does."""
        key = f"pid {job} {attempt}"
        [row] = until(lambda: self.toy.execute("SELECT result FROM effect WHERE key = %s", key), SOON)
        return int(row["result"])

    def open(self, job: UUID) -> None:
        self.toy.execute("INSERT INTO effect (key, job) VALUES (%s, %s) ON CONFLICT DO NOTHING", f"open {job}", job)

    def effects(self, job: UUID) -> int:
        return len(self.toy.execute("SELECT 1 FROM effect WHERE key = %s", str(job)))


def hold() -> Do:
    return Do(name="hold")


def test_a_job_runs_from_its_commit_to_its_result(works: Works) -> None:
    works.all()
    job = works.owe(Do(name="answer", value={"n": 1}))
    row = works.ends(job)
    assert (row["state"], row["attempt"], row["result"]) == ("succeeded", 1, {"n": 1})


def test_a_job_starts_at_once_and_not_at_the_next_look(works: Works) -> None:
    """Beat hears of it by NOTIFY."""
    works.all()
    works.ends(works.owe())
    seconds = []
    for _ in range(5):
        row = works.ends(works.owe())
        seconds.append((row["started_at"] - row["created_at"]).total_seconds())
    assert min(seconds) < 0.5


def test_an_event_becomes_a_job_by_way_of_the_broker(works: Works) -> None:
    works.all()
    job = works.owe(Do(name="tell"))
    works.ends(job)
    [event] = works.toy.execute("SELECT * FROM event WHERE causation = %s", job)
    assert works.ends(ids.derive(event["id"], "toy.thing.note"))["state"] == "succeeded"


def test_many_jobs_all_run_once(works: Works) -> None:
    works.all()
    jobs = [works.owe(Do(name="answer", value=n)) for n in range(100)]
    assert [works.ends(job)["result"] for job in jobs] == list(range(100))
    assert {works.toy.job(job)["attempt"] for job in jobs} == {1}


def test_celerys_result_is_the_ledgers(works: Works, environment: dict[str, str]) -> None:
    works.all()
    app = client_of(environment)
    running, done, failed = works.owe(hold()), works.owe(Do(name="answer", value=[1])), works.owe(Do(name="no-such"))
    works.toy.execute("UPDATE job SET max_attempts = 1 WHERE id = %s", failed)
    works.pid(running)
    works.ends(done)
    works.ends(failed)
    assert AsyncResult(str(running), app=app).status == "STARTED"
    assert (AsyncResult(str(done), app=app).status, AsyncResult(str(done), app=app).get()) == ("SUCCESS", [1])
    result = AsyncResult(str(failed), app=app)
    assert result.status == "FAILURE"
    with pytest.raises(Exception, match="no-such") as raised:
        result.get()
    assert type(raised.value).__name__ == "attempt.error"
    assert AsyncResult(str(ids.draw()), app=app).status == "PENDING"
    assert AsyncResult("not a job", app=app).status == "PENDING"
    with app.service.database.transaction() as session:
        [own] = raw(session).execute("SELECT pg_backend_pid() AS pid").fetchall()
    works.toy.execute("SELECT pg_terminate_backend(%s)", own["pid"])
    assert AsyncResult(str(done), app=app).status == "SUCCESS", "after PostgreSQL was restarted too"
    works.open(running)
    works.ends(running)
    app.service.database.dispose()


def test_celerys_tools_see_the_worker_and_what_it_does(works: Works, environment: dict[str, str]) -> None:
    works.all()
    app = client_of(environment)
    seen: set[str] = set()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": lambda event: seen.add(event["uuid"])})
        watching = threading.Thread(target=receiver.capture, daemon=True)
        watching.start()
        jobs: list[str] = []

        def is_seen() -> bool:
            """Of the first nothing may be seen: the receiver is only just beginning to listen."""
            jobs.append(str(works.owe()))
            works.ends(UUID(jobs[-1]))
            return bool(seen & set(jobs))

        until(is_seen, SOON)
        [registered] = app.control.inspect(timeout=SOON, limit=1).registered().values()
        assert Do.kind in registered
        receiver.should_stop = True
        works.ends(works.owe())
        watching.join(SOON)


def client_of(environment: dict[str, str]) -> Any:
    """The toy's Celery app in this process."""
    settings = Settings(
        database_url=environment["MILLRACE_DATABASE_URL"],  # type: ignore[arg-type]
        broker_url=environment["MILLRACE_BROKER_URL"],  # type: ignore[arg-type]
        objects_url=environment["MILLRACE_OBJECTS_URL"],
    )
    return make_celery(
        Service("toy", lambda: settings, tasks, SUBSCRIPTIONS, queues=("toy.jobs",), pool="solo", concurrency=1)
    )


# What dies


def test_a_job_whose_process_is_killed_runs_again_within_seconds(works: Works) -> None:
    works.all()
    job, neighbour = works.owe(hold()), works.owe(hold())
    works.pid(neighbour)
    os.kill(works.pid(job), signal.SIGKILL)
    again = works.pid(job, attempt=2)
    assert again != works.pid(job)
    for each in (job, neighbour):
        works.open(each)
    row = works.ends(job)
    assert (row["state"], row["attempt"], row["crashes"], row["result"]) == ("succeeded", 2, 1, {"attempt": 2})
    assert works.effects(job) == 1
    [lost, _] = works.toy.attempts(job)
    assert (lost["outcome"], lost["error"]["code"]) == ("lost", "worker.lost")
    assert (lost["finished_at"] - lost["started_at"]).total_seconds() < 10
    assert works.ends(neighbour)["attempt"] == 1, "its neighbour does not notice"


def test_a_job_that_kills_its_process_each_time_is_quarantined(works: Works) -> None:
    works.all()
    poison = works.owe(Do(name="die"))
    others = [works.owe() for _ in range(10)]
    row = works.ends(poison, 40)
    assert (row["state"], row["error"]["code"], row["crashes"]) == ("failed", "job.quarantined", 3)
    assert {works.ends(job)["state"] for job in others} == {"succeeded"}


def test_a_job_past_its_time_limit_is_interrupted(works: Works) -> None:
    works.all()
    job = works.owe(Brief())
    row = works.ends(job)
    assert row["state"] == "failed"
    assert row["error"]["code"] == "attempt.time_limit"
    # The limit may come before the body begins: that was no try.
    tries = [outcome for outcome in works.toy.outcomes(job) if outcome != "snoozed"]
    assert tries == ["retried", "failed"]


def test_the_jobs_of_a_worker_that_is_killed_run_again_after_its_lease(works: Works) -> None:
    works.all()
    job = works.owe(hold())
    works.pid(job)
    works.run("worker").send_all(signal.SIGKILL)
    works.end("worker")
    until(lambda: works.state(job) == "queued", LEASE_SECONDS + 10)
    works.run("worker")
    works.pid(job, attempt=2)
    works.open(job)
    row = works.ends(job)
    assert (row["state"], row["attempt"], row["crashes"]) == ("succeeded", 2, 1)
    assert works.effects(job) == 1


def test_a_worker_that_was_frozen_past_its_lease_is_refused(works: Works) -> None:
    works.run("beat")
    frozen = works.run("worker")
    job = works.owe(hold())
    works.pid(job)
    frozen.send_all(signal.SIGSTOP)
    until(lambda: works.state(job) == "queued", LEASE_SECONDS + 10)
    other = works.plant.worker()
    works.pid(job, attempt=2)
    works.open(job)
    row = works.ends(job)
    frozen.send_all(signal.SIGCONT)
    until(lambda: frozen.says("attempt refused"), SOON)
    assert works.toy.job(job) == row
    assert (row["state"], row["result"], works.effects(job)) == ("succeeded", {"attempt": 2}, 1)
    again = works.owe()
    assert works.ends(again)["state"] == "succeeded"
    works.plant.end(other)


def test_a_worker_told_to_stop_finishes_what_it_runs_and_loses_nothing(works: Works) -> None:
    """Also work that takes longer than a lease: it is renewed to the end."""
    worker = works.all()
    job = works.owe(hold())
    works.pid(job)
    worker.send(signal.SIGTERM)
    until(lambda: worker.says("Warm shutdown"), SOON)
    waiting = [works.owe() for _ in range(5)]
    held = works.toy.job(job)["worker"]
    leases = renewals(works, held)
    until(lambda: renewals(works, held) > leases, LEASE_SECONDS + 5)
    until(lambda: renewals(works, held) > leases + LEASE_SECONDS, 2 * LEASE_SECONDS + 10)
    works.open(job)
    assert worker.wait(SOON) == 0
    row = works.toy.job(job)
    assert (row["state"], row["attempt"], row["crashes"]) == ("succeeded", 1, 0)
    works.end("worker")
    works.run("worker")
    for each in waiting:
        row = works.ends(each)
        assert (row["state"], row["crashes"]) == ("succeeded", 0)


def renewals(works: Works, worker: UUID) -> float:
    [row] = works.toy.execute(
        "SELECT extract(epoch FROM lease_until)::float AS until FROM worker WHERE id = %s", worker
    )
    return float(row["until"])


# The broker


def test_jobs_that_the_broker_forgot_run_all_the_same(works: Works, broker: Any) -> None:
    works.run("beat")
    works.end("worker")
    jobs = [works.owe() for _ in range(5)]
    until(lambda: in_broker(broker) >= {str(job) for job in jobs}, SOON)
    broker.flushall()
    works.run("worker")
    assert {works.ends(job)["state"] for job in jobs} == {"succeeded"}
    assert {works.toy.job(job)["attempt"] for job in jobs} == {1}


def in_broker(broker: Any) -> set[str]:
    """The jobs whose wake-ups wait there; short ones share a message."""
    bodies = [json.loads(entry)["body"] for entry in broker.lrange("toy.jobs", 0, -1)]
    return {job for body in bodies for job in json.loads(base64.b64decode(body))[0][0]}


def test_what_is_no_message_is_dropped_and_the_worker_goes_on(works: Works, broker: Any) -> None:
    worker = works.all()
    for entry in (b"", b"not JSON", b"\x00\xff", b"[]", b"{}", b"null", b'{"properties": {}}', b'{"properties": []}'):
        broker.lpush("toy.jobs", entry)
    assert works.ends(works.owe())["state"] == "succeeded"
    assert worker.says("malformed message dropped")
    assert not worker.says("Unrecoverable error")


def test_bindings_that_the_broker_forgot_come_back(works: Works, broker: Any) -> None:
    works.all()
    works.ends(works.owe())
    until(lambda: broker.exists("_kombu.binding.millrace.events"), SOON)
    broker.flushall()
    until(lambda: broker.exists("_kombu.binding.millrace.events"), SOON)
    test_an_event_becomes_a_job_by_way_of_the_broker(works)


def test_an_event_that_the_broker_lost_comes_by_the_feed(works: Works, broker: Any) -> None:
    works.end("worker")
    works.run("beat", MILLRACE_FOLLOW_SECONDS="1")
    broker.flushall()  # nobody is bound: what is published now reaches nobody
    worker = works.run("worker", TOY_POOL="threads")
    job = works.owe(Do(name="tell"))
    works.ends(job)
    [event] = works.toy.execute("SELECT * FROM event WHERE causation = %s", job)
    assert works.ends(ids.derive(event["id"], "toy.thing.note"))["state"] == "succeeded"
    worker.send(signal.SIGTERM)
    assert worker.wait(SOON) == 0
    works.end("worker")


def test_work_goes_on_after_the_broker_was_killed(works: Works, servers: SimpleNamespace, broker: Any) -> None:
    works.all()
    works.ends(works.owe())
    servers.kill_broker()
    jobs = [works.owe() for _ in range(5)]
    assert {works.ends(job, 40)["state"] for job in jobs} == {"succeeded"}


def test_while_the_broker_is_away_it_says_so_within_seconds(environment: dict[str, str], broker: Any) -> None:
    app = client_of({**environment, "MILLRACE_BROKER_URL": "redis://127.0.0.1:1/0"})
    wire = CeleryBroker(app)
    with pytest.raises(Exception, match="refused"):
        wire.send_jobs(Do.kind, Do.queue, [ids.draw()])
    with pytest.raises(Exception, match="refused"):
        wire.depth(Do.queue)
    wire.close()


# Beat


def test_a_second_beat_takes_over_at_once(works: Works) -> None:
    works.all()
    works.ends(works.owe())
    second = works.plant.beat()
    until(lambda: second.says("beat: Starting"), SOON)
    assert not second.says("leading")
    works.run("beat").send_all(signal.SIGKILL)
    until(lambda: second.says("leading"), 10)
    assert works.ends(works.owe())["state"] == "succeeded"
    works.end("beat")
    second.send(signal.SIGTERM)
    assert second.wait(10) == 0
    works.plant.end(second)


def test_a_folder_of_logs_holds_no_secret(plant: Plant, environment: dict[str, str], toy_url: str) -> None:
    logs = plant.logs()
    assert "leading" in logs
    assert at(toy_url).split("@")[0].split(":")[-1] not in logs
    assert environment["MILLRACE_SERVICE_KEY"] not in logs
