"""The main job through the real processes: a CSV becomes a delivered report, in one trace."""

import io
import json
from pathlib import Path

import psycopg
import pytest
from pypdf import PdfReader
from standardwebhooks import Webhook

from infra.local.secrets import SERVICES
from shared.testing.waiting import until
from tests.e2e.system import System, write_orders


@pytest.fixture(scope="module")
def journey(system, tmp_path_factory):
    """The run of one known CSV, ended; with the CSV."""
    made = write_orders(tmp_path_factory.mktemp("orders"))
    accepted = system.client.upload(made.path, "orders")
    run = system.end_of(accepted["run"]["id"])
    assert run["state"] == "succeeded", run["reason"]
    return made, accepted, run


def test_loads_the_good_rows_and_keeps_the_bad_ones_with_their_lines(system, journey):
    orders, accepted, _ = journey
    dataset = system.client.dataset(accepted["dataset"]["id"])
    assert (dataset["state"], dataset["rows_loaded"], dataset["rows_rejected"]) == ("ready", 997, 3)
    rejects = {reject["line"]: (reject["column"], reject["value"]) for reject in system.client.rejects(dataset["id"])}
    assert rejects == {line: ("amount", value) for line, value in orders.bad_lines.items()}


def test_the_report_says_what_the_data_says(system, journey, tmp_path):
    orders, _, run = journey
    (render,) = system.client.renders(run["id"])
    artifacts = {artifact["format"]: artifact for artifact in system.client.render(render["id"])["artifacts"]}
    assert set(artifacts) == {"html", "pdf", "csv"}
    for artifact in artifacts.values():
        size = system.client.download(artifact["id"], tmp_path / artifact["format"])
        assert size == artifact["bytes"] == (tmp_path / artifact["format"]).stat().st_size
    text = "".join(page.extract_text() for page in PdfReader(tmp_path / "pdf").pages)
    assert "Overview" in text
    assert "997" in text
    assert plain(orders.total) in plain(text)
    assert "<script" not in (tmp_path / "html").read_text()


def plain(text: str) -> str:
    """Without the separators of thousands, whichever are printed."""
    return text.replace(",", "").replace("\u202f", "").replace("\u00a0", "").replace(" ", "")


def delivery(system: System, run: dict, kind: str) -> dict:
    (found,) = [each for each in system.client.deliveries(run["id"]) if each["channel_kind"] == kind]
    return found


def test_the_mail_arrives_once_with_the_pdf(system, journey):
    _, _, run = journey
    sent = delivery(system, run, "email")
    mails = [mail for mail in system.mailbox.mails() if sent["id"] in mail["message_id"]]
    assert (sent["status"], len(mails)) == ("delivered", 1)
    (pdf,) = [a for a in mails[0]["attachments"] if a["media_type"] == "application/pdf"]
    number = mails[0]["attachments"].index(pdf)
    content = system.mailbox._ask("GET", f"/messages/{mails[0]['id']}/attachments/{number}").content
    assert "Overview" in PdfReader(io.BytesIO(content)).pages[0].extract_text()


def test_the_webhook_arrives_once_with_a_signature_that_verifies_and_the_trace(system, journey):
    _, _, run = journey
    sent = delivery(system, run, "webhook")
    (arrival,) = [hook for hook in system.mailbox.hooks() if hook["headers"]["webhook-id"] == sent["id"]]
    event = Webhook(system.secret).verify(arrival["body"], arrival["headers"])
    assert (event["type"], event["runid"]) == ("reports.report.rendered.v1", run["id"])
    assert arrival["headers"]["traceparent"].split("-")[1] == run["trace_id"]
    with pytest.raises(Exception, match="signature"):
        Webhook(system.secret).verify(arrival["body"] + " ", arrival["headers"])


def test_the_run_tells_the_whole_chain(journey):
    _, _, run = journey
    kinds = {job["kind"] for job in run["jobs"]}
    assert {"ingest.dataset.load", "reports.definition.match", "reports.report.render"} <= kinds
    assert {"notifications.event.match", "notifications.message.send", "api.run.record"} <= kinds
    assert {job["state"] for job in run["jobs"]} == {"succeeded"}
    assert [event["type"] for event in run["events"]] == [
        "ingest.dataset.completed.v1",
        "reports.report.rendered.v1",
        "notifications.message.delivered.v1",
        "notifications.message.delivered.v1",
    ]
    assert run["unreachable"] == []


def test_every_hop_is_in_one_trace(system, journey):
    _, _, run = journey

    def whole() -> list[dict] | None:
        spans = system.client.trace(run["trace_id"])["spans"]
        known = {span["span_id"] for span in spans}
        orphans = [span for span in spans if span["parent_id"] and span["parent_id"] not in known]
        return spans if {span["service"] for span in spans} == set(SERVICES) and not orphans else None

    spans = until(whole, 15)
    names = {span["name"] for span in spans}
    for hop in ("POST /v1/datasets", "dispatch ingest.dataset.load", "ingest.dataset.load"):
        assert hop in names
    assert "publish ingest.dataset.completed.v1" in names
    assert "receive ingest.dataset.completed.v1" in names
    assert len(spans) >= 10


@pytest.mark.parametrize("role", SERVICES)
@pytest.mark.parametrize("schema", SERVICES)
def test_a_services_role_is_refused_by_the_other_schemas(system, role, schema):
    with psycopg.connect(system.database(role)) as connection:
        if role == schema:
            assert connection.execute(f"SELECT count(*) FROM {schema}.job").fetchone() is not None
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT count(*) FROM {schema}.job")


def test_a_second_upload_with_the_same_key_is_the_same_job(system, orders):
    first, second = (
        system.client._http.post(
            "/v1/datasets",
            params={"name": "again"},
            content=orders.path.read_bytes(),
            headers={"Content-Type": "text/csv", "Idempotency-Key": "one"},
        )
        for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    other = system.client._http.post(
        "/v1/datasets",
        params={"name": "again"},
        content=b"a,b\n1,2\n",
        headers={"Content-Type": "text/csv", "Idempotency-Key": "one"},
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.key_reused")
    assert system.end_of(first.json()["run"]["id"])["state"] == "succeeded"


def test_a_bad_file_fails_with_a_reason_and_people_are_told(system, tmp_path):
    path = tmp_path / "noise.csv"
    path.write_bytes(bytes(range(256)) * 64)
    accepted = system.client.upload(path, "noise")
    run = system.end_of(accepted["run"]["id"])
    assert run["state"] == "failed"
    assert run["reason"].startswith("ingest.dataset.load: ")
    dataset = system.client.dataset(accepted["dataset"]["id"])
    assert (dataset["state"], dataset["rows_loaded"]) == ("failed", None)
    assert run["events"][0]["type"] == "ingest.dataset.failed.v1"
    sent = delivery(system, run, "email")
    assert [mail["subject"] for mail in system.mailbox.mails() if sent["id"] in mail["message_id"]] != []


def test_the_stack_logs_no_secret(system):
    logs = Path(system.stack.state.log("api-http")).parent
    text = "".join(log.read_text(errors="replace") for log in logs.glob("*.log"))
    known = [system.secret, *system.stack.secrets.keys.values(), *system.stack.secrets.passwords.values()]
    assert [secret[:4] for secret in known if secret in text] == []
    assert json.dumps(system.client._http.headers.get("authorization"))[8:-1] not in text
