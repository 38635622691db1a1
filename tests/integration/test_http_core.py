"""What every service's HTTP API does alike: problems, transactions, health, metrics, jobs and the feed."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, HTTPException, Request
from fastapi.testclient import TestClient
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from infra.local import ports
from shared import errors, ids
from shared.auth import digest
from shared.db import raw
from shared.errors import MillraceError, NotFound, Unauthenticated, Unavailable
from shared.http import Transaction
from shared.ledger.batches import CLOSED_AT
from shared.settings import StaticKey
from shared.testing.http import TestApp
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do
from tests.integration.toy.web import ACCOUNTS, application


def named(base: type[MillraceError] = MillraceError) -> list[type[MillraceError]]:
    own = [base] if base.__module__ == errors.__name__ else []
    return own + [found for each in base.__subclasses__() for found in named(each)]


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Faults(APIRouter):
    """Routes that go wrong in the way they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[Any], Any] = lambda session: None
        self.add_api_route("/v1/fault", self.run, methods=["GET"])
        self.add_api_route("/v1/upload", self.upload, methods=["POST"])

    def run(self, session: Transaction) -> Any:
        return self.fault(session)

    async def upload(self, request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    def raises(self, error: BaseException) -> None:
        def fault(_: Any) -> None:
            raise error

        self.fault = fault


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def site(toy: Toy, toy_url: str, tmp_path: Path, faults: Faults) -> Iterator[TestApp]:
    app = application(toy_url, tmp_path, faults)
    yield TestApp(app, ACCOUNTS)
    app.state.database.dispose()


@pytest.fixture
def client(site: TestApp, toy: Toy) -> TestClient:
    return site.client(toy.workspace, raise_server_exceptions=False)


def account(site: TestApp, scope: str) -> TestClient:
    return TestClient(site.app, headers={"Authorization": f"Bearer {scope}-key"})


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """RFC 9457, section 3.1."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:millrace:problem:{code}")
    assert body["title"]
    assert body["detail"]
    return body


# Problems


@pytest.mark.parametrize("kind", named(), ids=lambda kind: kind.__name__)
def test_every_named_failure_is_a_problem(client: TestClient, faults: Faults, kind: type[MillraceError]) -> None:
    faults.raises(kind("It is so.", thing="a", ids=[1, None]))
    answer = client.get("/v1/fault")
    body = assert_problem(answer, kind.status, kind.code)
    assert (body["title"], body["detail"], body["thing"], body["ids"]) == (kind.title, "It is so.", "a", [1, None])
    assert ("www-authenticate" in answer.headers) == issubclass(kind, Unauthenticated)
    assert ("retry-after" in answer.headers) == issubclass(kind, Unavailable)


def test_retry_after_says_how_many_seconds(client: TestClient, faults: Faults) -> None:
    faults.raises(Unavailable("Away.", retry_after=17))
    assert client.get("/v1/fault").headers["retry-after"] == "17"


@pytest.mark.parametrize(
    "facts",
    [
        {"id": ids.draw()},
        {"n": float("nan")},
        {"s": "\ud800"},
        {"e": Evil()},
        {"status": 200, "type": "x", "title": "x"},
        {"code": "other"},
        {"b": b"\xff", "d": {1: {2}}},
    ],
    ids=lambda facts: ",".join(facts),
)
def test_a_problem_is_told_whatever_its_facts(client: TestClient, faults: Faults, facts: dict[str, Any]) -> None:
    faults.raises(NotFound("There is none.", **facts))
    assert_problem(client.get("/v1/fault"), 404, "resource.not_found")


def test_an_unexpected_error_tells_nothing_of_itself(client: TestClient, faults: Faults) -> None:
    faults.raises(RuntimeError("password=hunter2"))
    answer = client.get("/v1/fault")
    assert_problem(answer, 500, "internal.error")
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.name"),
        ({"name": 1}, "body.name"),
        ({"name": "a", "size": "big"}, "body.size"),
        ({"name": "a", "other": 1}, "body.other"),
        ([], "body"),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_told_where(client: TestClient, body: Any, where: str) -> None:
    found = assert_problem(client.post("/v1/things", json=body), 422, "request.invalid")
    assert where in [error["where"] for error in found["errors"]]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"name": }', b'{"\\ud800": 1}', b'{"name": "\\ud800", "x": 1}'],
)
def test_a_body_that_is_no_json_is_a_problem(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/things", content=content, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "request.invalid")


def test_a_body_without_bottom_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/things", content=b"[" * 100_000, headers={"content-type": "application/json"})
    assert_problem(answer, 400, "request.refused")


@pytest.mark.parametrize(
    "path", ["/v1/jobs?limit=0", "/v1/jobs?limit=many", "/v1/jobs?after=x", "/v1/jobs/x", "/v1/jobs?run=x"]
)
def test_parameters_of_another_shape_are_told(client: TestClient, path: str) -> None:
    assert_problem(client.get(path), 422, "request.invalid")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/docs", "/redoc", "/%00", "/..", "/v1/\ufffd"])
def test_an_unknown_path_is_not_found(client: TestClient, path: str) -> None:
    assert_problem(client.get(path), 404, "resource.not_found")


def test_an_unknown_method_is_told_the_known_ones(client: TestClient) -> None:
    answer = client.put("/v1/jobs")
    assert_problem(answer, 405, "request.method")
    assert answer.headers["allow"] == "POST"


def test_frameworks_own_refusals_are_problems(client: TestClient, faults: Faults) -> None:
    faults.raises(HTTPException(418, "I am a teapot"))  # type: ignore[arg-type]
    assert_problem(client.get("/v1/fault"), 418, "request.refused")


@pytest.mark.parametrize("path", ["/v1/jobs?kind=%00", "/v1/jobs?kind=a%00b", "/v1/events?type=%00"])
def test_what_postgresql_cannot_hold_is_the_requests_fault(site: TestApp, path: str) -> None:
    client = account(site, "events") if "events" in path else site.client(raise_server_exceptions=False)
    assert_problem(client.get(path), 422, "request.unstorable")


def test_text_with_nul_is_the_requests_fault(client: TestClient) -> None:
    assert_problem(client.post("/v1/things", json={"name": "nul \x00"}), 422, "request.unstorable")
    assert_problem(client.post("/v1/things", content=b'{"name": "\\ud800"}'), 422, "request.invalid")


def test_an_upload_that_is_cut_off_is_answered_as_such(site: TestApp) -> None:
    """The client is gone by then; but nothing may go on as if the body were whole."""
    messages = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/upload",
        "raw_path": b"/v1/upload",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    asyncio.run(site.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400


# The database


def test_what_is_answered_is_committed(client: TestClient, toy: Toy) -> None:
    answer = client.post("/v1/things", json={"name": "a"})
    assert answer.status_code == 202
    body = answer.json()
    row = toy.job(body["job"]["id"])
    assert (row["workspace"], str(row["run"])) == (toy.workspace, body["run"]["id"])
    assert body["job"]["url"] == f"/v1/jobs/{row['id']}"


def test_what_cannot_be_committed_is_not_answered_as_done(client: TestClient, faults: Faults, toy: Toy) -> None:
    toy.execute("CREATE TABLE IF NOT EXISTS late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def fault(session: Any) -> str:
        raw(session).execute("INSERT INTO late VALUES (1), (1)")  # refused by the commit alone
        return "stored"

    faults.fault = fault
    assert_problem(client.get("/v1/fault"), 500, "internal.error")
    assert toy.execute("SELECT * FROM late") == []


def test_a_request_that_fails_stores_nothing(client: TestClient, faults: Faults, toy: Toy) -> None:
    def fault(session: Any) -> None:
        raw(session).execute("INSERT INTO effect (key, job) VALUES ('a', %s)", (ids.draw(),))
        raise NotFound("There is none.")

    faults.fault = fault
    client.get("/v1/fault")
    assert toy.execute("SELECT * FROM effect") == []


def test_a_connection_that_dies_in_a_request_is_a_passing_problem(client: TestClient, faults: Faults) -> None:
    def fault(session: Any) -> None:
        raw(session).execute("SELECT pg_terminate_backend(pg_backend_pid())")

    faults.fault = fault
    answer = client.get("/v1/fault")
    assert_problem(answer, 503, "service.unavailable")
    assert answer.headers["retry-after"] == "2"
    faults.fault = lambda session: raw(session).execute("SELECT 1 AS n").fetchone()["n"]  # type: ignore[index]
    assert client.get("/v1/fault").json() == 1, "the next request has a new connection"


def test_connections_that_died_between_requests_are_not_noticed(client: TestClient, toy: Toy) -> None:
    assert client.get("/v1/jobs").status_code == 200
    toy.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
    )
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("SELECT 1/0", 422),
        ("SELECT no_such_column", 500),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", 503),
        ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", 503),
        ("DO $$ BEGIN RAISE SQLSTATE '54000'; END $$", 500),
    ],
)
def test_only_what_passes_is_unavailable(client: TestClient, faults: Faults, statement: str, status: int) -> None:
    """A client that is told to come back does so for ever."""
    faults.fault = lambda session: raw(session).execute(statement) and None
    assert client.get("/v1/fault").status_code == status


def test_while_the_database_is_away_each_request_says_so(toy_url: str, tmp_path: Path) -> None:
    nowhere = re.sub(r":\d+/", f":{ports.free()['postgres']}/", toy_url)
    site = TestApp(application(nowhere, tmp_path))
    client = site.client(raise_server_exceptions=False)
    for answer in (client.get("/v1/jobs"), client.post("/v1/things", json={"name": "a"}), client.get("/readyz")):
        assert_problem(answer, 503, "service.unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_pool_that_is_used_up_is_a_passing_problem(site: TestApp, client: TestClient) -> None:
    database = site.app.state.database
    url = database.engine.url
    database._engine = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with database.transaction() as session:
        raw(session)
        assert_problem(client.get("/v1/jobs"), 503, "service.unavailable")
    assert client.get("/v1/jobs").status_code == 200


# Health and metrics


def test_health_needs_no_key(site: TestApp) -> None:
    with TestClient(site.app) as nobody:
        assert nobody.get("/healthz").json() == {"status": "ok"}
        assert nobody.get("/readyz").json()["status"] == "ready"


def test_requests_are_counted_by_route(site: TestApp, client: TestClient, faults: Faults) -> None:
    faults.raises(RuntimeError("ours"))
    for path in ("/v1/things/secret-name", "/v1/things/other-name", "/no/such/path", "/v1/fault"):
        client.get(path)
    text = account(site, "metrics").get("/metrics").text
    series = 'millrace_http_requests_total{{method="GET",route="{}",service="toy",status="{}"}}'
    assert series.format("/v1/things/{name}", 200) in text
    assert series.format("/v1/fault", 500) in text, "failures of ours are counted"
    assert "secret-name" not in text
    assert "/no/such/path" not in text
    assert "millrace_http_request_seconds_bucket" in text


def test_metrics_tell_what_waits(site: TestApp, toy: Toy) -> None:
    toy.enqueue(Do())
    for _ in range(2):
        toy.enqueue(Do(), not_before=CLOSED_AT)
    text = account(site, "metrics").get("/metrics").text
    assert 'millrace_jobs{queue="toy.jobs",service="toy",state="queued"} 1.0' in text
    assert 'millrace_jobs{queue="toy.jobs",service="toy",state="later"} 2.0' in text


# Who may


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "auth.unauthenticated"),
        ({"Authorization": ""}, 401, "auth.unauthenticated"),
        ({"Authorization": "Bearer"}, 401, "auth.unauthenticated"),
        ({"Authorization": "Bearer wrong"}, 401, "auth.unauthenticated"),
        ({"Authorization": "Bearer a.b.c"}, 401, "auth.unauthenticated"),
        ({"Authorization": "Basic !!!"}, 401, "auth.unauthenticated"),
        ({"Authorization": "Basic /w=="}, 401, "auth.unauthenticated"),
        ({"Authorization": "Digest abc"}, 401, "auth.unauthenticated"),
        ({"Authorization": "Bearer metrics-key"}, 403, "auth.forbidden"),
    ],
    ids=str,
)
def test_a_route_needs_a_key_with_its_scope(site: TestApp, headers: dict[str, str], status: int, code: str) -> None:
    answer = TestClient(site.app).get("/v1/jobs", headers=headers)
    assert_problem(answer, status, code)
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [((), ""), (("read",), "r"), (("write",), "w"), (("admin",), "a"), (("read", "write", "admin"), "rwa")],
    ids=str,
)
def test_a_scope_allows_its_own_and_nothing_else(site: TestApp, scopes: tuple[str, ...], allowed: str) -> None:
    client = site.client(scopes=frozenset(scopes))
    answers = {
        "r": client.get("/v1/things/a"),
        "w": client.post("/v1/things", json={"name": "a"}),
        "a": client.delete("/v1/things/a"),
    }
    assert "".join(kind for kind, answer in answers.items() if answer.status_code < 300) == allowed
    assert {answer.status_code for kind, answer in answers.items() if kind not in allowed} <= {403}


def test_who_may_not_is_told_before_what_is_wrong(site: TestApp) -> None:
    assert_problem(TestClient(site.app).post("/v1/things", json=[]), 401, "auth.unauthenticated")


def test_a_service_account_works_in_no_workspace(toy_url: str, tmp_path: Path) -> None:
    accounts = {"odd": StaticKey(sha256=digest("odd"), scopes=frozenset({"read"}))}
    site = TestApp(application(toy_url, tmp_path), accounts)
    answer = TestClient(site.app, headers={"Authorization": "Bearer odd"}).get("/v1/jobs")
    assert_problem(answer, 403, "auth.forbidden")


def test_a_key_may_come_as_a_password(site: TestApp) -> None:
    assert TestClient(site.app).get("/metrics", auth=("anyone", "metrics-key")).status_code == 200


def test_each_account_does_its_own(site: TestApp) -> None:
    assert account(site, "events").get("/v1/events").json() == {"events": [], "next": 0, "missed": 0}
    assert_problem(account(site, "events").get("/metrics"), 403, "auth.forbidden")
    assert_problem(account(site, "metrics").get("/v1/events"), 403, "auth.forbidden")
    assert_problem(site.client().get("/v1/events"), 403, "auth.forbidden")
