"""Limits and pauses over HTTP, of a service's own ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared.auth import digest
from shared.ledger import limit_rules, limits
from shared.settings import StaticKey
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do
from tests.integration.toy.web import ACCOUNTS, application

OPERATOR = StaticKey(sha256=digest("operator-key"), scopes=frozenset({"operator"}))


@pytest.fixture
def client(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestClient]:
    app = application(toy_url, tmp_path, APIRouter(), static_keys=ACCOUNTS | {"operator": OPERATOR})
    yield TestClient(app, headers={"Authorization": "Bearer operator-key"})
    app.state.database.dispose()


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def rules(client: TestClient) -> dict[str, dict[str, Any]]:
    return {rule["key"]: rule for rule in client.get("/v1/limits").json()["items"]}


def test_a_rule_is_set_listed_replaced_and_deleted(client: TestClient, toy: Toy) -> None:
    made = client.put("/v1/limits/kind:toy.thing.do", json={"concurrency": 1})
    assert made.status_code == 200, made.text
    assert (made.json()["service"], made.json()["concurrency"], made.json()["updated_by"]) == ("toy", 1, "operator")
    held, waiting = toy.enqueue(Do()), toy.enqueue(Do())
    assert [job.id for job in toy.claim(held, waiting)] == [held]
    assert rules(client)["kind:toy.thing.do"]["running"] == 1
    client.put("/v1/limits/kind:toy.thing.do", json={"per_second": 5, "burst": 10})
    [rule] = rules(client).values()
    assert (rule["concurrency"], rule["per_second"], rule["burst"]) == (None, 5.0, 10)
    assert [job.id for job in toy.claim(waiting)] == [waiting]
    assert client.delete("/v1/limits/kind:toy.thing.do").status_code == 204
    assert rules(client) == {}
    assert refusal(client.delete("/v1/limits/kind:toy.thing.do")) == (404, "resource.not_found")


@pytest.mark.parametrize("key", ["queue:toy.jobs", "kind:toy.thing.do"])
def test_a_queue_or_kind_is_paused_and_resumed(client: TestClient, toy: Toy, key: str) -> None:
    job = toy.enqueue(Do())
    paused = client.post(f"/v1/limits/{key}/pause")
    assert paused.status_code == 200, paused.text
    assert paused.json()["paused_by"] == "operator"
    assert client.post(f"/v1/limits/{key}/pause").json() == paused.json(), "since when, and by whom, it was first"
    assert toy.claim(job) == []
    assert refusal(client.delete(f"/v1/limits/{key}")) == (409, "limit.paused")
    assert client.post(f"/v1/limits/{key}/resume").status_code == 204
    assert rules(client) == {}, "a rule that only paused is gone"
    assert [job.id for job in toy.claim(job)] == [job]
    assert refusal(client.post(f"/v1/limits/{key}/resume")) == (409, "limit.not_paused")


def test_a_pause_leaves_the_limits_and_limits_leave_the_pause(client: TestClient) -> None:
    key = "queue:toy.jobs"
    client.put(f"/v1/limits/{key}", json={"concurrency": 7})
    client.post(f"/v1/limits/{key}/pause")
    assert client.put(f"/v1/limits/{key}", json={"concurrency": 8}).json()["paused_by"] == "operator"
    client.post(f"/v1/limits/{key}/resume")
    assert (rules(client)[key]["concurrency"], rules(client)[key]["paused_at"]) == (8, None)


def test_each_name_is_counted_and_shown_together(client: TestClient, toy: Toy) -> None:
    client.put("/v1/limits/each:host", json={"concurrency": 1})
    client.put("/v1/limits/key:host:a", json={"concurrency": 2})
    client.put(f"/v1/limits/workspace:{toy.workspace}", json={"weight": 2.5})
    jobs = [toy.enqueue(Do()) for _ in range(3)]
    for job, host in zip(jobs, ("host:a", "host:a:80", "other:a"), strict=True):
        toy.execute("UPDATE job SET limit_key = %s WHERE id = %s", host, job)
    assert len(toy.claim(*jobs)) == 3
    found = {key: rule["running"] for key, rule in rules(client).items()}
    assert found == {"each:host": 2, "key:host:a": 1, f"workspace:{toy.workspace}": 3}


@pytest.mark.parametrize(
    ("key", "body", "code"),
    [
        ("kind:toy.thing.do", {"concurrency": 0}, "request.invalid"),
        ("kind:toy.thing.do", {"concurrency": 1.5}, "request.invalid"),
        ("kind:toy.thing.do", {"per_second": -1}, "request.invalid"),
        ("kind:toy.thing.do", {"per_second": 1e-300}, "request.invalid"),
        ("kind:toy.thing.do", {"per_second": "NaN"}, "request.invalid"),
        ("kind:toy.thing.do", {"burst": 3}, "request.invalid"),
        ("kind:toy.thing.do", {}, "request.invalid"),
        ("kind:toy.thing.do", {"concurency": 3}, "request.invalid"),
        ("kind:toy.thing.do", {"weight": 2}, "limit.key_invalid"),
        ("kind:toy.thing.undo", {"concurrency": 1}, "limit.key_unknown"),
        ("queue:toy.thing.do", {"concurrency": 1}, "limit.key_unknown"),
        ("kinds:toy.thing.do", {"concurrency": 1}, "limit.key_invalid"),
        ("toy.jobs", {"concurrency": 1}, "limit.key_invalid"),
        ("queue:", {"concurrency": 1}, "limit.key_invalid"),
        ("workspace:acme", {"weight": 2}, "limit.key_invalid"),
        ("workspace:0190F5F4-0000-7000-8000-000000000000", {"weight": 2}, "limit.key_invalid"),
        ("each:host:a", {"concurrency": 1}, "limit.key_invalid"),
        ("key:host", {"concurrency": 1}, "limit.key_invalid"),
        ("key:host:a b", {"concurrency": 1}, "limit.key_invalid"),
        ("key:host:" + "a" * 300, {"concurrency": 1}, "limit.key_invalid"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    client: TestClient, key: str, body: dict[str, Any], code: str
) -> None:
    assert refusal(client.put(f"/v1/limits/{key}", json=body)) == (422, code)
    assert rules(client) == {}


def test_what_a_service_has_is_told_to_who_asks_for_what_it_has_not(client: TestClient) -> None:
    answer = client.put("/v1/limits/queue:toy.job", json={"concurrency": 1}).json()
    assert (answer["detail"], answer["known"]) == ("toy has no queue named 'toy.job'.", ["toy.jobs"])


@pytest.mark.parametrize("key", ["each:host", "key:host:a", f"workspace:{UUID(int=7)}"])
def test_only_queues_and_kinds_are_paused(client: TestClient, key: str) -> None:
    assert refusal(client.post(f"/v1/limits/{key}/pause")) == (422, "limit.not_pausable")


def test_there_are_only_so_many_rules(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_rules, "MOST_RULES", 1)
    assert client.put("/v1/limits/each:a", json={"concurrency": 1}).status_code == 200
    assert client.put("/v1/limits/each:a", json={"concurrency": 2}).status_code == 200
    assert refusal(client.put("/v1/limits/each:b", json={"concurrency": 1})) == (409, "limit.too_many")


def test_full_buckets_and_those_without_a_rule_are_forgotten(client: TestClient, toy: Toy) -> None:
    client.put("/v1/limits/each:host", json={"per_second": 1, "burst": 5})
    for key, tokens, age in (("each:host:new", 0, 2), ("each:host:full", 0, 60), ("kind:gone", 0, 0)):
        toy.execute(
            "INSERT INTO limit_bucket VALUES (%s, %s, clock_timestamp() - make_interval(secs => %s))", key, tokens, age
        )
    with toy.connect() as connection:
        limits.forget(connection)
    assert [row["key"] for row in toy.execute("SELECT key FROM limit_bucket")] == ["each:host:new"]
