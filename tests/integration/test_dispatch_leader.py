"""The leading Beat: one at a time, and another at once when it is gone."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx2 as httpx
import psycopg
import pytest
import redis

from shared import beat, ids
from shared.beat import Leader
from shared.celery import CeleryBroker, Service, make_celery
from shared.ledger import partitions
from shared.ledger.dispatch import EventPublisher
from shared.ledger.feed import Follower
from shared.ledger.intake import Intake
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.toy.events import SUBSCRIPTIONS, noted, state
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do, Other, ThingDone
from tests.integration.toy.web import application, served
from tests.integration.toy.wire import Wire

Led = Callable[..., Leader]


@pytest.fixture
def led(toy: Toy, toy_url: str, servers: SimpleNamespace, tmp_path: Path) -> Iterator[Led]:
    """Answers a leader, as each Beat process has one."""
    made: list[tuple[Leader, Service]] = []

    def make(wire: Any = None, tasks: Any = None, **options: Any) -> Leader:
        settings = Settings(
            database_url=toy_url,  # type: ignore[arg-type]
            broker_url=options.pop("broker_url", servers.broker),
            objects_url=f"file://{tmp_path}",
            **({"lease_renewal_seconds": 0.1, "follow_seconds": 3600} | options),
        )
        service = Service(
            "toy",
            lambda: settings,
            tasks or tasks_of(lambda attempt, args: None),
            SUBSCRIPTIONS,
            queues=("toy.jobs",),
            pool="solo",
            concurrency=1,
        )
        leader = Leader(service, wire or Wire())
        made.append((leader, service))
        return leader

    yield make
    for leader, service in made:
        leader.close()
        service.database.dispose()


@pytest.fixture
def broker(servers: SimpleNamespace) -> Iterator[Any]:
    with closing(redis.Redis.from_url(servers.broker)) as client:
        client.flushall()
        yield client


def leads(leader: Leader) -> bool:
    """One round; whether it leads then."""
    return leader.tick() == 0.0


def connections(toy: Toy) -> list[int]:
    return [
        row["pid"]
        for row in toy.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'millrace-toy-leader'")
    ]


def test_one_leads_and_the_other_waits(led: Led) -> None:
    first, second = led(), led()
    assert [leads(first), leads(second), leads(first), leads(second)] == [True, False, True, False]


def test_the_other_takes_over_when_the_leaders_connection_is_gone(toy: Toy, led: Led) -> None:
    first, second = led(), led()
    leads(first)
    assert not leads(second)
    [pid] = connections(toy)
    toy.execute("SELECT pg_terminate_backend(%s)", pid)
    until(lambda: not connections(toy))
    assert leads(second), "at its next look"
    assert not leads(first)
    assert not leads(first), "it waits now"


def test_a_leader_that_stops_lets_the_other_lead_at_once(led: Led) -> None:
    first, second = led(), led()
    leads(first)
    first.close()
    assert leads(second)


def test_the_leader_forgets_what_has_aged(toy: Toy, led: Led, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "RETENTION_SECONDS", 0.02)
    long_ago = datetime(2021, 6, 9, tzinfo=UTC)
    with toy.connect() as connection:
        partitions.ensure(connection, long_ago)
    old, new = toy.enqueue(id=ids.draw(long_ago)), toy.enqueue()
    toy.run(tasks_of(lambda attempt, args: None), old, new)
    toy.execute("UPDATE job SET finished_at = %s WHERE id = %s", long_ago, old)
    toy.execute("INSERT INTO effect (key, job, created_at) VALUES ('old', %s, %s)", old, long_ago)
    assert leads(led(retention_days=90))
    until(lambda: not toy.execute("SELECT 1 FROM job WHERE id = %s", old))
    until(lambda: not toy.execute("SELECT 1 FROM effect"))
    assert toy.job(new)["state"] == "succeeded"


def test_a_frozen_leader_is_replaced(toy: Toy, led: Led, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection stays open: PostgreSQL ends it for its silence."""
    monkeypatch.setattr(beat, "FROZEN_SECONDS", 1)
    frozen, other = led(), led()
    leads(frozen)
    assert not leads(other)
    until(lambda: leads(other), 10)
    assert not leads(frozen), "thawed, it finds that it leads no more"


def test_what_a_frozen_leader_had_sent_is_sent_again_and_claimed_once(toy: Toy, led: Led) -> None:
    job = toy.enqueue()
    wires = [Wire(), Wire()]
    first, second = (led(wire) for wire in wires)
    until(lambda: leads(first) and wires[0].jobs() == [job])
    first.close()
    until(lambda: leads(second) and wires[1].jobs() == [job])
    assert [len(toy.claim(job)) for _ in wires] == [1, 0]


