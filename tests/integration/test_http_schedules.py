"""The routes of a service's schedules, as every service has them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared import ids
from shared.ledger import firing, schedules
from shared.testing.http import TestApp
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked
from tests.integration.toy.tasks import tasks
from tests.integration.toy.web import ACCOUNTS, application

HOURLY = {"name": "hourly", "kind": Asked.kind, "args": {"count": 1}, "cron": "0 * * * *", "zone": "Europe/Berlin"}

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path)
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace)


def make(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/schedules", json=HOURLY | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def fire(toy: Toy, at: str) -> None:
    with toy.connect() as connection:
        firing.fire_due(connection, tasks, datetime.fromisoformat(at).astimezone(UTC))


def test_a_schedule_is_shown_as_it_was_made_with_what_was_left_out(client: TestClient) -> None:
    made = make(client)
    assert client.get(made["url"]).json() == made
    assert {name: made[name] for name in HOURLY} == HOURLY
    assert (made["misfire"], made["overlap"], made["grace_seconds"], made["jitter_seconds"]) == ("once", "allow", 60, 0)
    following = datetime.fromisoformat(made["next_at"])
    assert following.minute == following.second == 0
    assert timedelta(0) < following - datetime.now(UTC) <= timedelta(hours=1)


def test_times_without_an_offset_are_those_of_the_zone(client: TestClient) -> None:
    made = make(client, cron=None, at="2036-07-01T09:00:00", start="2036-07-01T03:00:00+00:00", zone="Asia/Kathmandu")
    assert datetime.fromisoformat(made["at"]) == datetime(2036, 7, 1, 3, 15, tzinfo=UTC)
    late = client.post(
        "/v1/schedules",
        json=HOURLY | {"name": "n", "cron": None, "at": "2036-07-01T09:00:00", "end": "2036-07-01T09:00"},
    )
    assert (late.status_code, late.json()["code"]) == (422, "schedule.never")


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"zone": "Europe/Brelin"}, "body.zone", "'Europe/Brelin' is no IANA time zone; near it are Europe/Berlin"),
        ({"cron": "61 * * * *"}, "body.cron", "minute: 61 is not between 0 and 59"),
        ({"cron": "* * * *"}, "body.cron", "5 fields are needed"),
        ({"cron": "0 0 30 2 *"}, "body.cron", "no day of the calendar fits"),
        ({"cron": None}, "body", "one of cron, every_seconds and at is needed"),
        (
            {"every_seconds": 60},
            "body",
            "and at is needed; there are cron and every_seconds",
        ),
        ({"cron": None, "every_seconds": 0}, "body.every_seconds", "greater than or equal to 1"),
        ({"start": "2030-01-01T00:00", "end": "2029-01-01T00:00"}, "body", "end: it is not later than start"),
        ({"end": "9999-01-01T00:00"}, "body.end", "the year 9999 is not between 2000 and 2200"),
        ({"jitter_seconds": -1}, "body.jitter_seconds", "greater than or equal to 0"),
        ({"misfire": "never"}, "body.misfire", "'skip', 'once' or 'all'"),
        ({"overlap": "merge"}, "body.overlap", "'allow', 'skip', 'queue' or 'cancel'"),
        ({"lane": "fast"}, "body.lane", "'urgent', 'normal' or 'bulk'"),
        ({"name": " x"}, "body.name", "printable characters"),
        ({"name": "a\x00b"}, "body.name", "printable characters"),
        ({"name": ""}, "body.name", "at least 1 character"),
        ({"hour": 3}, "body.hour", "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said_with_the_fields_name(
    client: TestClient, changes: dict[str, Any], where: str, said: str
) -> None:
    answer = client.post("/v1/schedules", json=HOURLY | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
    [error] = answer.json()["errors"]
    assert error["where"] == where
    assert said in error["detail"]
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "toy.gone.do"}, "job.kind_unknown"),
        ({"kind": "toy.thing.do"}, "job.kind_private"),
        ({"args": {}}, "job.arguments_invalid"),
        ({"args": {"count": 1, "what": 2}}, "job.arguments_invalid"),
        ({"args": {"count": 1, "name": "a\x00"}}, "request.unprocessable"),
        ({"args": {"count": 1, "name": "\ud800"}}, "request.unprocessable"),
        ({"cron": None, "at": "2020-01-01T00:00:00Z"}, "schedule.never"),
        ({"end": "2020-01-01T00:00:00Z"}, "schedule.never"),
    ],
)
def test_what_could_never_fire_is_refused(client: TestClient, changes: dict[str, Any], code: str) -> None:
    answer = client.post("/v1/schedules", content=json.dumps(HOURLY | changes), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_name_is_taken_once_a_workspace(client: TestClient, site: TestApp) -> None:
    made, other = make(client), make(client, name="other")
    for answer in (client.post("/v1/schedules", json=HOURLY), client.put(other["url"], json=HOURLY)):
        assert (answer.status_code, answer.json()["code"]) == (409, "schedule.name_taken")
    assert make(site.client(ids.draw()))["id"] != made["id"]


def test_a_workspace_has_a_bounded_number(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "SCHEDULES_A_WORKSPACE", 2)
    make(client), make(client, name="second")
    answer = client.post("/v1/schedules", json=HOURLY | {"name": "third"})
    assert (answer.status_code, answer.json()["code"]) == (409, "schedule.too_many")


def test_they_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    made = [make(client, name=f"s{n}")["id"] for n in range(5)]
    first = client.get("/v1/schedules?limit=3").json()
    rest = client.get(f"/v1/schedules?limit=3&after={first['next']}").json()
    assert [item["id"] for item in first["items"] + rest["items"]] == sorted(made, reverse=True)
    assert rest["next"] is None
    assert client.get("/v1/schedules?kind=no.such.kind").json()["items"] == []


def test_a_new_definition_keeps_the_next_time_unless_the_times_change(client: TestClient, toy: Toy) -> None:
    made = make(client, cron=None, every_seconds=3600)
    same = client.put(made["url"], json=HOURLY | {"cron": None, "every_seconds": 3600, "args": {"count": 9}}).json()
    assert (same["args"]["count"], same["next_at"]) == (9, made["next_at"])
    changed = client.put(made["url"], json=HOURLY | {"cron": "0 0 1 1 *"}).json()
    assert (changed["every_seconds"], changed["cron"]) == (None, "0 0 1 1 *")
    assert changed["next_at"] != made["next_at"]
    wrong = client.put(made["url"], json=HOURLY | {"kind": "toy.thing.do"})
    assert wrong.status_code == 422
    assert client.get(made["url"]).json()["cron"] == "0 0 1 1 *"


def test_a_broken_one_goes_on_with_a_new_definition(client: TestClient, toy: Toy) -> None:
    made = make(client)
    toy.execute("UPDATE schedule SET zone = 'Mars/Olympus'")
    fire(toy, made["next_at"])
    broken = client.get(made["url"]).json()
    assert (broken["state"], broken["reason"]["code"], broken["next_at"]) == ("broken", "schedule.broken", None)
    for path in ("resume", "preview"):
        answer = client.request("GET" if path == "preview" else "POST", f"{made['url']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "schedule.state")
        assert "no IANA time zone" in answer.json()["detail"]
    mended = client.put(made["url"], json=HOURLY).json()
    assert (mended["state"], mended["reason"]) == ("active", None)


def test_paused_it_says_no_next_time_and_resumed_it_does(client: TestClient) -> None:
    made = make(client)
    paused = client.post(f"{made['url']}/pause").json()
    assert (paused["state"], paused["next_at"]) == ("paused", None)
    assert client.post(f"{made['url']}/resume").json()["next_at"] == made["next_at"]


def test_run_now_is_a_run_of_its_own_and_once_a_key(client: TestClient, toy: Toy) -> None:
    made = make(client)
    client.post(f"{made['url']}/pause")
    first = client.post(f"{made['url']}/run", headers={"Idempotency-Key": "k"})
    again = client.post(f"{made['url']}/run", headers={"Idempotency-Key": "k"})
    other = client.post(f"{made['url']}/run")
    assert (first.status_code, again.json(), other.json() != first.json()) == (202, first.json(), True)
    assert first.headers["location"] == first.json()["job"]["url"]
    history = client.get(f"{made['url']}/history").json()["items"]
    assert [slot["reason"]["code"] for slot in history] == ["schedule.run_now"] * 2
    assert len(toy.execute("SELECT id FROM job")) == 2
    elsewhere = client.post(f"/v1/schedules/{ids.draw()}/run", headers={"Idempotency-Key": "k"})
    assert elsewhere.json()["code"] == "idempotency.key_reused"


def test_the_history_tells_each_slot_page_by_page(client: TestClient, toy: Toy) -> None:
    made = make(client, cron="* * * * *", overlap="skip", misfire="all", window_seconds=86400)
    begin = datetime.fromisoformat(made["next_at"])
    fire(toy, (begin + timedelta(minutes=4)).isoformat())
    first = client.get(f"{made['url']}/history?limit=3").json()
    rest = client.get(f"{made['url']}/history?limit=3&after={first['next']}").json()
    slots = first["items"] + rest["items"]
    assert [slot["outcome"] for slot in slots] == [*["skipped"] * 4, "fired"]
    assert slots[0]["reason"]["code"] == "schedule.overlap"
    assert slots[0]["reason"]["jobs"] == [slots[-1]["job"]["id"]]
    assert (slots[0]["job"], slots[-1]["run"]["url"]) == (None, f"/v1/runs/{slots[-1]['run']['id']}")
    assert len(client.get(f"{made['url']}/history?outcome=fired").json()["items"]) == 1


def test_a_preview_tells_the_next_fires_with_jitter_and_its_end(client: TestClient) -> None:
    made = make(client, cron="*/10 * * * *", jitter_seconds=300)
    items = client.get(f"{made['url']}/preview?count=5").json()["items"]
    assert items[0]["due_at"] == made["next_at"]
    for item in items:
        late = datetime.fromisoformat(item["due_at"]) - datetime.fromisoformat(item["at"])
        assert timedelta(0) <= late <= timedelta(minutes=5)
    body = {"every_seconds": 60, "start": "2036-01-01T00:00:00Z", "end": "2036-01-01T00:02:00Z"}
    ended = client.post("/v1/schedules/preview", json=body).json()
    assert [item["at"] for item in ended["items"]] == ["2036-01-01T00:00:00Z", "2036-01-01T00:01:00Z"]


def test_a_preview_of_what_is_not_saved_takes_a_whole_schedule(client: TestClient) -> None:
    answer = client.post("/v1/schedules/preview?count=1", json=HOURLY)
    assert (answer.status_code, len(answer.json()["items"]), answer.json()["zone"]) == (200, 1, "Europe/Berlin")
    twice = {"at": "2036-10-26T02:30:00", "zone": "Europe/Berlin"}
    [item] = client.post("/v1/schedules/preview", json=twice).json()["items"]
    assert item["note"] == "02:30:00 comes twice that day: fires the first time"
    assert item["local"] == "2036-10-26T02:30:00+02:00"
    assert client.post("/v1/schedules/preview?count=101", json=HOURLY).status_code == 422
    assert client.post("/v1/schedules/preview", json={"cron": "x"}).status_code == 422


def test_a_deleted_one_is_gone_and_its_jobs_go_on(client: TestClient, toy: Toy) -> None:
    made = make(client)
    fire(toy, made["next_at"])
    assert client.delete(made["url"]).status_code == 204
    assert client.delete(made["url"]).status_code == 404
    fire(toy, (datetime.fromisoformat(made["next_at"]) + timedelta(hours=1)).isoformat())
    assert [row["state"] for row in toy.execute("SELECT state FROM job")] == ["queued"]


def test_scopes_and_workspaces(site: TestApp, client: TestClient, toy: Toy) -> None:
    made = make(client)
    reader = site.client(toy.workspace, frozenset({"read"}))
    assert reader.get(made["url"]).status_code == 200
    assert reader.post("/v1/schedules/preview", json=HOURLY).status_code == 200
    for method, path in (("POST", "/run"), ("POST", "/pause"), ("POST", "/resume"), ("DELETE", ""), ("PUT", "")):
        assert reader.request(method, made["url"] + path, json=HOURLY).status_code == 403
    stranger = site.client(ids.draw())
    for method, path in (("GET", ""), ("GET", "/history"), ("GET", "/preview"), ("POST", "/run"), ("POST", "/pause"),
                         ("POST", "/resume"), ("DELETE", ""), ("PUT", "")):  # fmt: skip
        assert stranger.request(method, made["url"] + path, json=HOURLY).status_code == 404
    assert stranger.get("/v1/schedules").json()["items"] == []


def test_metrics_tell_schedules_that_nobody_fires(site: TestApp, client: TestClient, toy: Toy) -> None:
    made = make(client)
    make(client, name="paused")
    client.post(f"{client.get('/v1/schedules?name=paused').json()['items'][0]['url']}/pause")
    toy.execute("UPDATE schedule SET next_at = now() - interval '1 hour' WHERE id = %s", made["id"])
    told = TestClient(site.app, headers={"Authorization": "Bearer metrics-key"}).get("/metrics").text
    assert 'millrace_schedules{service="toy",state="active"} 1.0' in told
    assert 'millrace_schedules{service="toy",state="paused"} 1.0' in told
    [overdue] = [line for line in told.splitlines() if line.startswith("millrace_schedules_overdue_seconds{")][:1]
    assert 3600 <= float(overdue.rpartition(" ")[2]) < 3700
