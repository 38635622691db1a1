"""Jobs that callers ask a service for by name."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared.http.limits import LARGER
from shared.ledger.limit_rules import read_key
from shared.testing.http import TestApp
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked, Called, Do
from tests.integration.toy.web import ACCOUNTS, application

BATCH = "/v1/jobs:batch"


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace)


def asked(**more: Any) -> dict[str, Any]:
    return {"kind": Asked.kind, "args": {"count": 1}} | more


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_job_of_a_public_kind_is_owed(client: TestClient, toy: Toy) -> None:
    answer = client.post("/v1/jobs", json=asked())
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == body["job"]["url"] == f"/v1/jobs/{body['job']['id']}"
    [job] = toy.execute("SELECT * FROM job")
    assert (str(job["id"]), str(job["run"])) == (body["job"]["id"], body["run"]["id"])
    assert (job["kind"], job["args"], job["state"]) == (Asked.kind, {"count": 1, "name": ""}, "queued")
    assert (job["workspace"], job["cause"], job["cause_id"]) == (toy.workspace, "request", job["run"])
    assert job["traceparent"]


def test_lane_and_times_are_the_callers(client: TestClient, toy: Toy) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    times = {name: later + timedelta(hours=n) for n, name in enumerate(("not_before", "start_by", "deadline"))}
    said = {name: time.isoformat() for name, time in times.items()}
    answer = client.post("/v1/jobs", json=asked(lane="urgent", **said))
    assert answer.status_code == 202
    [job] = toy.execute("SELECT * FROM job")
    assert (job["priority"], {name: job[name] for name in times}) == (0, times)
    shown = client.get(answer.json()["job"]["url"]).json()
    assert {name: datetime.fromisoformat(shown[name]) for name in times} == times


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (asked(kind="toy.no.such"), "job.kind_unknown", "no kind of job named 'toy.no.such'"),
        (asked(kind=Do.kind), "job.kind_private", "the service's own"),
        (asked(args={}), "job.arguments_invalid", "args.count: Field required"),
        (asked(args={"count": "many"}), "job.arguments_invalid", "args.count"),
        (asked(args={"count": 1, "nmae": "x"}), "job.arguments_invalid", "Unknown: nmae"),
        (asked(args={"count": 1, "name": "a\0b"}), "request.unprocessable", "args: a NUL"),
        (asked(args={"count": 1, "name": "\ud800"}), "request.unprocessable", "half a character"),
        (asked(args=[1]), "request.invalid", "body.args"),
        (asked(lane="fast"), "request.invalid", "body.lane"),
        (asked(deadline="2020-01-01T00:00:00Z"), "job.times_invalid", "deadline"),
        (asked(start_by="2020-01-01T00:00:00Z"), "job.times_invalid", "start_by"),
        (asked(not_before="2019-01-01T00:00:00Z", start_by="2020-01-01T00:00:00Z"), "job.times_invalid", "start_by"),
        (asked(not_before="2126-01-02T00:00:00Z", start_by="2126-01-02T00:00:00Z"), "job.times_invalid", "start_by"),
        (asked(start_by="soon"), "request.invalid", "body.start_by"),
        (asked(not_before="2126-01-02T00:00:00Z", deadline="2126-01-01T00:00:00Z"), "job.times_invalid", "deadline"),
        (asked(not_before="2026-01-02T00:00:00"), "request.invalid", "timezone"),
        (asked(not_before="9999-12-31T23:59:59-14:00"), "request.invalid", "body.not_before"),
        (asked(queue="other"), "request.invalid", "body.queue"),
        (asked(limit_key="host"), "request.invalid", "body.limit_key: a limit key is PREFIX:NAME"),
        (asked(limit_key="host:"), "request.invalid", "such as host:example.org"),
        (asked(limit_key=":a"), "request.invalid", "body.limit_key"),
        (asked(limit_key="host:a b"), "request.invalid", "body.limit_key"),
        (asked(limit_key="host:a/b"), "request.invalid", "body.limit_key"),
        (asked(limit_key="host:\0"), "request.invalid", "body.limit_key"),
        (asked(limit_key="host:" + "a" * 196), "request.invalid", "body.limit_key"),
        ({}, "request.invalid", "body.kind"),
        ([], "request.invalid", "body"),
    ],
)
def test_a_wrong_request_is_told_and_nothing_is_owed(
    client: TestClient, toy: Toy, body: Any, code: str, said: str
) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert refusal(answer) == (422, code)
    assert said in answer.json()["detail"]
    assert toy.execute("SELECT 1 FROM job") == []


def test_a_batch_is_owed_in_its_order_as_one_run(client: TestClient, toy: Toy) -> None:
    answer = client.post(BATCH, json={"jobs": [asked(args={"count": n}) for n in range(10_000)]})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == body["run"]["url"]
    rows = toy.execute("SELECT id::text, args, run FROM job ORDER BY id")
    assert [row["id"] for row in rows] == body["jobs"]
    assert [row["args"]["count"] for row in rows] == list(range(10_000))
    assert {str(row["run"]) for row in rows} == {body["run"]["id"]}


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (asked(kind=Do.kind), "job.kind_private", "jobs.2: "),
        (asked(args={"count": None}), "job.arguments_invalid", "jobs.2: args.count"),
        (asked(args={"count": 1, "name": "\0"}), "request.unprocessable", "jobs.2.args"),
        (asked(lane=3), "request.invalid", "body.jobs.2.lane"),
    ],
)
def test_one_wrong_job_spoils_the_batch_and_is_named(
    client: TestClient, toy: Toy, wrong: Any, code: str, said: str
) -> None:
    answer = client.post(BATCH, json={"jobs": [asked(), asked(), wrong, asked()]})
    assert refusal(answer) == (422, code)
    assert said in answer.json()["detail"]
    assert answer.json().get("index", 2) == 2
    assert toy.execute("SELECT 1 FROM job") == []


@pytest.mark.parametrize("jobs", [[], [asked()] * 10_001])
def test_a_batch_has_one_to_ten_thousand_jobs(client: TestClient, jobs: list[Any]) -> None:
    assert refusal(client.post(BATCH, json={"jobs": jobs})) == (422, "request.invalid")


def test_a_batch_may_be_large_and_is_bounded(client: TestClient, toy: Toy) -> None:
    large = [asked(args={"count": 1, "name": "x" * 1000})] * 2000
    assert client.post(BATCH, json={"jobs": large}).status_code == 202
    assert refusal(client.post(BATCH, content=b" " * (LARGER[BATCH] + 1))) == (413, "request.too_large")
    assert refusal(client.post("/v1/jobs", content=b" " * 1_000_001)) == (413, "request.too_large")


@pytest.mark.parametrize(("path", "body"), [("/v1/jobs", asked()), (BATCH, {"jobs": [asked(), asked()]})])
def test_a_repeated_request_gets_the_first_ones_answer(client: TestClient, toy: Toy, path: str, body: Any) -> None:
    key = {"Idempotency-Key": "once"}
    first, second = (client.post(path, json=body, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert len(toy.execute("SELECT 1 FROM job")) == len(body.get("jobs", [1]))
    other = client.post("/v1/jobs", json=asked(args={"count": 2}), headers=key)
    assert refusal(other) == (422, "idempotency.key_reused")


@pytest.mark.parametrize("path", ["/v1/jobs", BATCH])
def test_the_same_request_in_another_order_is_the_same(client: TestClient, toy: Toy, path: str) -> None:
    deep = {"count": 1, "name": "a"}
    bodies = [asked(args=args) for args in (deep, dict(reversed(deep.items())))]
    sent = [{"jobs": [body]} if path == BATCH else body for body in bodies]
    first, second = (client.post(path, json=body, headers={"Idempotency-Key": "once"}) for body in sent)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()


def test_a_key_is_its_workspaces_own(site: TestApp, toy: Toy) -> None:
    key = {"Idempotency-Key": "once"}
    runs = {site.client().post("/v1/jobs", json=asked(), headers=key).json()["run"]["id"] for _ in range(2)}
    assert len(runs) == 2


def test_owing_needs_the_scope(site: TestApp, toy: Toy) -> None:
    reader = site.client(toy.workspace, frozenset({"read"}))
    assert refusal(reader.post("/v1/jobs", json=asked())) == (403, "auth.forbidden")
    assert refusal(reader.post(BATCH, json={"jobs": [asked()]})) == (403, "auth.forbidden")


# What limits count by


@pytest.mark.parametrize("name", ["host:example.org:80", "asked.host:a", "each:host", "h:" + "~" * 198])
def test_what_a_request_names_is_the_workspaces_own(site: TestApp, client: TestClient, toy: Toy, name: str) -> None:
    answer = client.post("/v1/jobs", json=asked(limit_key=name))
    assert answer.status_code == 202, answer.text
    key = client.get(answer.json()["job"]["url"]).json()["limit_key"]
    prefix, _, rest = name.partition(":")
    assert key == f"asked.{prefix}:{toy.workspace}:{rest}"
    read_key(f"key:{key}")  # there can be a rule for it
    read_key(f"each:asked.{prefix}")
    site.client().post("/v1/jobs", json=asked(limit_key=name))
    assert len(toy.execute("SELECT DISTINCT limit_key FROM job")) == 2


def test_jobs_of_a_request_name_each_its_own(client: TestClient, toy: Toy) -> None:
    client.post(BATCH, json={"jobs": [asked(limit_key="host:a"), asked(), asked(limit_key="host:b")]})
    keys = [row["limit_key"] for row in toy.execute("SELECT limit_key FROM job ORDER BY id")]
    assert keys == [f"asked.host:{toy.workspace}:a", None, f"asked.host:{toy.workspace}:b"]


def test_a_kind_that_names_its_own_keeps_it(client: TestClient, toy: Toy) -> None:
    body = {"kind": Called.kind, "args": {"host": "a"}}
    assert client.post("/v1/jobs", json=body).status_code == 202
    assert refusal(client.post("/v1/jobs", json=body | {"limit_key": "x:y"})) == (422, "job.limit_key_fixed")
    assert [job["limit_key"] for job in toy.execute("SELECT limit_key FROM job")] == ["host:a"]


# Unique jobs


def test_a_unique_job_is_owed_once_and_the_answer_says_so(client: TestClient, toy: Toy) -> None:
    unique = {"key": "nightly", "scope": "queued"}
    first = client.post("/v1/jobs", json=asked(unique=unique)).json()
    again = client.post("/v1/jobs", json=asked(args={"count": 2}, unique=unique))
    assert again.status_code == 202
    assert (first["existing"], again.json()) == (False, first | {"existing": True})
    assert again.headers["location"] == first["job"]["url"]
    assert [job["args"]["count"] for job in toy.execute("SELECT args FROM job")] == [1]
    assert client.post("/v1/jobs", json=asked()).json()["existing"] is False


def test_a_batch_names_the_jobs_that_were_there(client: TestClient, toy: Toy) -> None:
    there = client.post("/v1/jobs", json=asked(unique={"key": "a"})).json()
    batch = [asked(), *(asked(unique={"key": key}) for key in ("a", "b", "b"))]
    answer = client.post(BATCH, json={"jobs": batch}).json()
    plain, old, new, same = answer["jobs"]
    assert (old, same, answer["existing"]) == (there["job"]["id"], new, [old, new])
    runs = {str(job["id"]): str(job["run"]) for job in toy.execute("SELECT id, run FROM job")}
    assert runs == {old: there["run"]["id"], plain: answer["run"]["id"], new: answer["run"]["id"]}
    answer = client.post(BATCH, json={"jobs": [asked(unique={"key": "a"})]}).json()
    assert (answer["jobs"], answer["run"]["id"]) == ([old], there["run"]["id"])


def test_a_repeated_request_for_a_unique_job_gets_its_first_answer(client: TestClient, toy: Toy) -> None:
    client.post("/v1/jobs", json=asked(unique={"key": "a"}))
    body, headers = asked(unique={"key": "a"}), {"Idempotency-Key": "k"}
    first = client.post("/v1/jobs", json=body, headers=headers).json()
    toy.execute("UPDATE job SET state = 'cancelled'")
    assert first["existing"] is True
    assert client.post("/v1/jobs", json=body, headers=headers).json() == first
    assert client.post("/v1/jobs", json=body).json()["existing"] is False


@pytest.mark.parametrize(
    ("unique", "said"),
    [
        ({}, "body.unique.key"),
        ({"key": "k" * 256}, "body.unique.key"),
        ({"key": "a\0"}, "printable"),
        ({"key": "a", "scope": "always"}, "body.unique.scope"),
        ({"key": "a", "scope": "period"}, "period_seconds"),
        ({"key": "a", "scope": "period", "period_seconds": 0}, "body.unique.period_seconds"),
        ({"key": "a", "period_seconds": 5}, "period_seconds belongs to the scope 'period'"),
        ({"key": "a", "for": 5}, "body.unique.for"),
    ],
)
def test_a_wrong_key_is_told(client: TestClient, toy: Toy, unique: dict[str, Any], said: str) -> None:
    answer = client.post("/v1/jobs", json=asked(unique=unique))
    assert refusal(answer) == (422, "request.invalid")
    assert said in answer.json()["detail"]
    assert toy.execute("SELECT 1 FROM job") == []
