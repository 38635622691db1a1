"""Jobs counted over time, of a service's own ledger."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared import ids
from shared.ledger import counts
from shared.testing.http import TestApp
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Asked, Do
from tests.integration.toy.web import ACCOUNTS, application

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
DAY = {"created_from": NOON.isoformat(), "created_until": (NOON + 24 * HOUR).isoformat()}
FINE = tasks_of(lambda attempt, args: None)


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace)


def owe(toy: Toy, at: datetime, args: Any = None) -> UUID:
    """A job as if it had been owed then."""
    job = toy.enqueue(args, id=ids.draw(at))
    toy.execute("UPDATE job SET created_at = %s WHERE id = %s", at, job)
    return job


def run(toy: Toy, job: UUID, *, waited: float, took: float) -> None:
    """To its end, as if it had waited and taken so many seconds."""
    toy.run(FINE, job)
    toy.execute(
        """UPDATE job SET started_at = created_at + make_interval(secs => %s),
                          finished_at = created_at + make_interval(secs => %s) WHERE id = %s""",
        waited,
        waited + took,
        job,
    )


def count(client: TestClient, **query: Any) -> Any:
    answer = client.get("/v1/jobs:counts", params=DAY | query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_jobs_are_counted_by_bucket_and_kind_with_how_long_they_waited_and_took(client: TestClient, toy: Toy) -> None:
    for number in range(1, 5):
        run(toy, owe(toy, NOON + number * MINUTE), waited=number, took=10 * number)
    owe(toy, NOON + HOUR)
    owe(toy, NOON + HOUR, Asked(count=1))
    found = count(client)
    assert (found["bucket"], found["is_complete"]) == ("hour", True)
    first, asked, second = found["buckets"]
    assert datetime.fromisoformat(first["start"]) == NOON
    assert (first["kind"], first["jobs"], first["states"]) == (Do.kind, 4, {"succeeded": 4})
    assert first["wait"] == {"p50": 2.5, "p95": pytest.approx(3.85), "max": 4}
    assert first["took"] == {"p50": 25, "p95": pytest.approx(38.5), "max": 40}
    assert (asked["kind"], second["kind"], second["states"]) == (Asked.kind, Do.kind, {"queued": 1})
    assert (second["wait"], second["took"]) == (None, None)
    whole = {each["kind"]: each for each in found["kinds"]}
    assert (whole[Do.kind]["jobs"], whole[Do.kind]["states"]) == (5, {"succeeded": 4, "queued": 1})
    assert whole[Do.kind]["wait"]["max"] == 4
    assert [each["kind"] for each in count(client, kind=Asked.kind)["kinds"]] == [Asked.kind]
    minutes = count(client, bucket="minute", created_until=(NOON + HOUR).isoformat())["buckets"]
    assert [datetime.fromisoformat(each["start"]) for each in minutes] == [NOON + n * MINUTE for n in range(1, 5)]
    [day] = count(client, bucket="day", kind=Do.kind)["buckets"]
    assert datetime.fromisoformat(day["start"]) == NOON - 12 * HOUR


def test_a_job_that_was_tried_again_waited_until_its_first_try(client: TestClient, toy: Toy) -> None:
    job = owe(toy, NOON)
    toy.run(tasks_of(lambda attempt, args: 1 / 0), job)
    toy.execute("UPDATE attempt SET started_at = %s WHERE job = %s", NOON + MINUTE, job)
    toy.execute("UPDATE job SET started_at = %s WHERE id = %s", NOON + MINUTE, job)
    assert count(client)["kinds"][0]["wait"]["max"] == 60, "it waits for the next one"
    toy.execute("UPDATE job SET not_before = now() WHERE id = %s", job)
    run(toy, job, waited=100, took=5)
    assert count(client)["kinds"][0]["wait"]["max"] == 60
    assert count(client)["kinds"][0]["took"]["max"] == 5


def test_every_state_is_counted(client: TestClient, toy: Toy) -> None:
    def broken(attempt: Any, args: Do) -> None:
        raise Broken("No.")

    failed, running, cancelled, _ = (owe(toy, NOON) for _ in range(4))
    toy.run(tasks_of(broken), failed)
    toy.claim(running)
    client.post(f"/v1/jobs/{cancelled}/cancel")
    [kind] = count(client)["kinds"]
    assert kind["states"] == {"failed": 1, "running": 1, "cancelled": 1, "queued": 1}


def test_bounds_are_of_creation_and_the_last_day_is_the_default(client: TestClient, toy: Toy) -> None:
    owe(toy, NOON - MINUTE)
    owe(toy, NOON + 24 * HOUR)
    owe(toy, NOON + 90 * MINUTE)
    assert [each["jobs"] for each in count(client, created_from=(NOON + 80 * MINUTE).isoformat())["buckets"]] == [1]
    assert len(count(client)["buckets"]) == 1
    fresh = toy.enqueue()
    found = client.get("/v1/jobs:counts").json()
    assert [each["jobs"] for each in found["buckets"]] == [1]
    length = datetime.fromisoformat(found["until"]) - datetime.fromisoformat(found["since"])
    assert 23 * HOUR <= length <= 24 * HOUR
    assert toy.job(fresh)["state"] == "queued"


def test_of_too_many_jobs_the_newest_are_counted(client: TestClient, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_JOBS", 3)
    for number in range(5):
        owe(toy, NOON + number * HOUR)
    found = count(client)
    assert (found["is_complete"], found["kinds"][0]["jobs"]) == (False, 3)
    assert datetime.fromisoformat(found["since"]) == NOON + HOUR, "where the last one that is left out was"
    monkeypatch.setattr(counts, "MOST_JOBS", 5)
    assert (count(client)["is_complete"], count(client)["kinds"][0]["jobs"]) == (True, 5)


def test_another_workspaces_jobs_are_not_counted(site: TestApp, toy: Toy) -> None:
    owe(toy, NOON)
    assert count(site.client())["buckets"] == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"bucket": "week"}, "query.bucket"),
        ({"created_from": "yesterday"}, "query.created_from"),
        ({"created_until": "2026-11-20T12:00:00"}, "query.created_until"),
        ({"created_until": (NOON - HOUR).isoformat()}, "The range is empty"),
        ({"bucket": "minute"}, "more than 500 buckets"),
        ({"created_from": "1970-01-01T00:00:00Z"}, "more than 500 buckets"),
    ],
)
def test_a_wrong_range_is_told(client: TestClient, query: dict[str, str], said: str) -> None:
    answer = client.get("/v1/jobs:counts", params=DAY | query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert said in answer.json()["detail"]
