"""Limits, pauses and `why` at the gateway, over HTTP and by the command."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from clients.cli import place, run
from services.api.adapters.peers import Patience, Peers
from shared.db import Database
from tests.integration.api_service import Say, bearer, front_door, served_door, workspace_and_key

CANARY = {"kind": "api.canary.run", "args": {"text": "hello"}}


@pytest.fixture
def database(service_database: Callable[[str], Database]) -> Database:
    return service_database("api")


@pytest.fixture
def door(
    database: Database, environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TestClient]:
    environment("api")
    with front_door(monkeypatch, tmp_path) as door:
        yield door


@pytest.fixture
def operator(door: TestClient) -> TestClient:
    door.headers.update(bearer("the operator"))
    return door


@pytest.fixture
def key(door: TestClient) -> str:
    """Of a workspace."""
    return workspace_and_key(door)[1]


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_its_own_queue_is_limited_paused_and_resumed(operator: TestClient) -> None:
    made = operator.put("/v1/limits/queue:api.jobs", json={"concurrency": 3})
    assert (made.status_code, made.json()["service"]) == (200, "api")
    assert operator.post("/v1/limits/kind:api.canary.run/pause").json()["paused_by"] == "operator"
    found = [rule for rule in operator.get("/v1/limits").json()["items"] if rule["service"] == "api"]
    assert [(rule["key"], rule["concurrency"]) for rule in found] == [
        ("kind:api.canary.run", None),
        ("queue:api.jobs", 3),
    ]
    assert operator.post("/v1/limits/kind:api.canary.run/resume").status_code == 204
    assert operator.delete("/v1/limits/queue:api.jobs").status_code == 204
    assert refusal(operator.put("/v1/limits/queue:api.bulk", json={"concurrency": 3})) == (422, "limit.key_unknown")


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("/v1/limits/queue:ingest.jobs", "/v1/limits/queue:ingest.jobs"),
        ("/v1/limits/kind:reports.report.render", "/v1/limits/kind:reports.report.render"),
        ("/v1/limits/each:host?service=notifications", "/v1/limits/each:host?service=notifications"),
        (
            "/v1/limits/key:host:[::1]:80?service=notifications",
            "/v1/limits/key:host:%5B::1%5D:80?service=notifications",
        ),
    ],
)
def test_a_rule_goes_to_the_service_that_keeps_it(operator: TestClient, path: str, reached: str) -> None:
    answer = operator.put(path, json={"concurrency": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["got"] == {"concurrency": 3}
    assert answer.json()["path"] == reached


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/limits/each:host", "limit.service_needed"),
        ("/v1/limits/each:host?service=nobody", "limit.service_needed"),
        ("/v1/limits/queue:nobody.jobs", "limit.service_needed"),
        ("/v1/limits/host:a", "limit.key_invalid"),
    ],
)
def test_who_keeps_a_rule_must_be_told(operator: TestClient, path: str, code: str) -> None:
    assert refusal(operator.put(path, json={"concurrency": 3})) == (422, code)


def test_a_workspaces_key_limits_nobody(door: TestClient, key: str) -> None:
    answer = door.put("/v1/limits/queue:api.jobs", json={"concurrency": 1}, headers=bearer(key))
    assert refusal(answer) == (403, "auth.forbidden")


def test_a_service_that_does_not_answer_is_named(operator: TestClient) -> None:
    known = operator.app.state.peers  # type: ignore[attr-defined]
    operator.app.state.peers = Peers({"reports": "http://127.0.0.1:1"}, Patience(connect=1, ask=1))  # type: ignore[attr-defined]
    try:
        assert operator.get("/v1/limits").json() == {"items": [], "unreachable": ["reports"]}
    finally:
        operator.app.state.peers = known  # type: ignore[attr-defined]


def test_why_is_told_of_its_own_jobs_and_of_others(door: TestClient, key: str) -> None:
    door.headers.update(bearer("the operator"))
    door.post("/v1/limits/kind:api.canary.run/pause")
    door.headers.update(bearer(key))
    job = door.post("/v1/jobs", json=CANARY).json()["job"]
    why = door.get(f"{job['url']}/why").json()
    assert (why["service"], why["job"], why["state"]) == ("api", job["id"], "queued")
    assert [reason["code"] for reason in why["reasons"]] == ["wait.paused", "wait.no_beat", "wait.no_worker"]
    there = "0190f5f4-0000-7000-8000-000000000000"
    assert door.get(f"/v1/jobs/{there}/why").json()["reasons"] == [{"code": "wait.nothing", "detail": "Nothing."}]
    nowhere = "0290f5f4-0000-7000-8000-000000000000"
    assert refusal(door.get(f"/v1/jobs/{nowhere}/why")) == (404, "resource.not_found")


# The command


@pytest.fixture
def say(
    database: Database,
    environment: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Say]:
    """Runs `millrace …` for the operator; answers its exit code and what it said on both streams."""
    environment("api")

    def say(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return run(list(arguments)), *capsys.readouterr()

    with served_door(monkeypatch, tmp_path) as door:
        monkeypatch.setenv("MILLRACE_URL", door.url)
        monkeypatch.setenv("MILLRACE_KEY", "the operator")
        yield say


def test_limits_are_set_listed_and_deleted(say: Say) -> None:
    code, out, _ = say("limits", "set", "queue:api.jobs", "--concurrency", "3", "--per-second", "0.5", "--burst", "4")
    assert (code, out) == (
        0,
        "queue:api.jobs of api: at most 3 at once, at most 0.5 a second after a burst of 4; 0 running\n",
    )
    assert json.loads(say("limits", "list", "--json")[1])["limits"][0]["key"] == "queue:api.jobs"
    assert say("limits", "list")[1].splitlines()[1].split() == ["api", "queue:api.jobs", "3", "0.5", "4", "0"]
    assert say("limits", "delete", "queue:api.jobs") == (0, "queue:api.jobs is deleted\n", "")
    assert say("limits", "list") == (0, "no limits\n", "")


@pytest.mark.parametrize(("what", "key"), [("api.jobs", "queue:api.jobs"), ("api.canary.run", "kind:api.canary.run")])
def test_a_queue_or_kind_is_paused_by_its_name(say: Say, what: str, key: str) -> None:
    code, out, _ = say("pause", what)
    assert code == 0
    assert out.startswith(f"{key} of api: paused since ")
    assert out.endswith("by operator; 0 running\n")
    assert "by operator" in say("limits", "list")[1]
    assert say("resume", what) == (0, f"{key} goes on\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("limits", "set", "queue:api.jobs", "--per-second", "-1"), "body.per_second"),
        (("limits", "set", "queue:api.jobs"), "give concurrency, per_second or both"),
        (("limits", "set", "host:a", "--concurrency", "1"), "begins with none of queue:, kind:"),
        (("pause", "api.job"), "api has no queue named 'api.job'"),
        (("resume", "api.jobs"), "queue:api.jobs is not paused"),
        (("limits", "delete", "each:host", "--service", "api"), "There is no rule 'each:host'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(say: Say, arguments: tuple[str, ...], said: str) -> None:
    code, out, told = say(*arguments)
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert said in told


def test_why_is_told_in_plain_words(say: Say, key: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    say("pause", "api.jobs")
    monkeypatch.setenv("MILLRACE_KEY", key)
    with place.client(Path()) as client:
        job = client.create_job(**CANARY)["job"]["id"]
    code, out, _ = say("jobs", "why", job)
    assert code == 0
    assert out.startswith(f"job       {job}, api.canary.run, queued\n")
    assert "queue:api.jobs is paused since" in out
    assert "wait.paused" in out
    assert say("jobs", "why", "x") == (2, "", "millrace: 'x' is no id of a job\n")
