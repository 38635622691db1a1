"""Batches at the gateway: of its own kinds, of a service behind it, and all in one list."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.api.adapters.peers import Patience, Peers
from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared import ids
from shared.db import Database
from shared.testing.ledger import jobs, run_due
from tests.integration.api_service import PEERS_BATCH, bearer, front_door, workspace_and_key

CANARY = {"kind": RunCanary.kind, "args": {"text": "hello"}}
FAR = {"kind": "ingest.some.kind"}


@pytest.fixture
def database(service_database: Callable[[str], Database]) -> Database:
    return service_database("api")


@pytest.fixture
def caller(
    database: Database, environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TestClient]:
    """The gateway's client with a workspace's key."""
    environment("api")
    with front_door(monkeypatch, tmp_path) as client:
        _, key = workspace_and_key(client)
        client.headers.update(bearer(key))
        yield client


def own(database: Database) -> list[str]:
    return [job["state"] for job in jobs(database, kind=RunCanary.kind)]


def test_its_own_kinds_run_in_steps_to_their_end(caller: TestClient, database: Database) -> None:
    answer = caller.post("/v1/batches", json={"name": "three", "steps": [[CANARY, CANARY], [CANARY]]})
    assert answer.status_code == 202, answer.text
    url = answer.json()["batch"]["url"]
    assert answer.headers["location"] == url
    assert [run["id"] for run in caller.get("/v1/runs").json()["items"]] == [answer.json()["run"]["id"]]
    assert [step["queued"] for step in caller.get(url).json()["counts"]] == [2, 1]
    run_due(database, tasks)
    assert own(database) == ["succeeded"] * 3
    assert caller.get(url).json()["state"] == "succeeded"
    assert caller.get(answer.json()["run"]["url"]).json()["state"] == "succeeded"


def test_its_own_batch_is_called_off_and_the_run_is_told(caller: TestClient, database: Database) -> None:
    owed = caller.post("/v1/batches", json={"steps": [[CANARY], [CANARY]]}).json()
    assert caller.post(f"{owed['batch']['url']}/cancel").json()["state"] == "cancelled"
    assert own(database) == ["cancelled", "cancelled"]
    assert caller.post(f"{owed['batch']['url']}/cancel").status_code == 409
    run_due(database, tasks)
    assert caller.get(owed["run"]["url"]).json()["state"] == "cancelled"


def test_another_services_kinds_go_to_it(caller: TestClient) -> None:
    body = {"name": "far", "on_failure": "stop", "steps": [[FAR], [FAR, FAR]]}
    answer = caller.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["got"] == body
    assert [run["id"] for run in caller.get("/v1/runs").json()["items"]] == [answer.json()["run"]["id"]]
    url = f"/v1/batches/{PEERS_BATCH}"
    assert caller.get(url).json()["service"] == "ingest"
    assert caller.post(f"{url}/cancel").json()["state"] == "cancelled"


def test_all_are_in_one_list(caller: TestClient) -> None:
    owed = caller.post("/v1/batches", json={"steps": [[CANARY]]}).json()
    page = caller.get("/v1/batches").json()
    assert {item["id"] for item in page["items"]} == {owed["batch"]["id"], str(PEERS_BATCH)}
    assert (page["next"], page["unreachable"]) == (None, [])


@pytest.mark.parametrize(
    ("steps", "code", "facts"),
    [
        ([[CANARY], [CANARY, FAR]], "job.batch_mixed", {"step": 2, "index": 1}),
        ([[{"kind": "nowhere.x.y"}]], "job.kind_unknown", {"step": 1, "index": 0}),
        ([[CANARY], []], "batch.invalid", {"step": 2}),
    ],
)
def test_what_is_no_batch_of_one_service_is_refused(
    caller: TestClient, database: Database, steps: list[list[dict[str, str]]], code: str, facts: dict[str, int]
) -> None:
    answer = caller.post("/v1/batches", json={"steps": steps})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json().items() >= facts.items()
    assert own(database) == []


def test_a_service_that_is_down_is_told_of(caller: TestClient) -> None:
    caller.app.state.peers = Peers({"ingest": "http://127.0.0.1:1"}, Patience(connect=0.5, ask=1))  # type: ignore[attr-defined]
    assert caller.get("/v1/batches").json()["unreachable"] == ["ingest"]
    answer = caller.get(f"/v1/batches/{ids.draw()}")
    assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
