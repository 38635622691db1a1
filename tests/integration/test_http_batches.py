"""Batches over HTTP: owed all or none, shown with their counts, called off, and closed to other workspaces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared import ids
from shared.testing.http import TestApp
from tests.integration.toy.batches import Batches
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked, Do
from tests.integration.toy.web import ACCOUNTS, application


@pytest.fixture
def service(toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(service: TestApp, toy: Toy) -> TestClient:
    return service.client(toy.workspace)


@pytest.fixture
def made(toy: Toy) -> Batches:
    return Batches(toy)


def asked(count: int, **more: Any) -> dict[str, Any]:
    return {"kind": Asked.kind, "args": {"count": count}, **more}


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def test_a_batch_is_owed_and_shown(client: TestClient, toy: Toy) -> None:
    body = {"name": "monthly", "on_failure": "continue", "steps": [[asked(1), asked(2)], [asked(3)]]}
    answer = client.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    owed = answer.json()
    url = owed["batch"]["url"]
    assert answer.headers["location"] == url
    assert [len(step) for step in owed["jobs"]] == [2, 1]
    shown = client.get(url).json()
    assert (shown["service"], shown["name"], shown["state"], shown["on_failure"]) == (
        "toy",
        "monthly",
        "running",
        "continue",
    )
    assert (shown["step"], shown["steps"], shown["jobs"], shown["run"]) == (1, 2, 3, owed["run"]["id"])
    assert [(step["step"], step["queued"], step["succeeded"]) for step in shown["counts"]] == [(1, 2, 0), (2, 1, 0)]
    job = client.get(f"/v1/jobs/{owed['jobs'][1][0]}").json()
    assert (job["batch"], job["step"], job["not_before"]) == (owed["batch"]["id"], 2, None)
    [listed] = client.get("/v1/batches?state=running").json()["items"]
    assert listed["id"] == owed["batch"]["id"]
    found = client.get(f"/v1/jobs?batch={owed['batch']['id']}").json()["items"]
    assert sorted(each["id"] for each in found) == sorted(id for step in owed["jobs"] for id in step)


def test_a_repeated_request_gets_the_first_answer(client: TestClient, toy: Toy) -> None:
    body, key = {"steps": [[asked(1)], [asked(2)]]}, {"Idempotency-Key": "once"}
    first = client.post("/v1/batches", json=body, headers=key)
    again = client.post("/v1/batches", json=body, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(toy.execute("SELECT id FROM batch")) == 1
    other = client.post("/v1/batches", json={"steps": [[asked(2)]]}, headers=key)
    assert refusal(other) == (422, "idempotency.key_reused")


@pytest.mark.parametrize(
    ("steps", "code", "facts"),
    [
        ([], "request.invalid", {}),
        ([[asked(1)]] * 101, "request.invalid", {}),
        ([[asked(1)], []], "batch.invalid", {"step": 2}),
        ([[asked(1)] * 6000] * 2, "batch.invalid", {"limit": 10_000}),
        ([[asked(1)], [asked(1), {"kind": "toy.no.such"}]], "job.kind_unknown", {"step": 2, "index": 1}),
        ([[{"kind": Do.kind}]], "job.kind_private", {"step": 1, "index": 0}),
        (
            [[asked(1)], [{"kind": Asked.kind, "args": {"count": "x"}}]],
            "job.arguments_invalid",
            {"step": 2, "index": 0},
        ),
        ([[asked(1, unique={"key": "x"})]], "request.invalid", {}),
        ([[asked(1, deadline="2020-01-01T00:00:00Z")]], "job.times_invalid", {"step": 1, "index": 0}),
        ([[asked(1, start_by="2020-01-01T00:00:00Z")]], "job.times_invalid", {"step": 1, "index": 0}),
        ([[{"kind": Asked.kind, "args": {"count": 1, "name": "\x00"}}]], "request.unstorable", {}),
    ],
)
def test_what_cannot_be_owed_is_refused_and_nothing_is_owed(
    client: TestClient, toy: Toy, steps: Any, code: str, facts: dict[str, int]
) -> None:
    answer = client.post("/v1/batches", json={"steps": steps})
    assert refusal(answer) == (422, code)
    assert answer.json().items() >= facts.items()
    assert toy.execute("SELECT id FROM job UNION ALL SELECT id FROM batch") == []


def test_a_job_of_a_later_step_may_name_its_time(client: TestClient, made: Batches) -> None:
    later = "2199-01-01T00:00:00Z"
    owed = client.post("/v1/batches", json={"steps": [[asked(1)], [asked(2, not_before=later)]]}).json()
    made.toy.execute("UPDATE job SET state = 'cancelled' WHERE id = %s", owed["jobs"][0][0])
    made.toy.execute("UPDATE batch SET on_failure = 'continue'")
    made.go_on()
    assert client.get(f"/v1/jobs/{owed['jobs'][1][0]}").json()["not_before"] == later


def test_it_is_called_off_once(client: TestClient, toy: Toy) -> None:
    owed = client.post("/v1/batches", json={"steps": [[asked(1), asked(2)], [asked(3)]]}).json()
    url = owed["batch"]["url"]
    answer = client.post(f"{url}/cancel")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["reason"]["code"]) == ("cancelled", "batch.cancelled")
    assert [step["cancelled"] for step in answer.json()["counts"]] == [2, 1]
    job = client.get(f"/v1/jobs/{owed['jobs'][1][0]}").json()
    assert job["reason"]["detail"] == "Called off with its batch. Cancelled by test."
    assert job["interventions"][0]["by"] == "its batch"
    assert refusal(client.post(f"{url}/cancel")) == (409, "batch.wrong_state")


def test_it_is_its_workspaces_alone(service: TestApp, client: TestClient) -> None:
    url = client.post("/v1/batches", json={"steps": [[asked(1)]]}).json()["batch"]["url"]
    stranger = service.client(ids.draw())
    assert refusal(stranger.get(url)) == refusal(stranger.post(f"{url}/cancel")) == (404, "resource.not_found")
    assert stranger.get("/v1/batches").json()["items"] == []
    batch = url.rpartition("/")[2]
    assert stranger.get(f"/v1/jobs?batch={batch}").json()["items"] == []
    moved = stranger.post("/v1/jobs:cancel", json={"filter": {"batch": batch}})
    assert moved.json()["jobs"] == 0


def test_a_filter_moves_the_jobs_of_a_batch(client: TestClient) -> None:
    owed = client.post("/v1/batches", json={"steps": [[asked(1), asked(2)], [asked(3)]]}).json()
    client.post("/v1/jobs", json=asked(4))
    moved = client.post("/v1/jobs:cancel", json={"filter": {"batch": owed["batch"]["id"]}, "dry_run": True}).json()
    assert moved["jobs"] == 3


def test_why_names_the_open_step_and_what_it_waits_for(client: TestClient, made: Batches) -> None:
    batch = made.owe(["a", "b"], ["c"], name="monthly")
    waiting = batch.jobs[1][0]
    [reason, *_] = client.get(f"/v1/jobs/{waiting}/why").json()["reasons"]
    assert (reason["code"], reason["batch"], reason["step"], reason["others"]) == ("wait.batch", str(batch.id), 1, 0)
    assert reason["jobs"] == [str(job) for job in batch.jobs[0]]
    assert reason["detail"] == (
        "It is of step 2 of its batch monthly. Step 1 is open, and 2 of its jobs have not ended."
    )
    made.run_due(batch)
    [reason, *_] = client.get(f"/v1/jobs/{waiting}/why").json()["reasons"]
    assert reason["detail"].endswith("its jobs have ended: the batch is about to go on.")
    made.cancel(batch)
    [reason] = client.get(f"/v1/jobs/{waiting}/why").json()["reasons"]
    assert reason["code"] == "batch.cancelled"
    assert "Called off with its batch monthly. Cancelled by somebody." in reason["detail"]
