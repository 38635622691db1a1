"""The gateway: passing requests on to a real service, to one that hangs, and to none."""

import hashlib
import json
import socket
from uuid import UUID

import pytest

from services.api.adapters.peers import Patience, Peers
from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared import ids
from shared.auth import Verifier
from shared.db import Database
from shared.ledger.enqueue import Origin, enqueue
from shared.testing.ledger import jobs, run_due
from tests.integration.api_service import PEERS_RUN, REFUSED_KIND, bearer, front_door, workspace_and_key


@pytest.fixture
def database(service_database):
    return service_database("api")


@pytest.fixture
def client(database, environment, monkeypatch, tmp_path):
    environment("api")
    with front_door(monkeypatch, tmp_path) as client:
        yield client


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


def test_a_path_is_passed_on_as_it_was_encoded(client):
    _, key = workspace_and_key(client)
    answer = client.get("/v1/datasets/a%20%C3%A9%25b?name=%2e", headers=bearer(key)).json()
    assert answer == {"raw": "/v1/datasets/a%20%C3%A9%25b", "query": "name=%2e"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/datasets/%2e%2e/%2e%2e/metrics",
        "/v1/datasets/.%2E/x",
        "/v1/datasets/%2e/x",
        "/v1/datasets/a%2fb",
        "/v1/datasets/..%5cx",
        "/v1/datasets%2f..%2f..%2fmetrics",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(client, path):
    _, key = workspace_and_key(client)
    answer = client.get(path, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found")


@pytest.fixture
def mute():
    """The address of a service that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def hung(client, mute, monkeypatch):
    """The front door with a reports service that hangs."""
    monkeypatch.setattr(client.app.state, "peers", client.app.state.peers)  # the first is closed at the end
    urls = {**client.app.state.settings.service_urls, "reports": mute}
    client.app.state.peers = Peers(urls, Patience(connect=2.0, read=0.2, write=0.2, ask=0.5))
    yield client
    client.portal.call(client.app.state.peers.close)


def test_a_service_that_hangs_is_a_problem_that_claims_nothing(hung):
    _, key = workspace_and_key(hung)
    for body in (b"{}", b"x" * 20_000_000):  # one that is taken, one that is not
        answer = hung.post("/v1/definitions", content=body, headers=bearer(key))
        assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "not known whether the request took effect" in answer.json()["detail"]


def test_a_service_that_hangs_hides_nothing_of_the_others(hung):
    _, key = workspace_and_key(hung)
    page = hung.get("/v1/jobs", headers=bearer(key)).json()
    assert page == {"items": [], "next": None, "unreachable": ["reports"]}
    assert hung.get("/v1/datasets", headers=bearer(key)).status_code == 200


def test_an_accepted_request_stays_accepted_when_its_run_cannot_be_entered(client, monkeypatch):
    _, key = workspace_and_key(client)
    token = client.post("/v1/token", headers=bearer(key)).json()["access_token"]
    monkeypatch.setattr(client.app.state, "database", client.app.state.database)
    client.app.state.database = Database("postgresql://nobody@127.0.0.1:1/nothing", application="test")
    answer = client.post("/v1/rules", headers=bearer(token))
    assert (answer.status_code, set(answer.json())) == (202, {"job", "run"})
    away = client.get("/v1/runs", headers=bearer(token))
    assert away.status_code == 503
    assert "not known whether the request took effect" in away.json()["detail"]


def test_an_unknown_route_and_an_unset_service_are_problems(client):
    _, key = workspace_and_key(client)
    assert client.get("/v1/nonsense", headers=bearer(key)).json()["code"] == "resource.not_found"
    for method, path, allowed in (
        ("PUT", "/v1/jobs", "GET, POST"),
        ("DELETE", f"/v1/jobs/{ids.draw()}", "GET"),
        ("GET", "/v1/jobs:cancel", "POST"),
        ("PATCH", "/v1/schedules", "GET, POST"),
    ):
        wrong = client.request(method, path, headers=bearer(key))
        assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "request.method", allowed)
    client.app.state.peers._urls.pop("reports")
    answer = client.get("/v1/renders", headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
    assert int(answer.headers["retry-after"]) > 0


# Jobs by name


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs:batch"])
def test_a_job_is_owed_by_the_service_that_its_kind_begins_with(client, path):
    _, key = workspace_and_key(client)
    job = {"kind": "reports.definition.render", "args": {"x": 1}}
    body = job if path == "/v1/jobs" else {"jobs": [job, job]}
    answer = client.post(path, json=body, headers=bearer(key) | {"Idempotency-Key": "one"})
    assert answer.status_code == 202
    assert answer.json()["got"] == body
    assert answer.json()["headers"]["idempotency-key"] == "one"
    listed = client.get("/v1/runs", headers=bearer(key)).json()["items"]
    assert [run["id"] for run in listed] == [answer.json()["run"]["id"]]


def test_its_own_kinds_are_owed_by_the_gateway(client, database):
    workspace, key = workspace_and_key(client)
    canary = {"kind": "api.canary.run", "args": {"text": "hello"}}
    one = client.post("/v1/jobs", json=canary, headers=bearer(key))
    many = client.post("/v1/jobs:batch", json={"jobs": [canary] * 3}, headers=bearer(key))
    assert (one.status_code, many.status_code) == (202, 202)
    assert one.headers["location"] == one.json()["job"]["url"]
    run_due(database, tasks)
    rows = jobs(database, kind="api.canary.run", state="succeeded")
    assert [str(row["id"]) for row in rows] == [one.json()["job"]["id"], *many.json()["jobs"]]
    assert {str(row["workspace"]) for row in rows} == {workspace}
    assert client.get(one.json()["run"]["url"], headers=bearer(key)).json()["state"] == "succeeded"
    assert len(client.get("/v1/runs", headers=bearer(key)).json()["items"]) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"kind": "nobody.thing.do"}, "job.kind_unknown"),
        ({"kind": "api.run.settle"}, "job.kind_private"),
        ({"kind": "api.canary.run", "args": {"text": 1}}, "job.arguments_invalid"),
        ({"args": {}}, "request.invalid"),
    ],
)
def test_a_wrong_job_is_refused_at_the_gateway(client, body, code):
    _, key = workspace_and_key(client)
    answer = client.post("/v1/jobs", json=body, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    mixed = {"jobs": [{"kind": "api.canary.run"}, {"kind": "reports.definition.render"}]}
    answer = client.post("/v1/jobs:batch", json=mixed, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"], answer.json()["index"]) == (422, "job.batch_mixed", 1)
    assert "A batch is of one service" in answer.json()["detail"]


# Jobs moved by hand


def test_a_job_is_moved_by_the_service_that_has_it_and_its_run_is_told_anew(client, database):
    workspace, key = workspace_and_key(client)
    theirs = "01900000-0000-7000-8000-000000000001"
    answer = client.post(f"/v1/jobs/{theirs}/cancel", headers=bearer(key))
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    [settling] = jobs(database, kind="api.run.settle")
    assert (str(settling["run"]), str(settling["workspace"])) == (answer.json()["run"], workspace)
    refused = client.post(f"/v1/jobs/{theirs}/retry", json={"args": {}}, headers=bearer(key))
    assert (refused.status_code, refused.json()["code"]) == (409, "job.wrong_state")
    assert refused.headers["content-type"] == "application/problem+json"
    nobodys = client.post(f"/v1/jobs/{ids.draw()}/retry", headers=bearer(key))
    assert (nobodys.status_code, nobodys.json()["code"]) == (404, "resource.not_found")


def test_its_own_jobs_are_moved_by_the_gateway(client, database):
    _, key = workspace_and_key(client)
    owed = client.post("/v1/jobs", json={"kind": "api.canary.run"}, headers=bearer(key)).json()
    run, job = owed["run"]["url"], owed["job"]["url"]
    assert client.post(f"{job}/cancel", headers=bearer(key)).json()["state"] == "cancelled"
    assert client.get(run, headers=bearer(key)).json()["state"] == "cancelled"
    assert client.post(f"{job}/cancel", headers=bearer(key)).status_code == 409
    edited = client.post(f"{job}/retry", json={"args": {"text": "again"}}, headers=bearer(key))
    assert (edited.status_code, edited.json()["args"]) == (200, {"text": "again"})
    listed = client.get("/v1/runs", headers=bearer(key)).json()["items"]
    assert [each["state"] for each in listed] == ["running"]
    run_due(database, tasks)
    assert client.get(run, headers=bearer(key)).json()["state"] == "succeeded"


def test_all_that_match_are_moved_in_every_service_and_the_answers_are_one(client):
    _, key = workspace_and_key(client)
    client.post("/v1/jobs:batch", json={"jobs": [{"kind": "api.canary.run"}] * 2}, headers=bearer(key))
    counted = client.post("/v1/jobs:cancel", json={"filter": {}, "dry_run": True}, headers=bearer(key)).json()
    assert (counted["jobs"], counted["by_kind"]["api.canary.run"], counted["unreachable"]) == (2 + 3 * 7, 2, [])
    moved = client.post("/v1/jobs:cancel", json={"filter": {"kind": "x"}}, headers=bearer(key)).json()
    assert (moved["jobs"], moved["more"], moved["by_kind"]) == (3 * 7, True, None)


def test_a_service_that_hangs_is_named_when_many_are_moved(hung):
    _, key = workspace_and_key(hung)
    moved = hung.post("/v1/jobs:cancel", json={"filter": {}}, headers=bearer(key)).json()
    assert moved["unreachable"] == ["reports"]
    refused = hung.post("/v1/jobs:cancel", json={"filter": {"kind": REFUSED_KIND}}, headers=bearer(key))
    assert (refused.status_code, refused.json()["code"], refused.json()["moved"]) == (403, "auth.forbidden", 0)
    assert refused.json()["service"] == "ingest"
    answer = hung.post(f"/v1/jobs/{ids.draw()}/cancel", headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (503, "service.unavailable")
    assert "Idempotency-Key" not in answer.json()["detail"], "it takes none"


def test_jobs_of_all_services_are_counted_over_time(client):
    _, key = workspace_and_key(client)
    client.post("/v1/jobs:batch", json={"jobs": [{"kind": "api.canary.run"}] * 2}, headers=bearer(key))
    found = client.get("/v1/jobs:counts", headers=bearer(key)).json()
    kinds = [(each["kind"], each["jobs"]) for each in found["kinds"] if each["kind"] in ("x", "api.canary.run")]
    assert kinds == [("api.canary.run", 2), ("x", 7), ("x", 7), ("x", 7)], "kinds are a service's own: none is added up"
    assert (found["is_complete"], found["unreachable"]) == (False, [])
    wrong = client.get("/v1/jobs:counts?bucket=week", headers=bearer(key))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "request.invalid")


def test_a_service_that_hangs_is_named_when_jobs_are_counted(hung):
    _, key = workspace_and_key(hung)
    assert hung.get("/v1/jobs:counts", headers=bearer(key)).json()["unreachable"] == ["reports"]


def test_a_run_that_a_schedule_began_is_listed_from_the_start(client, database):
    workspace, key = workspace_and_key(client)
    run = ids.draw()
    with database.transaction(origin=Origin(UUID(workspace), run, "schedule", ids.draw())) as session:
        enqueue(session, RunCanary(text="a"))

    def listed(**query):
        items = client.get("/v1/runs", params=query, headers=bearer(key)).json()["items"]
        return {item["id"]: item["state"] for item in items}

    assert listed() == {str(run): "running"}
    assert listed(after=str(run)) == {}
    assert listed(limit=7).keys() == {str(run), PEERS_RUN}, "also of another service"
    run_due(database, tasks)
    assert listed()[str(run)] == "succeeded"


def states_of_runs(database):
    with database.connect() as connection:
        return [row["state"] for row in connection.execute("SELECT state FROM run ORDER BY id").fetchall()]


def test_a_run_without_events_is_told_though_nobody_asks(client, database):
    _, key = workspace_and_key(client)
    first = client.post("/v1/jobs", json={"kind": "api.canary.run"}, headers=bearer(key)).json()["job"]["url"]
    for _ in range(3):
        client.post("/v1/jobs", json={"kind": "api.canary.run"}, headers=bearer(key))
    assert client.post(f"{first}/cancel", headers=bearer(key)).status_code == 200
    assert states_of_runs(database) == ["running"] * 4
    run_due(database, tasks)
    assert states_of_runs(database) == ["cancelled", "succeeded", "succeeded", "succeeded"]
    assert len(jobs(database, kind="api.run.sweep")) <= 2, "one for all that began in a span"


def test_no_run_is_told_while_a_service_cannot_be_asked(client, database, monkeypatch):
    _, key = workspace_and_key(client)
    urls = {**client.app.state.settings.service_urls, "reports": "http://127.0.0.1:1"}
    monkeypatch.setenv("MILLRACE_SERVICE_URLS", json.dumps(urls))
    client.post("/v1/jobs", json={"kind": "api.canary.run"}, headers=bearer(key))
    with database.connect() as connection:
        connection.execute("UPDATE job SET not_before = now() WHERE kind = 'api.run.sweep'")
    run_due(database, tasks, hurry=False)
    assert states_of_runs(database) == ["running"]
    [sweep] = jobs(database, kind="api.run.sweep")
    assert (sweep["state"], sweep["error"]["code"]) == ("queued", "attempt.snoozed")
