"""The front door: identity, tokens, runs, traces, and passing requests on to a real service."""

import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.api.handlers import SUBSCRIPTIONS
from services.api.main import create
from services.api.tasks import tasks
from shared import ids
from shared.auth import Verifier
from shared.contracts.api import WorkspaceCreated
from shared.db import raw
from shared.testing.ledger import give_event, jobs, run_due


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The app on a real socket of a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def database(service_database):
    return service_database("api")


@pytest.fixture
def peer(tmp_path):
    """A service behind the gateway that tells what reached it."""
    app = FastAPI()

    @app.api_route("/v1/datasets", methods=["GET", "POST"])
    async def datasets(request: Request):
        body = hashlib.sha256()
        size = 0
        async for chunk in request.stream():
            body.update(chunk)
            size += len(chunk)
        return {"headers": dict(request.headers), "query": request.url.query, "bytes": size, "sha256": body.hexdigest()}

    @app.get("/v1/artifacts/big")
    async def artifact():
        async def chunks():
            for _ in range(64):
                yield b"x" * 65536

        return StreamingResponse(chunks(), media_type="application/pdf", headers={"ETag": '"one"'})

    run = ids.draw()

    @app.post("/v1/rules", status_code=202)
    def accept():
        return {"job": {"id": str(run), "url": "x"}, "run": {"id": str(run), "url": "y"}}

    @app.get("/v1/jobs")
    def list_jobs():
        return {"items": [], "next": None}

    @app.get("/v1/runs/{id}/part")
    def part(id: str):
        return {"jobs": [], "events": []}

    with serving(app) as url:
        yield url


@pytest.fixture
def client(database, environment, monkeypatch, tmp_path, peer):
    environment("api")
    key = OKPKey.generate_key("Ed25519", private=True)
    (tmp_path / "signing.pem").write_bytes(key.as_pem(private=True))
    monkeypatch.setenv("API_SIGNING_KEY_FILE", str(tmp_path / "signing.pem"))
    services = {"api": "http://127.0.0.1:1", "ingest": peer, "reports": peer, "notifications": peer}
    monkeypatch.setenv("MILLRACE_SERVICE_URLS", json.dumps(services))
    accounts = {
        "operator": {"sha256": sha256("the operator"), "scopes": ["operator"]},
        "telemetry": {"sha256": sha256("the collector"), "scopes": ["spans"]},
    }
    monkeypatch.setenv("MILLRACE_STATIC_KEYS", json.dumps(accounts))
    with TestClient(create()) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def workspace_and_key(client, name="acme", scopes=("read", "write", "admin")):
    made = client.post("/v1/workspaces", json={"name": name}, headers=bearer("the operator"))
    assert made.status_code == 201, made.text
    key = client.post(
        f"/v1/workspaces/{made.json()['id']}/keys", json={"name": "k", "scopes": scopes}, headers=bearer("the operator")
    )
    assert key.status_code == 201, key.text
    return made.json()["id"], key.json()["key"]


def test_makes_a_workspace_with_an_event_and_refuses_its_name_a_second_time(client, database):
    id, _ = workspace_and_key(client)
    with database.transaction() as session:
        events = raw(session).execute("SELECT type, workspace FROM event").fetchall()
    assert [(event["type"], str(event["workspace"])) for event in events] == [("api.workspace.created.v1", id)]
    again = client.post("/v1/workspaces", json={"name": "acme"}, headers=bearer("the operator"))
    assert (again.status_code, again.json()["code"]) == (409, "workspace.exists")


def test_a_key_is_kept_as_a_digest_alone(client, database):
    _, key = workspace_and_key(client)
    with database.transaction() as session:
        row = raw(session).execute("SELECT * FROM api_key").fetchone()
    assert row["digest"] == sha256(key)
    assert key not in json.dumps(row, default=str)
    listed = client.get("/v1/keys", headers=bearer(key)).json()["items"]
    assert [(item["name"], "key" in item) for item in listed] == [("k", False)]


def test_a_revoked_key_is_refused(client):
    _, key = workspace_and_key(client)
    id = client.get("/v1/keys", headers=bearer(key)).json()["items"][0]["id"]
    assert client.delete(f"/v1/keys/{id}", headers=bearer(key)).status_code == 204
    assert client.get("/v1/keys", headers=bearer(key)).status_code == 401


