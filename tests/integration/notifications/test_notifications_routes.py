"""The HTTP API of notifications: channels and rules."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from services.notifications import operations
from services.notifications.errors import TooMany
from services.notifications.handlers import SUBSCRIPTIONS
from services.notifications.main import create
from services.notifications.operations import setting_up
from shared import ids
from shared.testing.http import TestApp
from shared.testing.waiting import until

SECRET = "whsec_" + "a2tr" * 10


@pytest.fixture
def app(service_database, environment, monkeypatch):
    service_database("notifications")
    environment("notifications")
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", "smtp://127.0.0.1:9")
    monkeypatch.setenv("NOTIFICATIONS_MAIL_FROM", "reports@millrace.example")
    return TestApp(create())


@pytest.fixture
def workspace():
    return ids.draw()


@pytest.fixture
def client(app, workspace):
    with app.client(workspace) as client:
        yield client


def an_email_channel(**changes):
    return {"name": "team", "kind": "email", "config": {"to": ["ann@example.com"]}, **changes}


def a_webhook(**changes):
    return {"name": "hook", "kind": "webhook", "config": {"url": "https://hooks.example.com/T0/secret?k=1"}, **changes}


def test_an_email_channel_has_addresses(client):
    body = an_email_channel(config={"to": ["ann@straße.de", "bob@example.com", "bob@example.com"]})
    made = client.post("/v1/channels", json=body)
    assert made.status_code == 201
    assert made.json()["config"] == {"to": ["ann@xn--strae-oqa.de", "bob@example.com"]}
    assert made.json()["secret"] is None
    assert client.get(f"/v1/channels/{made.json()['id']}").json()["config"] == made.json()["config"]


def test_a_webhooks_secret_is_shown_once(client):
    made = client.post("/v1/channels", json=a_webhook()).json()
    assert made["secret"].startswith("whsec_")
    assert len(made["secret"]) == 6 + 44
    assert "secret" not in client.get(f"/v1/channels/{made['id']}").json()
    assert made["secret"] not in client.get("/v1/channels").text


def test_two_webhooks_have_two_secrets(client):
    made = [client.post("/v1/channels", json=a_webhook(name=name)).json() for name in ("one", "two")]
    assert made[0]["secret"] != made[1]["secret"]


def test_a_secret_can_be_given(client):
    assert client.post("/v1/channels", json=a_webhook(secret=SECRET)).json()["secret"] == SECRET


def test_readers_see_the_host_of_a_webhook_alone(app, client, workspace):
    made = client.post("/v1/channels", json=a_webhook()).json()
    assert client.get("/v1/channels").json()["items"][0]["config"]["url"] == made["config"]["url"]
    with app.client(workspace, frozenset({"read"})) as reader:
        assert reader.get(f"/v1/channels/{made['id']}").json()["config"]["url"] == "https://hooks.example.com/…"


@pytest.mark.parametrize(
    "body",
    [
        {},
        an_email_channel(kind="pigeon"),
        an_email_channel(config={"to": []}),
        an_email_channel(config={"to": ["nobody"]}),
        an_email_channel(config={"to": ["ann@example.com\r\nBcc: eve@example.com"]}),
        an_email_channel(config={"to": ["ann@example.com"] * 51}),
        an_email_channel(config={"url": "https://example.com"}),
        an_email_channel(name=""),
        an_email_channel(name="a\nb"),
        an_email_channel(colour="green"),
        a_webhook(config={"url": "ftp://example.com/hunter2"}),
        a_webhook(config={"url": "https://user:hunter2@example.com/"}),
        a_webhook(secret="hunter2"),
        a_webhook(secret="whsec_hunter2"),
    ],
)
def test_a_channel_that_cannot_work_is_refused_with_the_reason(client, body):
    answer = client.post("/v1/channels", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"]
    assert "hunter2" not in answer.text
    assert client.get("/v1/channels").json() == {"items": [], "next": None}


def test_a_name_is_taken_once_a_workspace(app, client):
    assert client.post("/v1/channels", json=an_email_channel()).status_code == 201
    again = client.post("/v1/channels", json=an_email_channel())
    assert (again.status_code, again.json()["code"]) == (409, "name.taken")
    with app.client() as other:
        assert other.post("/v1/channels", json=an_email_channel()).status_code == 201


def test_channels_come_in_pages(client):
    made = [client.post("/v1/channels", json=an_email_channel(name=f"c{n}")).json()["id"] for n in range(5)]
    seen, after = [], None
    while True:
        page = client.get("/v1/channels", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == made


def a_rule(channel, **changes):
    return {"name": "rule", "event_type": "reports.*", "filter": {}, "channel_id": channel["id"], **changes}


@pytest.fixture
def channel(client):
    return client.post("/v1/channels", json=an_email_channel()).json()


def test_a_rule_leads_from_events_to_a_channel(client, channel):
    made = client.post("/v1/rules", json=a_rule(channel, filter={"dataset": "orders", "version": 3}))
    assert made.status_code == 201
    body = made.json()
    assert (body["channel"], body["event_type"]) == ("team", "reports.*")
    assert body["filter"] == {"dataset": "orders", "version": 3}
    assert client.get(f"/v1/rules/{body['id']}").json() == body
    assert client.get("/v1/rules").json() == {"items": [body], "next": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": "*.v1"},
        {"event_type": ""},
        {"filter": {"a": [1]}},
        {"filter": {"": 1}},
        {"filter": {f"a{n}": n for n in range(21)}},
        {"name": "x" * 101},
        {"channel_id": "none"},
        {"extra": 1},
    ],
)
def test_a_rule_that_cannot_work_is_refused(client, channel, changes):
    assert client.post("/v1/rules", json=a_rule(channel, **changes)).status_code == 422
    assert client.get("/v1/rules").json()["items"] == []


@pytest.mark.parametrize(
    "event_type",
    [
        "reports.report.redered.v1",
        "reports.report.rendered.v2",
        "reports.definition.*",
        "api.workspace.created.v1",
        "notifications.*",
    ],
)
def test_a_rule_that_would_never_fire_is_refused(client, channel, event_type):
    refused = client.post("/v1/rules", json=a_rule(channel, event_type=event_type))
    assert (refused.status_code, refused.json()["code"]) == (422, "rule.event_type_unknown")
    assert event_type in refused.json()["detail"]
    assert set(refused.json()["event_types"]) == {event.type for event in SUBSCRIPTIONS}
    assert client.get("/v1/rules").json()["items"] == []


@pytest.mark.parametrize("event_type", ["*", "ingest.*", *(event.type for event in SUBSCRIPTIONS)])
def test_a_rule_may_name_whatever_is_told_of(client, channel, event_type):
    assert client.post("/v1/rules", json=a_rule(channel, event_type=event_type)).status_code == 201


def test_two_at_once_do_not_pass_the_most_that_a_workspace_may_have(client, channel, workspace, monkeypatch):
    monkeypatch.setattr(setting_up, "MAX_RULES", 1)
    database = client.app.state.database

    def make(session, name):
        rule = {"name": name, "event_type": "*", "filter": {}, "channel": UUID(channel["id"])}
        operations.create_rule(session, workspace, **rule)

    def make_another():
        with database.transaction() as session:
            make(session, "two")

    def waits():
        with database.connect() as connection:
            locks = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return connection.execute(locks).fetchone()["n"] or second.done()

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            make(session, "one")
            second = pool.submit(make_another)
            until(waits)
        with pytest.raises(TooMany):
            second.result(10)
    assert [rule["name"] for rule in client.get("/v1/rules").json()["items"]] == ["one"]


def test_a_rule_needs_a_channel_of_the_workspace(app, client, channel):
    unknown = client.post("/v1/rules", json=a_rule({"id": str(uuid4())}))
    assert (unknown.status_code, unknown.json()["code"]) == (422, "channel.unknown")
    with app.client() as other:
        assert other.post("/v1/rules", json=a_rule(channel)).status_code == 422


def test_a_rules_name_is_taken_once(client, channel):
    client.post("/v1/rules", json=a_rule(channel))
    assert client.post("/v1/rules", json=a_rule(channel)).status_code == 409


def test_deleting_a_channel_deletes_its_rules(client, channel):
    rule = client.post("/v1/rules", json=a_rule(channel)).json()
    assert client.delete(f"/v1/channels/{channel['id']}").status_code == 204
    assert client.get(f"/v1/rules/{rule['id']}").status_code == 404
    assert client.get("/v1/channels").json()["items"] == []


def test_deleting_a_rule_keeps_the_channel(client, channel):
    rule = client.post("/v1/rules", json=a_rule(channel)).json()
    assert client.delete(f"/v1/rules/{rule['id']}").status_code == 204
    assert client.get("/v1/rules").json()["items"] == []
    assert len(client.get("/v1/channels").json()["items"]) == 1


def test_what_is_another_workspaces_is_not_there(app, client, channel):
    rule = client.post("/v1/rules", json=a_rule(channel)).json()
    with app.client() as other:
        for path in (f"/v1/channels/{channel['id']}", f"/v1/rules/{rule['id']}"):
            assert other.get(path).status_code == 404
            assert other.delete(path).status_code == 404
        assert other.get("/v1/channels").json()["items"] == []
        assert other.get("/v1/rules").json()["items"] == []
    assert client.get(f"/v1/rules/{rule['id']}").status_code == 200


def test_a_reader_changes_nothing(app, client, channel, workspace):
    with app.client(workspace, frozenset({"read"})) as reader:
        assert reader.post("/v1/channels", json=an_email_channel(name="b")).status_code == 403
        assert reader.post("/v1/rules", json=a_rule(channel)).status_code == 403
        assert reader.delete(f"/v1/channels/{channel['id']}").status_code == 403
        assert reader.get("/v1/channels").status_code == 200


def test_the_api_is_documented(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/channels", "/v1/rules", "/v1/messages", "/v1/deliveries", "/v1/deliveries/{id}"} <= set(paths)
