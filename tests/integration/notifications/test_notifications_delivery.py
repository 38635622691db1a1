"""From an event to mail and webhook: the jobs on real PostgreSQL, a real mailbox at the far end."""

from datetime import UTC, datetime
from uuid import UUID

from standardwebhooks import Webhook

from services.notifications import operations, tasks
from services.notifications.handlers import SUBSCRIPTIONS
from services.notifications.jobs import RepeatDelivery, SendMessage
from shared import ids
from shared.ledger.enqueue import Origin, enqueue
from shared.testing.http import TestApp
from shared.testing.ledger import events, give_event, jobs, run_due
from tests.integration.notifications.harness import (
    a_failure,
    a_report,
    deliveries,
    mails,
    make_channel,
    make_rule,
    tell,
)


def test_a_report_goes_out_as_mail_with_its_pdf(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    envelope = tell(service, a_report(service, 30_000))

    (delivery,) = deliveries(service, run=str(envelope.runid))
    assert (delivery["status"], delivery["attempts"], delivery["reason"]) == ("delivered", 1, None)
    assert (delivery["channel"], delivery["channel_kind"]) == ("team", "email")
    assert delivery["destination"] == "ann@example.com"
    (mail,) = mails(mailbox)
    assert mail["Message-ID"] == f"<{delivery['id']}@millrace.example>"
    assert mail["Subject"] == "Orders, week 47: report on orders"
    attachments = {part.get_filename(): part.get_content() for part in mail.iter_attachments()}
    assert attachments == {"overview-0.pdf": b"%" * 30_000}
    text = mail.get_body(("plain",)).get_content()
    assert "overview-0.pdf (30.0 kB, attached)" in text
    assert "overview-1.csv (8 B) https://millrace.example/v1/artifacts/" in text
    assert f"https://millrace.example/v1/runs/{envelope.runid}" in text


def test_a_report_goes_out_as_a_signed_webhook(service, mailbox):
    channel = make_channel(service, "hook", "webhook", url=f"{mailbox.url}/hooks/team")
    assert mailbox.client.put("/hooks/team", json={"secret": channel["secret"]}).status_code == 204
    make_rule(service, channel)
    envelope = tell(service, a_report(service, 10))

    (delivery,) = deliveries(service)
    (arrival,) = mailbox.client.get("/hooks/team").json()
    assert delivery["status"] == "delivered"
    assert arrival["verified"]
    assert arrival["headers"]["webhook-id"] == delivery["id"]
    assert arrival["headers"]["content-type"] == "application/cloudevents+json; charset=utf-8"
    payload = Webhook(channel["secret"]).verify(arrival["body"], arrival["headers"])
    assert (payload["specversion"], payload["id"]) == ("1.0", str(envelope.id))
    assert payload["type"] == "reports.report.rendered.v1"
    assert payload["data"]["definition"] == "overview"
    (job,) = jobs(service.database, kind="notifications.message.send")
    assert arrival["headers"]["traceparent"][3:35] == job["traceparent"][3:35]


def test_what_was_delivered_is_published(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    envelope = tell(service, a_report(service, 10))
    (delivery,) = deliveries(service)
    (event,) = events(service.database, type="notifications.message.delivered.v1")
    assert event["run"] == envelope.runid
    assert event["data"] == {
        "message_id": delivery["message_id"],
        "delivery_id": delivery["id"],
        "channel": "team",
        "channel_kind": "email",
        "attempts": 1,
        "event_id": str(envelope.id),
    }


def test_each_address_gets_a_message_of_its_own(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com", "bob@example.com"]))
    tell(service, a_report(service, 10))
    assert sorted(mail["To"] for mail in mails(mailbox)) == ["ann@example.com", "bob@example.com"]
    assert {delivery["status"] for delivery in deliveries(service)} == {"delivered"}
    assert len({delivery["message_id"] for delivery in deliveries(service)}) == 1


def test_an_event_that_is_received_twice_is_told_once(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    event, id = a_report(service, 10), ids.draw()
    tell(service, event, id=id)
    tell(service, event, id=id)
    assert len(mails(mailbox)) == 1


def test_matching_an_event_again_owes_nothing_more(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    envelope = tell(service, a_report(service, 10))
    origin = Origin(service.workspace, envelope.runid, "event", envelope.id)
    with service.database.transaction(origin=origin) as session:
        assert operations.match(session, envelope, datetime.now(UTC)) == 0
    run_due(service.database, tasks.tasks)
    assert len(mails(mailbox)) == 1


def test_rules_choose_by_type_filter_and_workspace(service, mailbox):
    mail = make_channel(service, "team", "email", to=["ann@example.com"])
    make_rule(service, mail, "reports.*", name="all reports")
    make_rule(service, mail, "*", name="orders alone", dataset="orders")
    make_rule(service, mail, "ingest.*", name="header failures", **{"reason.code": "dataset.no_header"})
    make_rule(service, mail, "ingest.dataset.completed.v1", name="never")
    tell(service, a_report(service, 1))
    tell(service, a_report(service, 1, dataset="stock"))
    tell(service, a_failure())
    give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=ids.draw())
    run_due(service.database, tasks.tasks)
    told = service.client.get("/v1/messages").json()["items"]
    assert sorted((item["rule"], item["event_type"].split(".")[0]) for item in told) == [
        ("all reports", "reports"),
        ("all reports", "reports"),
        ("header failures", "ingest"),
        ("orders alone", "reports"),
    ]
    assert len(mails(mailbox)) == 4


def test_files_that_are_too_big_together_are_linked(service, mailbox, monkeypatch):
    monkeypatch.setattr("services.notifications.operations.sending.MAX_ATTACHED_BYTES", 1000)
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    tell(service, a_report(service, 600, 600, 400))
    (mail,) = mails(mailbox)
    assert [part.get_filename() for part in mail.iter_attachments()] == ["overview-0.pdf", "overview-2.pdf"]
    assert "overview-1.pdf (600 B) https://" in mail.get_body(("plain",)).get_content()


def test_a_file_that_is_gone_from_the_store_does_not_hold_the_mail(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    event = a_report(service, 600)
    service.objects.delete("reports/0.pdf")
    tell(service, event)
    (mail,) = mails(mailbox)
    assert list(mail.iter_attachments()) == []
    assert "overview-0.pdf (600 B) https://" in mail.get_body(("plain",)).get_content()


def test_no_secret_is_in_what_is_kept(service, mailbox):
    channel = make_channel(service, "hook", "webhook", url=f"{mailbox.url}/hooks/team?token=hunter2")
    make_rule(service, channel)
    tell(service, a_report(service, 1))  # the hook does not exist there: 404
    (delivery,) = deliveries(service)
    with service.database.connect() as connection:
        kept = connection.execute(
            """SELECT (SELECT json_agg(job) FROM job)::text || (SELECT json_agg(attempt) FROM attempt)::text ||
                 (SELECT json_agg(delivery) FROM delivery)::text || (SELECT json_agg(event) FROM event)::text ||
                 (SELECT json_agg(delivery_attempt) FROM delivery_attempt)::text AS everything"""
        ).fetchone()["everything"]
    assert delivery["id"] in kept
    assert channel["secret"] not in kept
    assert "hunter2" not in kept


def test_deliveries_are_another_workspaces_business(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    tell(service, a_report(service, 1))
    (delivery,) = deliveries(service)
    with TestApp(service.client.app).client() as stranger:
        assert stranger.get("/v1/deliveries").json()["items"] == []
        assert stranger.get("/v1/messages").json()["items"] == []
        assert stranger.get(f"/v1/deliveries/{UUID(delivery['id'])}").status_code == 404


def repeat(service, delivery, workspace=None):
    """Have the delivery repeated; answers the job as it ended."""
    with service.database.transaction(origin=Origin.request(workspace or service.workspace)) as session:
        id = enqueue(session, RepeatDelivery(delivery_id=delivery))
    run_due(service.database, tasks.tasks)
    [job] = jobs(service.database, id=id)
    return job


def test_a_delivery_is_repeated_when_somebody_asks(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com", "bob@example.com"]))
    tell(service, a_report(service, 10))
    first = next(each for each in deliveries(service) if each["destination"] == "ann@example.com")
    body = {"kind": RepeatDelivery.kind, "args": {"delivery_id": first["id"]}}
    asked = service.client.post("/v1/jobs", json=body).json()
    run_due(service.database, tasks.tasks)
    (job,) = jobs(service.database, id=UUID(asked["job"]["id"]))
    (again,) = deliveries(service, run=str(job["run"]))
    assert (job["kind"], job["state"], {"id": str(job["id"]), "url": f"/v1/jobs/{job['id']}"}) == (
        SendMessage.kind,
        "succeeded",
        again["job"],
    )
    assert (again["status"], again["destination"], again["id"] != first["id"]) == ("delivered", "ann@example.com", True)
    assert sorted(mail["To"] for mail in mails(mailbox)) == ["ann@example.com", "ann@example.com", "bob@example.com"]
    assert len({mail["Message-ID"] for mail in mails(mailbox)}) == 3


def test_what_is_not_there_or_under_way_is_not_repeated(service, mailbox):
    channel = make_channel(service, "team", "email", to=["ann@example.com"])
    make_rule(service, channel)
    tell(service, a_report(service, 10))
    (delivery,) = deliveries(service)
    assert repeat(service, delivery["id"], ids.draw())["error"]["code"] == "resource.not_found"
    with service.database.connect() as connection:
        connection.execute("UPDATE delivery SET finished_at = NULL, status = 'pending'")
    assert repeat(service, delivery["id"])["error"]["code"] == "delivery.under_way"
    with service.database.connect() as connection:
        connection.execute("UPDATE delivery SET finished_at = now(), status = 'delivered'")
    service.client.delete(f"/v1/channels/{channel['id']}")
    assert repeat(service, delivery["id"])["error"]["code"] == "channel.unknown"
    assert len(mails(mailbox)) == 1
