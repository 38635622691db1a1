"""Why a job waits, gathered from a ledger as it is."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared import ids
from shared.beat import LEAD
from shared.db import Connection
from shared.errors import RetryLater
from shared.ledger import outages
from shared.ledger.enqueue import Origin, enqueue
from shared.ledger.messages import JobArgs, Lane
from shared.testing.http import TestApp
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Do, Other
from tests.integration.toy.web import ACCOUNTS, application

Why = Callable[[UUID], list[dict[str, Any]]]


@pytest.fixture
def client(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestClient]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS).client(toy.workspace)
    app.state.database.dispose()


@pytest.fixture
def leader(toy: Toy) -> Iterator[Connection]:
    """A connection that leads, as a Beat's does."""
    with toy.connect() as connection:
        assert connection.execute(LEAD).fetchone() == {"leads": True}
        yield connection


@pytest.fixture
def why(client: TestClient, toy: Toy, leader: Connection) -> Why:
    """The reasons that HTTP gives, in a service with a Beat and a worker."""
    toy.worker()

    def why(job: UUID) -> list[dict[str, Any]]:
        answer = client.get(f"/v1/jobs/{job}/why")
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"] == str(job)
        reasons: list[dict[str, Any]] = answer.json()["reasons"]
        return reasons

    return why


def codes(reasons: list[dict[str, Any]]) -> list[str]:
    return [reason["code"] for reason in reasons]


def owe(toy: Toy, args: JobArgs, workspace: UUID, lane: Lane = Lane.NORMAL) -> UUID:
    with toy.database.transaction(origin=Origin.request(workspace)) as session:
        job = enqueue(session, args)
    toy.execute("UPDATE job SET priority = %s WHERE id = %s", int(lane), job)
    return job


def test_nothing_and_it_is_about_to_start(toy: Toy, why: Why) -> None:
    assert why(toy.enqueue()) == [{"code": "wait.nothing", "detail": "Nothing: it is about to start."}]


def test_its_time_and_a_back_off(toy: Toy, why: Why) -> None:
    def later(attempt: Any, args: Do) -> None:
        raise RetryLater("Not yet.", after=600)

    due = datetime.now(UTC) + timedelta(hours=1)
    [reason] = why(toy.enqueue(not_before=due))
    assert (reason["code"], datetime.fromisoformat(reason["until"])) == ("wait.time", due)
    job = toy.enqueue()
    toy.run(tasks_of(later), job)
    [reason] = why(job)
    assert (reason["code"], reason["attempt"]) == ("wait.retry", 1)
    assert "Not yet." in reason["detail"]


def test_a_pause_a_limit_and_a_rate(toy: Toy, why: Why) -> None:
    toy.execute("INSERT INTO limit_rule (key, concurrency) VALUES ('kind:toy.thing.do', 2)")
    toy.execute("INSERT INTO limit_rule (key, per_second) VALUES ('each:host', 0.01)")
    toy.execute("INSERT INTO limit_bucket VALUES ('each:host:a', 0, clock_timestamp()), ('each:host:b', 1, now())")
    job, mine, others = toy.enqueue(), toy.enqueue(), owe(toy, Do(), ids.draw())
    toy.execute("UPDATE job SET limit_key = 'host:a' WHERE id = %s", job)
    assert len(toy.claim(mine, others)) == 2
    toy.execute("INSERT INTO limit_rule (key, paused_at, paused_by) VALUES ('queue:toy.jobs', now(), 'operator')")
    rate, limit, pause = sorted(why(job), key=lambda reason: reason["key"])
    assert (rate["code"], limit["code"], pause["code"]) == ("wait.rate", "wait.limit", "wait.paused")
    assert timedelta(seconds=90) < datetime.fromisoformat(rate["until"]) - datetime.now(UTC) < timedelta(seconds=101)
    assert (limit["jobs"], limit["others"]) == ([str(mine)], 1), "those of others have no names here"
    assert pause["by"] == "operator"
    assert codes(why(toy.enqueue(Other()))) == ["wait.paused", "wait.turn"]


def test_a_worker_that_claims_passes_over_what_why_says_is_held(toy: Toy, why: Why) -> None:
    toy.execute("INSERT INTO limit_rule (key, concurrency) VALUES ('kind:toy.thing.do', 1)")
    first, second = toy.enqueue(), toy.enqueue()
    toy.claim(first)
    assert toy.claim(second) == []
    assert (why(second)[0]["code"], why(second)[0]["jobs"]) == ("wait.limit", [str(first)])


def test_its_turn(toy: Toy, why: Why) -> None:
    for _ in range(4):
        owe(toy, Do(), ids.draw(), Lane.URGENT)
    busy = ids.draw()
    for _ in range(5):
        owe(toy, Do(), busy)
    owe(toy, Do(), ids.draw())
    owe(toy, Do(), ids.draw(), Lane.BULK)
    toy.enqueue()
    [reason] = why(toy.enqueue())
    assert (reason["code"], reason["before"]) == ("wait.turn", 4 + 1 + 2 + 1), "urgent, own, two turns, one"


def test_no_worker_no_beat_and_no_broker(toy: Toy, client: TestClient, leader: Connection) -> None:
    job = toy.enqueue()

    def told() -> list[str]:
        return codes(client.get(f"/v1/jobs/{job}/why").json()["reasons"])

    assert told() == ["wait.no_worker"]
    worker = toy.worker()
    assert told() == ["wait.nothing"]
    outages.note(leader, "broker", "ConnectionError")
    first = toy.execute("SELECT since FROM outage")
    outages.note(leader, "broker", "TimeoutError")
    assert toy.execute("SELECT since FROM outage") == first
    assert told() == ["wait.broker"]
    leader.execute("SELECT pg_advisory_unlock_all()")
    assert told() == ["wait.no_beat"]
    assert leader.execute(LEAD).fetchone() == {"leads": True}
    toy.execute("UPDATE outage SET seen_at = now() - interval '1 minute'")
    assert told() == ["wait.nothing"], "what a dead leader noted says nothing"
    outages.clear(leader, "broker")
    toy.lose(worker)
    assert told() == ["wait.no_worker"]


def test_it_runs_and_how_it_ended(toy: Toy, why: Why) -> None:
    def fail(attempt: Any, args: Do) -> None:
        raise Broken("It broke.")

    worker, running, failed = toy.worker(), toy.enqueue(), toy.enqueue()
    toy.claim(running, worker=worker)
    assert codes(why(running)) == ["job.running"]
    toy.lose(worker)
    assert codes(why(running)) == ["job.lease_lost"]
    toy.run(tasks_of(fail), failed)
    [reason] = why(failed)
    assert reason["code"] == "thing.broken"
    assert reason["detail"].endswith("after 1 of 3 attempts: It broke.")


def test_another_workspaces_job_is_not_there(toy: Toy, client: TestClient) -> None:
    answer = client.get(f"/v1/jobs/{owe(toy, Do(), ids.draw())}/why")
    assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found")
