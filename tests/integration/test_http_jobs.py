"""The routes of a service's own jobs, as every service has them."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from shared import ids
from shared.testing.http import TestApp
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do
from tests.integration.toy.web import ACCOUNTS, application


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, APIRouter())
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace)


def test_jobs_are_listed_newest_first_page_by_page(client: TestClient, toy: Toy) -> None:
    jobs = [str(toy.enqueue(Do())) for _ in range(5)]
    pages: list[list[str]] = []
    after: dict[str, Any] = {}
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **after}).json()
        pages.append([job["id"] for job in page["items"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert list(itertools.chain(*pages)) == sorted(jobs, reverse=True)
    assert [len(page) for page in pages] == [2, 2, 1]


def test_jobs_are_found_by_run_state_and_kind(client: TestClient, toy: Toy) -> None:
    done, waiting = toy.enqueue(Do()), toy.enqueue(Do())
    toy.run(tasks_of(lambda attempt, args: "r"), done)

    def found(**query: Any) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=query).json()["items"]]

    assert found(state="succeeded") == [str(done)]
    assert found(state="queued") == [str(waiting)]
    assert found(run=str(toy.job(done)["run"])) == [str(done)]
    assert found(kind="no.such.kind") == []
    assert len(found(kind=Do.kind)) == 2


def test_a_filter_with_a_slip_in_it_is_refused_and_not_passed_over(client: TestClient, toy: Toy) -> None:
    toy.enqueue()
    answer = client.get("/v1/jobs", params={"stat": "failed"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
    assert answer.json()["errors"] == [{"where": "query.stat", "detail": "Unknown query parameter."}]
    known = "run, state, kind, created_from, created_until, error"
    assert answer.json()["detail"].startswith("Unknown query parameter 'stat'. Known: ")
    assert set(known.split(", ")) < set(answer.json()["detail"].removesuffix(".").partition("Known: ")[2].split(", "))
    none = client.get(f"/v1/jobs/{toy.enqueue()}", params={"x" * 500: "1"})
    assert none.status_code == 422
    assert none.json()["detail"].endswith("The route has none.")
    assert client.post("/v1/jobs:cancel?dry_run=true", json={"filter": {}}).status_code == 422, "it would cancel"


def test_a_job_is_shown_with_its_attempts(client: TestClient, toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run_out(tasks_of(lambda attempt, args: 1 / 0), job)
    body = client.get(f"/v1/jobs/{job}").json()
    assert (body["state"], body["attempt"], body["reason"]["code"]) == ("failed", 3, "attempt.error")
    assert [(attempt["number"], attempt["outcome"]) for attempt in body["history"]] == [
        (1, "retried"),
        (2, "retried"),
        (3, "failed"),
    ]


def test_another_workspaces_job_is_not_there(site: TestApp, toy: Toy) -> None:
    job = toy.enqueue(Do())
    stranger = site.client(ids.draw())
    answer = stranger.get(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found")
    assert stranger.get("/v1/jobs").json()["items"] == []
    assert stranger.get(f"/v1/runs/{toy.job(job)['run']}/part").json() == {"jobs": [], "events": []}
