"""The front door: identity, tokens, runs, traces."""

import gzip
import json
import math
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.api.handlers import SUBSCRIPTIONS
from services.api.tasks import tasks
from shared import ids
from shared.auth import Verifier
from shared.contracts.api import WorkspaceCreated
from shared.db import raw
from shared.testing.ledger import give_event, jobs, run_due
from tests.integration.api_service import bearer, front_door, sha256, workspace_and_key


@pytest.fixture
def database(service_database):
    return service_database("api")


@pytest.fixture
def client(database, environment, monkeypatch, tmp_path):
    environment("api")
    with front_door(monkeypatch, tmp_path) as client:
        yield client


def test_jobs_are_filtered_by_states_that_there_are(client):
    _, key = workspace_and_key(client)
    page = client.get("/v1/jobs?state=failed", headers=bearer(key)).json()
    assert page == {"items": [], "next": None, "unreachable": []}
    answer = client.get("/v1/jobs?state=done", headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


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


def test_lists_a_run_as_soon_as_its_request_was_accepted(client):
    _, key = workspace_and_key(client)
    run = client.post("/v1/rules", headers=bearer(key)).json()["run"]["id"]
    assert [item["id"] for item in client.get("/v1/runs", headers=bearer(key)).json()["items"]] == [run]
    _, other = workspace_and_key(client, "other")
    assert client.get("/v1/runs", headers=bearer(other)).json()["items"] == []
    assert client.get(f"/v1/runs/{run}", headers=bearer(other)).status_code == 404


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


def run_row(database, run):
    with database.transaction() as session:
        return raw(session).execute("SELECT state, reason, finished_at FROM run WHERE id = %s", (run,)).fetchone()


def test_an_ended_run_stays_ended_while_a_service_is_away(client, database):
    workspace, key = workspace_and_key(client)
    event = WorkspaceCreated(workspace_id=ids.draw(), name="x")
    run = give_event(database, SUBSCRIPTIONS, event, workspace=workspace).runid
    run_due(database, tasks)
    before = run_row(database, run)
    client.app.state.peers._urls["reports"] = "http://127.0.0.1:1"
    shown = client.get(f"/v1/runs/{run}", headers=bearer(key)).json()
    assert (shown["state"], shown["unreachable"]) == ("succeeded", ["reports"])
    assert [item["state"] for item in client.get("/v1/runs", headers=bearer(key)).json()["items"]] == ["succeeded"]
    assert run_row(database, run) == before


def test_a_run_ends_though_nobody_asks_for_it(client, database):
    workspace, _ = workspace_and_key(client)
    event = WorkspaceCreated(workspace_id=ids.draw(), name="x")
    first = give_event(database, SUBSCRIPTIONS, event, workspace=workspace)
    run_due(database, tasks, hurry=False)
    assert run_row(database, first.runid)["state"] == "running"
    give_event(database, SUBSCRIPTIONS, event, workspace=workspace, run=first.runid)
    run_due(database, tasks)
    row = run_row(database, first.runid)
    recorded = [job["finished_at"] for job in jobs(database, kind="api.run.record")]
    assert (row["state"], row["reason"], row["finished_at"]) == ("succeeded", None, max(recorded))
    settled = jobs(database, kind="api.run.settle")
    assert [job["result"] for job in settled] == ["left to the job of a later event", "succeeded"]
    assert [job["traceparent"] for job in settled] == [None, None]


def test_a_run_is_looked_at_again_while_a_service_is_away(client, database, monkeypatch):
    workspace, _ = workspace_and_key(client)
    urls = client.app.state.settings.service_urls
    monkeypatch.setenv("MILLRACE_SERVICE_URLS", json.dumps({**urls, "reports": "http://127.0.0.1:1"}))
    event = WorkspaceCreated(workspace_id=ids.draw(), name="x")
    run = give_event(database, SUBSCRIPTIONS, event, workspace=workspace).runid
    run_due(database, tasks, hurry=False)
    make_due(database)
    run_due(database, tasks, hurry=False)
    (waiting,) = jobs(database, kind="api.run.settle")
    assert (waiting["state"], waiting["error"]["code"]) == ("queued", "attempt.snoozed")
    assert "reports cannot be asked" in waiting["error"]["detail"]
    monkeypatch.setenv("MILLRACE_SERVICE_URLS", json.dumps(urls))
    run_due(database, tasks)
    assert run_row(database, run)["state"] == "succeeded"


def make_due(database):
    with database.transaction() as session:
        raw(session).execute("UPDATE job SET not_before = now() WHERE state = 'queued'")


@pytest.mark.parametrize("traceparent", ["", "00", "-", "00-zz-1-01", "00-" + "0" * 32 + "-" + "1" * 16 + "-01"])
def test_an_event_with_a_malformed_traceparent_is_recorded(client, database, traceparent):
    workspace, key = workspace_and_key(client)
    event = WorkspaceCreated(workspace_id=ids.draw(), name="x")
    given = give_event(database, SUBSCRIPTIONS, event, workspace=workspace)
    with database.transaction() as session:
        raw(session).execute(
            "UPDATE job SET traceparent = %s, args = jsonb_set(args, '{envelope,traceparent}', to_jsonb(%s::text))",
            (traceparent, traceparent),
        )
    run_due(database, tasks)
    assert [job["state"] for job in jobs(database, kind="api.run.record")] == ["succeeded"]
    assert client.get(f"/v1/runs/{given.runid}", headers=bearer(key)).json()["trace_id"] is None


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


def test_keeps_numbers_that_json_does_not_know_as_their_text(client):
    workspace, key = workspace_and_key(client)
    trace = ids.draw().bytes
    request = ExportTraceServiceRequest.FromString(export(trace, workspace, 1))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    for name, number in {"nan": math.nan, "inf": math.inf, "half": 0.5}.items():
        span.attributes.add(key=name).value.double_value = number
    span.attributes.add(key="list").value.array_value.values.add(double_value=-math.inf)
    answer = client.post("/v1/traces", content=request.SerializeToString(), headers=bearer("the collector"))
    assert answer.status_code == 200
    (shown,) = client.get(f"/v1/traces/{trace.hex()}", headers=bearer(key)).json()["spans"]
    del shown["attributes"]["millrace.workspace"]
    assert shown["attributes"] == {"nan": "nan", "inf": "inf", "half": 0.5, "list": ["-inf"]}


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
