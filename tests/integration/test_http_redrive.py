"""Retry and cancel over HTTP, of a service's own jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared import ids
from shared.ledger.messages import Lane
from shared.testing.http import TestApp
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Asked, Do
from tests.integration.toy.web import ACCOUNTS, application


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace)


def fail(toy: Toy, *names: str) -> list[str]:
    def body(attempt: Any, args: Do) -> None:
        raise Broken(f"{args.name} broke.")

    jobs = [toy.enqueue(Do(name=name)) for name in names]
    toy.run(tasks_of(body), *jobs)
    return [str(job) for job in jobs]


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_job_is_cancelled_and_driven_again(client: TestClient, toy: Toy) -> None:
    job = toy.enqueue(Asked(count=1))
    cancelled = client.post(f"/v1/jobs/{job}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["reason"] == {"code": "job.cancelled", "detail": "Cancelled by test."}
    assert refusal(client.post(f"/v1/jobs/{job}/cancel")) == (409, "job.wrong_state")
    driven = client.post(f"/v1/jobs/{job}/retry", json={"args": {"count": 2}})
    assert (driven.status_code, driven.json()["state"]) == (200, "queued")
    assert driven.json()["args"] == {"count": 2, "name": ""}
    acts = driven.json()["interventions"]
    assert [(act["act"], act["by"], act["state"]) for act in acts] == [
        ("cancelled", "test", "queued"),
        ("redriven", "test", "cancelled"),
    ]
    assert acts[1]["args"] == {"count": 1, "name": ""}
    again = client.post(f"/v1/jobs/{job}/retry")
    assert refusal(again) == (409, "job.wrong_state")
    assert again.json()["state"] == "queued"


def test_a_waiting_job_is_put_into_another_lane(client: TestClient, toy: Toy) -> None:
    job = toy.enqueue()
    moved = client.post(f"/v1/jobs/{job}/prioritise", json={"lane": "urgent"})
    assert (moved.status_code, moved.json()["lane"], moved.json()["state"]) == (200, "urgent", "queued")
    [act] = moved.json()["interventions"]
    assert (act["act"], act["by"], act["state"], act["lane"]) == ("prioritised", "test", "queued", "normal")
    again = client.post(f"/v1/jobs/{job}/prioritise", json={"lane": "urgent"}).json()
    assert len(again["interventions"]) == 1, "it was there"
    toy.claim(job)
    refused = client.post(f"/v1/jobs/{job}/prioritise", json={"lane": "bulk"})
    assert refusal(refused) == (409, "job.wrong_state")
    assert refused.json()["detail"] == "The job is running: only queued jobs can be prioritised."
    assert toy.job(job)["priority"] == Lane.URGENT


def test_waiting_jobs_that_match_are_put_into_another_lane(client: TestClient, toy: Toy) -> None:
    done, running = toy.enqueue(), toy.enqueue()
    toy.run(tasks_of(lambda attempt, args: None), done)
    toy.claim(running)
    waiting, other, there = toy.enqueue(), toy.enqueue(Asked(count=1)), toy.enqueue()
    client.post(f"/v1/jobs/{there}/prioritise", json={"lane": "bulk"})
    body = {"filter": {"kind": Do.kind}, "lane": "bulk"}
    counted = client.post("/v1/jobs:prioritise", json={**body, "dry_run": True}).json()
    assert (counted["jobs"], counted["by_kind"]) == (1, {Do.kind: 1})
    assert toy.job(waiting)["priority"] == Lane.NORMAL
    moved = client.post("/v1/jobs:prioritise", json=body).json()
    assert (moved["jobs"], moved["more"]) == (1, False)
    lanes = [toy.job(job)["priority"] for job in (done, running, waiting, other, there)]
    assert lanes == [Lane.NORMAL, Lane.NORMAL, Lane.BULK, Lane.NORMAL, Lane.BULK]
    assert client.post("/v1/jobs:prioritise", json={"filter": {}, "lane": "urgent", "limit": 2}).json()["more"] is True


def test_wrong_arguments_are_told(client: TestClient, toy: Toy) -> None:
    asked, [private] = toy.enqueue(Asked(count=1)), fail(toy, "a")
    client.post(f"/v1/jobs/{asked}/cancel")
    wrong = client.post(f"/v1/jobs/{asked}/retry", json={"args": {"count": "x"}})
    assert refusal(wrong) == (422, "job.arguments_invalid")
    assert refusal(client.post(f"/v1/jobs/{private}/retry", json={"args": {}})) == (422, "job.kind_private")
    assert refusal(client.post(f"/v1/jobs/{private}/retry", json={"arg": {}})) == (422, "request.invalid")
    assert client.post(f"/v1/jobs/{private}/retry").json()["state"] == "queued"


def test_a_dry_run_counts_and_moves_nothing(client: TestClient, toy: Toy) -> None:
    jobs = fail(toy, "first", "second")
    body = {"filter": {"error": "first broke"}, "dry_run": True}
    answer = client.post("/v1/jobs:retry", json=body).json()
    assert (answer["dry_run"], answer["jobs"], answer["by_kind"]) == (True, 1, {Do.kind: 1})
    assert {str(toy.job(job)["state"]) for job in map(ids.UUID, jobs)} == {"failed"}
    answer = client.post("/v1/jobs:retry", json={**body, "dry_run": False}).json()
    assert (answer["jobs"], answer["more"]) == (1, False)
    assert [toy.job(job)["state"] for job in map(ids.UUID, jobs)] == ["queued", "failed"]
    waiting = client.post("/v1/jobs:cancel", json={"filter": {}, "dry_run": True}).json()
    assert (waiting["jobs"], waiting["until"]) == (1, None)


def test_a_redrive_of_many_goes_on_where_the_last_one_ended(client: TestClient, toy: Toy) -> None:
    jobs = fail(toy, "a", "b", "c")
    first = client.post("/v1/jobs:retry", json={"filter": {}, "limit": 2, "per_second": 0.1}).json()
    assert (first["jobs"], first["more"]) == (2, True)
    second = client.post("/v1/jobs:retry", json={"filter": {}, "not_before": first["until"], "per_second": 0.1}).json()
    assert (second["jobs"], second["more"]) == (1, False)
    due = [toy.job(job)["not_before"] for job in map(ids.UUID, jobs)]
    assert [round((later - due[0]).total_seconds(), 3) for later in due] == [0, 10, 20]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/jobs:retry", {}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {"state": "running"}}, "request.unprocessable"),
        ("/v1/jobs:cancel", {"filter": {"state": "failed"}}, "request.unprocessable"),
        ("/v1/jobs:cancel", {"filter": {"stat": "queued"}}, "request.invalid"),
        ("/v1/jobs:cancel", {"filter": {}, "limit": 0}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {}, "per_second": 0}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {}, "per_second": 1e9}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {}, "per_second": 1e-11}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {}, "per_second": 1e-300}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {"created_from": "2026-01-01"}}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {"created_from": "0001-01-01T00:00:00Z"}}, "request.invalid"),
        ("/v1/jobs:retry", {"filter": {"error": ""}}, "request.invalid"),
        ("/v1/jobs:prioritise", {"filter": {}}, "request.invalid"),
        ("/v1/jobs:prioritise", {"filter": {}, "lane": "fast"}, "request.invalid"),
        ("/v1/jobs:prioritise", {"filter": {"state": "running"}, "lane": "bulk"}, "request.unprocessable"),
    ],
)
def test_a_wrong_request_is_told_and_moves_nothing(
    client: TestClient, toy: Toy, path: str, body: dict[str, Any], code: str
) -> None:
    [job] = fail(toy, "a")
    assert refusal(client.post(path, json=body)) == (422, code)
    assert toy.job(ids.UUID(job))["state"] == "failed"


def test_jobs_are_found_by_time_and_error(client: TestClient, toy: Toy) -> None:
    first, _ = fail(toy, "first", "second")

    def found(**query: Any) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=query).json()["items"]]

    assert found(error="FIRST") == [first]
    assert found(created_from="2100-01-01T00:00:00Z") == []
    assert len(found(created_until="2100-01-01T00:00:00Z", state="failed")) == 2
    assert client.get("/v1/jobs", params={"created_from": "yesterday"}).status_code == 422


def test_moving_needs_the_scope_and_the_workspace(site: TestApp, toy: Toy) -> None:
    [job] = fail(toy, "a")
    reader = site.client(toy.workspace, frozenset({"read"}))
    for move in ("retry", "cancel", "prioritise"):
        for path in (f"/v1/jobs/{job}/{move}", f"/v1/jobs:{move}"):
            assert refusal(reader.post(path, json={"filter": {}})) == (403, "auth.forbidden")
    stranger = site.client()
    assert refusal(stranger.post(f"/v1/jobs/{job}/retry")) == (404, "resource.not_found")
    assert stranger.post("/v1/jobs:retry", json={"filter": {}}).json()["jobs"] == 0
