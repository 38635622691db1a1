"""Workers that are taken out, and that start themselves again, over real processes."""

import base64
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from celery import Celery

from shared.ledger import fleet
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do
from tests.integration.toy.plant import ROOT, Plant, Running
from tests.integration.toy.proxy import Proxy

DEAF_SECONDS = 3.0
MESSAGES = 200
SOON = 40.0
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
        "MILLRACE_DEAF_SECONDS": str(DEAF_SECONDS),
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


# Deaf workers


@pytest.fixture
def proxy(servers: SimpleNamespace) -> Iterator[Proxy]:
    url = urlsplit(servers.broker)
    assert url.hostname
    assert url.port
    proxy = Proxy(url.hostname, url.port)
    yield proxy
    proxy.close()


def by_way_of(proxy: Proxy, broker: str) -> dict[str, str]:
    return {"MILLRACE_BROKER_URL": broker.replace(f":{urlsplit(broker).port}", f":{proxy.port}")}


def test_a_worker_that_takes_nothing_any_more_ends_what_it_runs_and_stops(
    toy: Toy, plant: Plant, servers: SimpleNamespace
) -> None:
    plant.beat()
    process = plant.worker()
    held = toy.enqueue(Do(name="hold"))
    running(toy, held)
    until(lambda: process.says("hears itself"), SOON)
    with Celery(broker=servers.broker) as app:
        until(lambda: app.control.broadcast("go_deaf", reply=True), SOON)
    until(lambda: process.says("deaf: "), SOON)
    waiting = toy.enqueue(Do(name="answer", value=1))
    open_gate(toy, held)
    assert process.wait(SOON) == 1
    assert toy.outcomes(held) == ["succeeded"]
    assert (toy.job(waiting)["state"], workers(toy)) == ("queued", ["ended"])


def test_a_worker_whose_connection_leads_nowhere_is_started_again(
    toy: Toy, plant: Plant, servers: SimpleNamespace, proxy: Proxy
) -> None:
    """Its main thread waits for an answer that never comes: told to stop, it may not even hear that."""
    plant.beat()
    supervisor = plant.supervisor(**by_way_of(proxy, servers.broker))
    supervisor.start()
    try:
        supervisor.wait(timeout=SOON)
        until(lambda: "hears itself" in plant.logs(), SOON)
        proxy.freeze()
        job = toy.enqueue(Do(name="answer", value=1))
        until(lambda: toy.job(job)["state"] == "succeeded", 2 * SOON)
        assert [view.restarts for view in supervisor.views()] == [1]
        until(lambda: plant.logs().count("hears itself") == 2, SOON)
    finally:
        supervisor.stop()


def test_a_worker_whose_broker_is_away_waits_for_it(
    toy: Toy, plant: Plant, servers: SimpleNamespace, proxy: Proxy
) -> None:
    """One that answers nobody, then one that sends everybody away, each for longer than a worker may be deaf."""
    plant.beat()
    process = plant.worker(**by_way_of(proxy, servers.broker))
    until(lambda: process.says("hears itself"), SOON)
    proxy.is_dark = True
    proxy.freeze()
    until(lambda: failures(process) >= 3, SOON)
    proxy.is_dark, proxy.is_shut = False, True
    proxy.drop()
    until(lambda: failures(process) >= 6, SOON)
    proxy.is_shut = False
    job = toy.enqueue(Do(name="answer", value=1))
    until(lambda: toy.job(job)["state"] == "succeeded", SOON)
    assert not process.says("deaf")
    assert workers(toy) == ["alive"], "the same one"


def failures(process: Running) -> int:
    """How often it tried to reach its broker in vain; there are at least two seconds between."""
    log = process.log.read_text()
    return log.count("the broker is away") + log.count("Trying again in")


def test_celerys_own_events_travel_together(servers: SimpleNamespace, plant: Plant) -> None:
    """Three a message: received, started, succeeded."""
    with Celery(broker=servers.broker, set_as_current=False) as app, redis.Redis.from_url(servers.broker) as broker:
        for _ in range(MESSAGES):
            app.send_task(Do.kind, ([],), queue="toy.jobs", ignore_result=True)
        with broker.pubsub(ignore_subscribe_messages=True) as heard:
            heard.psubscribe("*celeryev*")
            sent: list[int] = []

            def is_all_told() -> bool:
                while (message := heard.get_message()) is not None:
                    events = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                    if isinstance(events, list):
                        sent.append(len(events))
                return sum(sent) >= 3 * MESSAGES

            plant.worker()
            until(is_all_told, SOON)
    assert sum(sent) == 3 * MESSAGES
    assert len(sent) < MESSAGES / 4, "published for a turn of the worker's loop each"
