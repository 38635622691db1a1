"""Schedules at the gateway: its own, those of the services behind it, and all in one list."""

from datetime import UTC, datetime, timedelta

import pytest

from services.api.adapters.peers import Patience, Peers
from services.api.tasks import tasks
from shared import ids
from shared.ledger import firing
from shared.testing.ledger import jobs, run_due
from tests.integration.api_service import PEERS_SCHEDULE, bearer, front_door, workspace_and_key

CANARY = {"name": "hello", "kind": "api.canary.run", "args": {"text": "hello"}, "cron": "*/5 * * * *"}


@pytest.fixture
def database(service_database):
    return service_database("api")


@pytest.fixture
def client(database, environment, monkeypatch, tmp_path):
    environment("api")
    with front_door(monkeypatch, tmp_path) as client:
        yield client


@pytest.fixture
def caller(client):
    """The gateway's client with a workspace's key."""
    _, key = workspace_and_key(client)
    client.headers.update(bearer(key))
    return client


def test_its_own_kinds_are_scheduled_fired_and_looked_at(caller, database):
    made = caller.post("/v1/schedules", json=CANARY)
    assert made.status_code == 201, made.text
    schedule = made.json()
    assert made.headers["location"] == schedule["url"]
    assert (schedule["service"], schedule["state"], schedule["fired"]) == ("api", "active", 0)
    with database.connect() as connection:
        firing.fire_due(connection, tasks, datetime.fromisoformat(schedule["next_at"]).astimezone(UTC))
    run_due(database, tasks)
    [job] = jobs(database, kind="api.canary.run")
    assert job["state"] == "succeeded"
    [slot] = caller.get(f"{schedule['url']}/history").json()["items"]
    assert (slot["outcome"], slot["job"]["id"], slot["run"]["id"]) == ("fired", str(job["id"]), str(job["run"]))
    assert caller.get(slot["run"]["url"]).json()["state"] == "succeeded"
    shown = caller.get(schedule["url"]).json()
    assert (shown["fired"], shown["last_job"]["id"]) == (1, str(job["id"]))


def test_every_route_works_on_its_own(caller, database):
    url = caller.post("/v1/schedules", json=CANARY).json()["url"]
    assert caller.post(f"{url}/pause").json()["state"] == "paused"
    assert caller.get("/v1/schedules?state=paused").json()["items"][0]["url"] == url
    assert caller.put(url, json=CANARY | {"name": "later"}).json()["name"] == "later"
    assert caller.post(f"{url}/resume").json()["state"] == "active"
    assert len(caller.get(f"{url}/preview?count=3").json()["items"]) == 3
    ran = caller.post(f"{url}/run", headers={"Idempotency-Key": "once"})
    assert ran.status_code == 202
    assert caller.post(f"{url}/run", headers={"Idempotency-Key": "once"}).json() == ran.json()
    assert [run["id"] for run in caller.get("/v1/runs").json()["items"]] == [ran.json()["run"]["id"]]
    assert [job["kind"] for job in jobs(database)].count("api.canary.run") == 1
    assert caller.delete(url).status_code == 204
    assert caller.get(url).status_code == 404


def test_a_schedule_goes_to_the_service_that_its_kind_begins_with(caller):
    body = {"name": "weekly", "kind": "reports.definition.render", "args": {"x": 1}, "cron": "0 8 * * MON"}
    made = caller.post("/v1/schedules", json=body)
    assert made.status_code == 201
    assert made.json()["got"] == body


def test_what_another_service_has_is_reached_by_its_id_alone(caller):
    url = f"/v1/schedules/{PEERS_SCHEDULE}"
    assert caller.get(url).json() == {"id": str(PEERS_SCHEDULE)}
    ran = caller.post(f"{url}/run")
    assert ran.status_code == 202
    assert [run["id"] for run in caller.get("/v1/runs").json()["items"]] == [ran.json()["run"]["id"]]
    body = {"name": "weekly", "kind": "reports.definition.render", "cron": "0 8 * * MON"}
    assert caller.put(url, json=body).json()["got"] == body
    assert caller.delete(url).status_code == 204
    assert caller.get(f"/v1/schedules/{ids.draw()}").status_code == 404


def test_a_service_that_does_not_answer_may_have_it(caller, monkeypatch):
    known = caller.app.state.peers
    caller.app.state.peers = Peers({"reports": "http://127.0.0.1:1"}, Patience(connect=1, ask=1))
    try:
        assert caller.get("/v1/schedules").json()["unreachable"] == ["reports"]
        answer = caller.delete(f"/v1/schedules/{ids.draw()}")
        assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
    finally:
        caller.app.state.peers = known


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (CANARY | {"kind": "nobody.thing.do"}, "job.kind_unknown"),
        (CANARY | {"kind": "api.run.settle"}, "job.kind_private"),
        (CANARY | {"args": {"text": 1}}, "job.arguments_invalid"),
        (CANARY | {"cron": "* * *"}, "request.invalid"),
    ],
)
def test_a_wrong_schedule_is_refused_at_the_gateway(caller, body, code):
    answer = caller.post("/v1/schedules", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_times_are_previewed_without_any_service(caller):
    body = {"cron": "30 2 * * *", "zone": "Europe/Berlin", "start": "2027-03-28T00:00:00"}
    [first, second] = caller.post("/v1/schedules/preview?count=2", json=body).json()["items"]
    assert first["local"] == "2027-03-28T03:00:00+02:00"
    assert first["note"] == "02:30:00 does not exist that day: fires at 03:00:00"
    assert (second["local"], second["note"]) == ("2027-03-29T02:30:00+02:00", None)
    assert datetime.fromisoformat(second["at"]) - datetime.fromisoformat(first["at"]) == timedelta(hours=23.5)
