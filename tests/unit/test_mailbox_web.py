"""The mailbox's page, JSON and webhook receivers."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from standardwebhooks import Webhook

from infra.local.mailbox.store import Hooks, Messages
from infra.local.mailbox.web import MAX_HOOK_BODY, create

KEY = "k" * 20
SECRET = "whsec_" + "a2tr" * 10
HOSTILE = b"""From: "<script>alert(1)</script>" <a@example.com>\r
To: "><img src=x> <b@example.com>\r
Subject: <img src=x onerror=alert(2)>\r
Message-ID: <1@example.com>\r
Content-Type: multipart/mixed; boundary=m\r
\r
--m\r
Content-Type: text/html\r
\r
<h1>hi</h1><script>alert(3)</script>\r
--m\r
Content-Type: text/plain\r
\r
<script>alert(4)</script>\r
--m\r
Content-Type: text/html\r
Content-Disposition: attachment; filename="a\\"b\xc3\xa4<x>.html"\r
\r
<script>alert(5)</script>\r
--m--\r
"""


@pytest.fixture
def app(tmp_path):
    return create(tmp_path, KEY, "127.0.0.1:1025")


@pytest.fixture
def client(app):
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def stranger(app):
    with TestClient(app) as client:
        yield client


@pytest.fixture
def entry(tmp_path):
    return Messages(tmp_path).add("a@example.com", ["b@example.com"], HOSTILE)


# --- who may


PATHS = [
    "/",
    "/view/x",
    "/webhooks",
    "/webhooks/a/b",
    "/messages",
    "/messages/x",
    "/messages/x/html",
    "/messages/x/source",
    "/messages/x/attachments/0",
    "/hooks",
    "/hooks/team",
    "/assets/mailbox.css",
    "/nothing",
]


def test_every_route_is_in_the_list_of_those_that_need_the_key(app):
    known = {route.path for route in app.routes if "GET" in getattr(route, "methods", ())} - {"/healthz"}
    shapes = {path.strip("/").split("/")[0] for path in PATHS}
    assert {path.strip("/").split("/")[0] for path in known} <= shapes


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", f"Token {KEY}", KEY, "Basic !", "Basic eDp3cm9uZw==", "Bearer "]
)
def test_without_the_key_nothing_is_shown(stranger, path, authorization):
    answer = stranger.get(path, headers={"Authorization": authorization} if authorization else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert "No mail yet" not in answer.text


def test_setting_a_secret_needs_the_key(stranger, client):
    assert stranger.put("/hooks/team", json={"secret": SECRET}).status_code == 401
    assert client.get("/hooks").json() == []


def test_a_browser_gives_the_key_as_a_password(stranger):
    assert stranger.get("/", auth=("anyone", KEY)).status_code == 200


def test_health_is_open(stranger):
    assert stranger.get("/healthz").json() == {"status": "ok"}


# --- mail


def test_messages_are_told_as_json(client, entry):
    (told,) = client.get("/messages").json()
    assert told["id"] == entry
    assert told["from"] == '"<script>alert(1)</script>" <a@example.com>'
    assert (told["recipients"], told["message_id"]) == (["b@example.com"], "<1@example.com>")
    assert told["attachments"] == [{"filename": 'a"bä<x>.html', "bytes": 25, "media_type": "text/html"}]
    assert datetime.fromisoformat(told["received_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    whole = client.get(f"/messages/{entry}").json()
    assert "alert(4)" in whole["text"]
    assert "alert(3)" in whole["html"]


def test_an_empty_inbox_says_where_to_send(client):
    assert "smtp://127.0.0.1:1025" in client.get("/").text


@pytest.mark.parametrize("show", ["html", "text", "headers"])
def test_the_page_escapes_all_that_arrived(client, entry, show):
    for path in ("/", f"/view/{entry}?show={show}"):
        page = client.get(path).text
        assert "&lt;img src=x onerror=alert(2)&gt;" in page
        for number in range(1, 6):
            assert f"alert({number})</script>" not in page
        assert "<img" not in page


def test_the_page_runs_no_script_but_its_own(client, entry):
    policy = client.get(f"/view/{entry}").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


def test_a_mails_html_is_shown_in_a_sandbox_without_scripts_or_network(client, entry):
    page = client.get(f"/view/{entry}").text
    assert f'src="/messages/{entry}/html"' in page
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    answer = client.get(f"/messages/{entry}/html")
    assert "alert(3)" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-popups")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy


def test_an_attachment_is_downloaded_and_never_shown(client, entry):
    answer = client.get(f"/messages/{entry}/attachments/0")
    assert answer.content.strip() == b"<script>alert(5)</script>"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%22b%C3%A4%3Cx%3E.html"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"/messages/{entry}/attachments/1").status_code == 404
    assert client.get(f"/messages/{entry}/attachments/-1").status_code == 422


def test_the_source_is_the_file(client, entry):
    assert client.get(f"/messages/{entry}/source").content.endswith(HOSTILE)


@pytest.mark.parametrize("path", ["/view/x", "/messages/x", "/messages/..%2f..%2fsecret", "/webhooks/a/b", "/hooks/no"])
def test_what_is_not_there_is_404(client, path):
    assert client.get(path).status_code == 404


# --- webhooks


@pytest.fixture
def hook(client):
    assert client.put("/hooks/team", json={"secret": SECRET}).status_code == 204
    return "/hooks/team"


def signed(body, secret=SECRET, at=None, id="msg_1"):
    at = at or datetime.now(UTC)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, at, body),
    }


BODY = '{"type": "reports.report.rendered.v1", "data": {"title": "<b>Grüße</b>"}}'


def test_a_signed_webhook_is_taken_and_kept(client, stranger, hook):
    assert stranger.post(hook, content=BODY.encode(), headers=signed(BODY)).status_code == 204
    (arrival,) = client.get(hook).json()
    assert (arrival["verified"], arrival["problem"], arrival["body"]) == (True, None, BODY)
    assert arrival["headers"]["webhook-id"] == "msg_1"


OLD = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(BODY, "whsec_" + "b2tr" * 10),
        signed(BODY + " "),
        signed(BODY, at=OLD),
        {**signed(BODY), "webhook-id": "msg_2"},
        {**signed(BODY), "webhook-signature": "nonsense"},
        {**signed(BODY), "webhook-signature": "v1,!!!"},
        {**signed(BODY), "webhook-signature": "v2," + "a" * 44},
        {**signed(BODY), "webhook-timestamp": "soon"},
    ],
)
def test_a_webhook_that_does_not_verify_is_refused_and_kept(client, stranger, hook, headers):
    answer = stranger.post(hook, content=BODY.encode(), headers=headers)
    assert answer.status_code == 401
    (arrival,) = client.get(hook).json()
    assert not arrival["verified"]
    assert arrival["problem"]


def test_a_body_that_is_not_text_is_refused(client, stranger, hook):
    assert stranger.post(hook, content=b"\xff\xfe\x00", headers=signed("")).status_code == 401
    assert client.get(hook).json()[0]["verified"] is False


def test_a_body_that_is_too_big_is_not_kept(client, stranger, hook):
    assert stranger.post(hook, content=b"x" * (MAX_HOOK_BODY + 1), headers=signed("")).status_code == 413
    assert client.get(hook).json() == []


def test_a_hook_without_a_secret_takes_nothing(stranger, tmp_path):
    assert stranger.post("/hooks/unknown", content=b"{}").status_code == 404
    assert list((tmp_path / "hooks").iterdir()) == []


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", 5, None])
def test_a_secret_has_the_standard_form(client, secret):
    assert client.put("/hooks/team", json={"secret": secret}).status_code == 422
    assert client.get("/hooks").json() == []


def test_a_name_that_is_a_path_is_refused(client):
    assert client.put("/hooks/..%2fx", json={"secret": SECRET}).status_code in (404, 405)
    assert client.put("/hooks/UP", json={"secret": SECRET}).status_code == 404


def test_webhooks_are_shown_with_their_verdict_and_escaped(client, stranger, hook):
    stranger.post(hook, content=BODY.encode(), headers=signed(BODY))
    page = client.get("/webhooks").text
    assert "Signature verified" in page
    assert "reports.report.rendered.v1" in page
    assert "&lt;b&gt;Grüße&lt;/b&gt;" in page
    assert "<b>Grüße" not in page
    stranger.post(hook, content=b"<script>alert(1)</script>", headers={"X-<b>": "<i>"})
    page = client.get("/webhooks").text
    assert "Not verified" in page
    assert "<script>alert" not in page
    assert SECRET not in page


def test_the_secret_is_never_told(client, hook, tmp_path):
    assert SECRET not in client.get(hook).text + client.get("/hooks").text + client.get("/webhooks").text
    assert Hooks(tmp_path).secret("team") == SECRET