def test_a_leader_hears_of_new_work(toy: Toy, led: Led) -> None:
    wire = Wire()
    leader = led(wire)
    for _ in range(3):
        leader.tick()
    job = toy.enqueue()
    began = time.monotonic()
    until(lambda: leader.tick() == 0.0 and wire.jobs() == [job])
    assert time.monotonic() - began < beat.IDLE_SECONDS


def test_a_leader_waits_while_there_is_nothing_to_do(led: Led) -> None:
    leader = led()
    leader.tick()
    began = time.monotonic()
    leader.tick()
    leader.tick()
    assert time.monotonic() - began > 0.9 * beat.IDLE_SECONDS


def test_a_leader_with_a_full_broker_and_idle_workers_looks_ever_less_often(toy: Toy, led: Led) -> None:
    wire = Wire()
    for _ in range(5):
        toy.enqueue()
    leader = led(wire, dispatch_window=2)
    rounds, began = 0, time.monotonic()
    while time.monotonic() - began < 1.5:
        leader.tick()
        rounds += 1
    assert rounds < 15
    assert len(wire.jobs()) == 2


def test_a_leader_that_was_idle_looks_again_soon_once_there_is_work(toy: Toy, led: Led) -> None:
    wire = Wire()
    leader = led(wire, dispatch_window=2)
    leader.tick()
    leader.tick()  # idle for a whole second
    for _ in range(10):
        toy.enqueue()
    until(lambda: leads(leader) and len(wire.jobs()) == 2)
    began = time.monotonic()
    while len(wire.jobs()) < 10:
        toy.claim(*wire.jobs())
        leader.tick()
    assert time.monotonic() - began < beat.IDLE_SECONDS


def test_a_leader_takes_back_and_expires(toy: Toy, led: Led) -> None:
    worker = toy.worker()
    held, late = toy.enqueue(), toy.enqueue()
    toy.claim(held, worker=worker)
    toy.lose(worker)
    toy.execute("UPDATE job SET deadline = now() - interval '1 second' WHERE id = %s", late)
    leader = led()
    until(lambda: leader.tick() == 0.0 and toy.job(held)["state"] == "queued")
    assert toy.job(late)["state"] == "failed"


def test_a_new_leader_gives_workers_the_time_of_a_renewal(toy: Toy, led: Led) -> None:
    """It may come back together with the database, and the workers have not had their turn yet."""
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    toy.lose(worker)
    leader = led(lease_renewal_seconds=3600)
    for _ in range(3):
        leader.tick()
    assert toy.job(job)["state"] == "running"


@pytest.mark.parametrize("why", [psycopg.errors.LockNotAvailable, psycopg.errors.InvalidObjectDefinition])
def test_a_leader_makes_partitions_and_goes_on_when_it_cannot(
    toy: Toy, led: Led, monkeypatch: pytest.MonkeyPatch, why: type[Exception]
) -> None:
    def busy(*_: Any) -> None:
        raise why

    monkeypatch.setattr(partitions, "ensure", busy)
    wire = Wire()
    job = toy.enqueue()
    leader = led(wire)
    until(lambda: leader.tick() == 0.0 and wire.jobs() == [job])


def test_what_goes_wrong_with_one_job_does_not_stop_the_leader(toy: Toy, led: Led) -> None:
    worker = toy.worker()
    odd, job = toy.enqueue(), toy.enqueue()
    toy.claim(odd, worker=worker)
    toy.execute(
        "INSERT INTO attempt (job, number, outcome, started_at, finished_at) VALUES (%s, 1, 'lost', now(), now())", odd
    )
    toy.lose(worker)
    wire = Wire()
    leader = led(wire)
    until(lambda: leader.tick() == 0.0 and wire.jobs() == [job])
    assert leads(leader)


def test_while_the_broker_is_away_the_leader_leads_on(toy: Toy, led: Led) -> None:
    wire = Wire()
    wire.away = True
    jobs = [toy.enqueue() for _ in range(3)]
    leader = led(wire)
    for _ in range(3):
        assert leads(leader)
    assert {toy.job(job)["state"] for job in jobs} == {"queued"}
    assert toy.execute("SELECT name, detail FROM outage") == [{"name": "broker", "detail": "Away"}], "why has it"
    wire.away = False
    until(lambda: leader.tick() == 0.0 and sorted(wire.jobs()) == sorted(jobs))
    assert toy.execute("SELECT name FROM outage") == []


def test_an_event_is_placed_also_while_the_broker_is_away(toy: Toy, led: Led) -> None:
    """The feed has it: consumers need no broker."""
    wire = Wire()
    wire.away = True
    state(toy, ThingDone(name="a"))
    leader = led(wire)
    until(lambda: leader.tick() == 0.0 and toy.execute("SELECT position FROM event")[0]["position"] is not None)


