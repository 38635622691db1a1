"""Attempts that go on after their job was called off, or is too late, in real worker processes."""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import psutil
import pytest
import redis

from shared.celery import CeleryBroker, Service, make_celery
from shared.ledger import redrive
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.toy.events import SUBSCRIPTIONS
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Brief, Do
from tests.integration.toy.plant import ROOT, Plant
from tests.integration.toy.tasks import tasks

GRACE_SECONDS = 1.0
SOON = 40.0
"""Seconds within which something must have happened on two busy cores."""


@pytest.fixture
def environment(servers: SimpleNamespace, toy_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "MILLRACE_DATABASE_URL": toy_url,
        "MILLRACE_BROKER_URL": servers.broker,
        "MILLRACE_OBJECTS_URL": "file:///nowhere",
        "MILLRACE_LEASE_SECONDS": "10",
        "MILLRACE_LEASE_RENEWAL_SECONDS": "0.5",
        "MILLRACE_REDISPATCH_SECONDS": "1",
        "MILLRACE_STOP_GRACE_SECONDS": str(GRACE_SECONDS),
        "MILLRACE_LOG_FORMAT": "console",
    }


@pytest.fixture
def plant(
    servers: SimpleNamespace, toy: Toy, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    with redis.Redis.from_url(servers.broker) as broker:
        broker.flushall()
    plant = Plant(environment, tmp_path_factory.mktemp("plant"))
    yield plant
    plant.end()


def process_of(toy: Toy, job: UUID) -> int:
    key = f"pid {job} 1"
    [row] = until(lambda: toy.execute("SELECT result FROM effect WHERE key = %s", key), SOON)
    return int(row["result"])


def cancel(toy: Toy, job: UUID) -> None:
    redrive.cancel_one(toy.database, tasks, toy.workspace, job, "somebody")


def is_gone(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def ends(toy: Toy, job: UUID) -> str:
    until(lambda: toy.job(job)["state"] not in ("queued", "running"), SOON)
    return str(toy.job(job)["state"])


def test_a_cancelled_job_that_does_not_stop_is_killed_and_nothing_of_it_commits(toy: Toy, plant: Plant) -> None:
    plant.beat()
    worker = plant.worker()
    job, neighbour = toy.enqueue(Do(name="defy")), toy.enqueue(Do(name="hold"))
    process, other = process_of(toy, job), process_of(toy, neighbour)
    cancel(toy, job)
    until(lambda: is_gone(process), SOON)
    row = toy.job(job)
    said = "Cancelled by somebody. It did not stop within 1 s and was killed."
    assert (row["state"], row["crashes"]) == ("cancelled", 0)
    assert row["error"] == {"code": "job.cancelled", "detail": said, "stopped": True}
    [attempt] = toy.attempts(job)
    assert (attempt["outcome"], attempt["error"]["detail"]) == ("cancelled", said)
    assert (datetime.now(UTC) - row["finished_at"]).total_seconds() >= GRACE_SECONDS
    idle = "SELECT 1 FROM pg_stat_activity WHERE usename = 'toy' AND state LIKE 'idle in transaction%%'"
    until(lambda: not toy.execute(idle), SOON)
    assert toy.execute("SELECT 1 FROM effect WHERE key = %s", str(job)) == [], "its transaction was rolled back"
    assert not is_gone(other)
    toy.execute("INSERT INTO effect (key, job) VALUES (%s, %s)", f"open {neighbour}", neighbour)
    assert (ends(toy, neighbour), toy.outcomes(neighbour)) == ("succeeded", ["succeeded"])
    after = toy.enqueue(Do(name="answer"))
    assert ends(toy, after) == "succeeded", "another process took its place"
    assert worker.log.read_text().count("stopped: it went on after its end") == 1
    assert (toy.job(job)["state"], len(toy.attempts(job))) == ("cancelled", 1)


def test_the_others_of_its_message_run_again_as_if_they_had_not_begun(
    toy: Toy, plant: Plant, environment: dict[str, str]
) -> None:
    """It lets no thread of its process give them back, nor save the result of the one before."""
    before, job, after = (toy.enqueue(Do(name=name)) for name in ("answer", "clog", "answer"))
    plant.worker()
    with closing(CeleryBroker(client_of(environment))) as broker:
        broker.send_jobs(Do.kind, "toy.jobs", [before, job, after])
        process = process_of(toy, job)
        assert {toy.job(each)["state"] for each in (before, job, after)} == {"running"}
        cancel(toy, job)
        until(lambda: is_gone(process), SOON)
    until(lambda: [toy.job(each)["state"] for each in (before, after)] == ["queued", "queued"], SOON)
    plant.beat()
    for each in (before, after):
        assert ends(toy, each) == "succeeded"
        assert (toy.outcomes(each), toy.job(each)["crashes"]) == (["snoozed", "succeeded"], 0)
        assert toy.attempts(each)[0]["error"]["code"] == "attempt.beside"
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("cancelled", ["cancelled"])


def client_of(environment: dict[str, str]) -> Service:
    settings = Settings(
        database_url=environment["MILLRACE_DATABASE_URL"],  # type: ignore[arg-type]
        broker_url=environment["MILLRACE_BROKER_URL"],  # type: ignore[arg-type]
        objects_url="file:///nowhere",
    )
    return make_celery(  # type: ignore[return-value]
        Service("toy", lambda: settings, tasks, SUBSCRIPTIONS, queues=("toy.jobs",), pool="solo", concurrency=1)
    )


def test_in_a_thread_it_is_interrupted_and_the_thread_goes_on_with_other_work(toy: Toy, plant: Plant) -> None:
    plant.beat()
    worker = plant.worker(TOY_POOL="threads")
    job, other = toy.enqueue(Do(name="turn")), toy.enqueue(Do(name="turn"))
    for each in (job, other):
        process_of(toy, each)
        cancel(toy, each)
    answers = [toy.enqueue(Do(name="answer", value=n)) for n in range(10)]
    assert {ends(toy, each) for each in answers} == {"succeeded"}, "both threads were stuck, and are free"
    assert toy.job(job)["error"]["detail"].endswith("It did not stop within 1 s and was interrupted.")
    assert toy.outcomes(job) == ["cancelled"]
    assert worker.children() == []


def test_a_time_limit_holds_in_a_thread_too(toy: Toy, plant: Plant) -> None:
    plant.beat()
    plant.worker(TOY_POOL="threads")
    job = toy.enqueue(Brief())
    assert ends(toy, job) == "failed"
    assert (toy.outcomes(job), toy.job(job)["error"]["code"]) == (["retried", "failed"], "attempt.time_limit")


@pytest.mark.parametrize(("pool", "how"), [("prefork", "killed"), ("threads", "interrupted")])
def test_a_job_that_is_not_done_by_its_deadline_is_given_up_and_stopped(
    toy: Toy, plant: Plant, pool: str, how: str
) -> None:
    plant.beat()
    worker = plant.worker(TOY_POOL=pool)
    job = toy.enqueue(Do(name="turn"), deadline=datetime.now(UTC) + timedelta(seconds=SOON))
    process_of(toy, job)
    toy.execute("UPDATE job SET deadline = now() WHERE id = %s", job)
    assert ends(toy, job) == "failed"
    until(lambda: worker.says("stopped: it went on after its end"), SOON)
    said = f"Its deadline passed before it was done. It did not stop within 1 s and was {how}."
    until(lambda: toy.job(job)["error"]["detail"] == said, SOON)
    assert (toy.job(job)["error"]["code"], toy.outcomes(job)) == ("job.deadline", ["failed"])