def test_a_key_cannot_be_given_scopes_of_service_accounts(client):
    _, key = workspace_and_key(client)
    answer = client.post("/v1/keys", json={"name": "x", "scopes": ["operator"]}, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (422, "key.scope_unknown")


def test_exchanges_a_key_for_a_token_that_the_public_keys_verify(client):
    workspace, key = workspace_and_key(client, scopes=("read",))
    token = client.post("/v1/token", headers=bearer(key)).json()
    jwks = client.get("/.well-known/jwks.json").json()
    principal = Verifier({}, lambda: jwks).verify(token["access_token"])
    assert (str(principal.workspace), principal.scopes, token["expires_in"]) == (workspace, {"read"}, 300)


def test_passes_a_request_on_with_a_token_and_without_the_key(client):
    _, key = workspace_and_key(client)
    body = b"a,b\n" * 500_000
    answer = client.post(
        "/v1/datasets?name=orders",
        content=(body[n : n + 65_536] for n in range(0, len(body), 65_536)),
        headers=bearer(key) | {"Content-Type": "text/csv", "Idempotency-Key": "one", "X-Secret": "no", "Cookie": "a=b"},
    ).json()
    assert (answer["bytes"], answer["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert answer["query"] == "name=orders"
    passed = answer["headers"]
    assert (passed["content-type"], passed["idempotency-key"]) == ("text/csv", "one")
    assert "x-secret" not in passed
    assert "cookie" not in passed
    assert key not in json.dumps(passed)
    assert Verifier({}, client.get("/.well-known/jwks.json").json).verify(passed["authorization"].split()[1])


def test_passes_an_answer_back_as_a_stream(client):
    _, key = workspace_and_key(client)
    answer = client.get("/v1/artifacts/big", headers=bearer(key))
    assert (len(answer.content), answer.headers["etag"]) == (64 * 65536, '"one"')
    assert answer.headers["content-type"] == "application/pdf"


def test_lists_a_run_as_soon_as_its_request_was_accepted(client):
    _, key = workspace_and_key(client)
    run = client.post("/v1/rules", headers=bearer(key)).json()["run"]["id"]
    assert [item["id"] for item in client.get("/v1/runs", headers=bearer(key)).json()["items"]] == [run]
    _, other = workspace_and_key(client, "other")
    assert client.get("/v1/runs", headers=bearer(other)).json()["items"] == []
    assert client.get(f"/v1/runs/{run}", headers=bearer(other)).status_code == 404


def test_an_unknown_route_and_an_unset_service_are_problems(client):
    _, key = workspace_and_key(client)
    assert client.get("/v1/nonsense", headers=bearer(key)).json()["code"] == "resource.not_found"
    client.app.state.peers._urls.pop("reports")
    answer = client.get("/v1/renders", headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_records_completion_events_once(client, database):
    workspace, key = workspace_and_key(client)
    event = WorkspaceCreated(workspace_id=ids.draw(), name="x")
    given = give_event(database, SUBSCRIPTIONS, event, workspace=workspace)
    give_event(database, SUBSCRIPTIONS, event, workspace=workspace, run=given.runid, id=given.id)
    run_due(database, tasks)
    assert [job["state"] for job in jobs(database, kind="api.run.record")] == ["succeeded"]
    with database.transaction() as session:
        kept = raw(session).execute("SELECT id, type FROM run_event").fetchall()
    assert [(row["id"], row["type"]) for row in kept] == [(given.id, event.type)]
    shown = client.get(f"/v1/runs/{given.runid}", headers=bearer(key)).json()
    assert (shown["state"], [job["kind"] for job in shown["jobs"]]) == ("succeeded", ["api.run.record"])


def export(trace: bytes, workspace: str, count: int = 2) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "ingest"
    scope = resource.scope_spans.add()
    for number in range(count):
        span = scope.spans.add(
            trace_id=trace,
            span_id=bytes([number + 1]) * 8,
            name=f"step {number}",
            start_time_unix_nano=time.time_ns(),
            end_time_unix_nano=time.time_ns() + 10**6,
        )
        span.attributes.add(key="millrace.workspace").value.string_value = workspace
    return request.SerializeToString()


def test_takes_spans_in_and_shows_a_workspace_its_own(client):
    workspace, key = workspace_and_key(client)
    trace = ids.draw().bytes
    for body, encoding in ((export(trace, workspace), ""), (gzip.compress(export(trace, workspace)), "gzip")):
        headers = bearer("the collector") | {"Content-Type": "application/x-protobuf", "Content-Encoding": encoding}
        assert client.post("/v1/traces", content=body, headers=headers).status_code == 200
    shown = client.get(f"/v1/traces/{trace.hex()}", headers=bearer(key)).json()
    assert [(span["service"], span["name"]) for span in shown["spans"]] == [("ingest", "step 0"), ("ingest", "step 1")]
    _, other = workspace_and_key(client, "other")
    assert client.get(f"/v1/traces/{trace.hex()}", headers=bearer(other)).status_code == 404


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"no protobuf", ""),
        (b"no gzip", "gzip"),
        (gzip.compress(bytes(20_000_000)), "gzip"),
        (export(b"short", ""), ""),
    ],
)
def test_refuses_spans_that_are_none(client, body, encoding):
    headers = bearer("the collector") | {"Content-Encoding": encoding}
    answer = client.post("/v1/traces", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "spans.malformed")


def test_the_documentation_is_one_page_over_all_services_that_asks_a_browser_for_the_key(client):
    _, key = workspace_and_key(client)
    asked = client.get("/docs")
    assert (asked.status_code, asked.headers["www-authenticate"]) == (401, 'Basic realm="millrace"')
    basic = ("anybody", key)
    assert "swagger-ui-bundle.js" in client.get("/docs", auth=basic).text
    assert len(client.get("/docs/swagger-ui-bundle.js", auth=basic).content) > 100_000
    assert client.get("/docs/other.js", auth=basic).status_code == 404
    paths = client.get("/docs/openapi.json", auth=basic).json()["paths"]
    assert {"/v1/runs", "/v1/datasets", "/v1/definitions", "/v1/channels"} <= set(paths)


def test_spans_need_their_own_key(client):
    _, key = workspace_and_key(client)
    assert client.post("/v1/traces", content=b"", headers=bearer(key)).status_code == 403