def test_events_are_published_while_one_of_them_cannot_be(toy: Toy, led: Led) -> None:
    """Jobs are dispatched whatever is wrong with an event."""
    wire = Wire()
    state(toy, ThingDone(name="a"))
    toy.execute("UPDATE event SET traceparent = repeat('x', 500)")
    job = toy.enqueue(Other())
    leader = led(wire)
    until(lambda: leader.tick() == 0.0 and wire.jobs() == [job])


# The followers


def test_a_follower_reads_its_producers_feed(toy: Toy, toy_url: str, led: Led, tmp_path: Path) -> None:
    app = application(toy_url, tmp_path)
    with served(app) as url:
        for name in "abc":
            state(toy, ThingDone(name=name))
        leader = led(follow_seconds=0.1, service_urls={"toy": url}, service_key="events-key")
        until(lambda: leader.tick() == 0.0 and noted(toy) == ["a", "b", "c"])
        [newest] = toy.execute("SELECT max(position) AS position FROM event")
        until(lambda: toy.execute("SELECT position FROM cursor WHERE name = 'feed:toy'") == [newest])
    app.state.database.dispose()


@pytest.mark.parametrize("how", ["nobody answers", "another key", "no feed"])
def test_a_feed_that_cannot_be_read_is_read_later(toy: Toy, toy_url: str, led: Led, tmp_path: Path, how: str) -> None:
    app = application(toy_url, tmp_path)
    state(toy, ThingDone(name="a"))
    with served(app) as url:
        place = {"nobody answers": "http://127.0.0.1:1", "no feed": f"{url}/nothing"}.get(how, url)
        key = "wrong" if how == "another key" else "events-key"
        leader = led(follow_seconds=0.05, service_urls={"toy": place}, service_key=key)
        for _ in range(3):
            assert leads(leader), "whatever the producer says"
        assert noted(toy) == []
        assert leader._followers is not None
        assert leader._followers.is_alive()
    app.state.database.dispose()


def test_pages_are_read_until_there_is_nothing_new(toy: Toy, toy_url: str, tmp_path: Path) -> None:
    for number in range(7):
        state(toy, ThingDone(name=str(number)))
    with toy.connect() as connection:
        EventPublisher("toy", Wire()).place(connection)
    app = application(toy_url, tmp_path)
    with served(app) as url, httpx.Client() as client:
        follower = Follower("toy", url, "events-key", [ThingDone.type])
        intake = Intake(toy.database, SUBSCRIPTIONS)
        assert follower.catch_up(toy.database, intake, client) == 7
        assert follower.catch_up(toy.database, intake, client) == 0
        assert noted(toy) == [str(number) for number in range(7)]
        toy.execute("DELETE FROM cursor")  # as if it had died before it moved
        assert follower.catch_up(toy.database, intake, client) == 7
        assert len(noted(toy)) == 7
    app.state.database.dispose()


# The real broker


def test_a_wake_up_carries_ids_and_its_jobs_id_as_its_own(toy: Toy, led: Led, broker: Any) -> None:
    wire = real(led())
    job, group = ids.draw(), [ids.draw(), ids.draw()]
    wire.send_jobs(Do.kind, "toy.jobs", [job])
    wire.send_jobs(Do.kind, "toy.jobs", group)
    assert wire.depth("toy.jobs") == 2
    assert wire.depth("toy.events") == 0
    first = broker.rpop("toy.jobs").decode()
    assert str(job) in first
    assert f'"id": "{job}"' in first
    wire.close()


def test_a_broker_that_hangs_does_not_hang_the_leader(toy: Toy, led: Led, broker: Any) -> None:
    wire = real(led())
    wire.send_jobs(Do.kind, "toy.jobs", [ids.draw()])
    broker.client_pause(5000)
    refused(wire)
    until(lambda: sent(wire, ids.draw()), 20)
    wire.close()


def test_a_broker_that_never_answers_does_not_hang_the_leader(toy: Toy, led: Led) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(real(led(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")))


def refused(wire: CeleryBroker) -> None:
    """Within seconds."""
    began = time.monotonic()
    with pytest.raises(Exception):  # noqa: B017, PT011  # kombu's and redis' errors have no common base
        wire.send_jobs(Do.kind, "toy.jobs", [ids.draw()])
    wire.close()
    assert time.monotonic() - began < 10


def sent(wire: CeleryBroker, job: UUID) -> bool:
    wire.send_jobs(Do.kind, "toy.jobs", [job])
    return True


def real(leader: Leader) -> CeleryBroker:
    return CeleryBroker(make_celery(leader._service))
