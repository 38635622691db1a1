"""When the destination does not take a message, or the worker dies on the way."""

import socket
from datetime import UTC, datetime

from services.notifications import domain, operations, tasks
from services.notifications.handlers import SUBSCRIPTIONS
from shared.ledger.enqueue import Origin
from shared.testing.ledger import events, give_event, jobs, run_due
from tests.integration.notifications.harness import (
    a_report,
    deliveries,
    endpoint,
    full,
    history,
    mails,
    make_channel,
    make_rule,
    tell,
)


def test_a_failing_endpoint_is_tried_again_with_every_answer_kept(service):
    with endpoint(["503 Busy", "429 Slow", "", "204 Fine"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        tell(service, a_report(service, 1))
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"], delivery["reason"]) == ("delivered", 4, None)
    tried = history(service, delivery)
    assert [(item["number"], item["outcome"], item["code"]) for item in tried] == [
        (1, "retried", "http_status"),
        (2, "retried", "http_status"),
        (3, "retried", "connection_lost"),
        (4, "delivered", None),
    ]
    assert [item["response"] for item in tried] == ["503 hello", "429 hello", "", "204"]


def test_the_schedule_and_the_destination_say_when_to_try_again(service):
    with endpoint(["503 Busy", "503 Busy", "503 Busy\r\nRetry-After: 4000"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=service.workspace)
        run_due(service.database, tasks.tasks, hurry=False)
        waits = [_seconds_to_wait(service)]
        for _ in range(2):
            _make_due(service)
            run_due(service.database, tasks.tasks, hurry=False)
            waits.append(_seconds_to_wait(service))
    assert [5 <= waits[0] <= 6, 300 <= waits[1] <= 331, 4000 <= waits[2] <= 4001] == [True] * 3
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("pending", 3)
    assert delivery["reason"] == {"code": "delivery.http_status", "detail": "the endpoint answered 503"}


def _seconds_to_wait(service):
    with service.database.connect() as connection:
        row = connection.execute(
            """SELECT extract(epoch FROM job.not_before - max(attempt.finished_at))::float AS seconds
               FROM job JOIN attempt ON attempt.job = job.id WHERE kind = 'notifications.message.send'
               GROUP BY job.not_before"""
        ).fetchone()
    return row["seconds"]


def _make_due(service):
    with service.database.connect() as connection:
        connection.execute("UPDATE job SET not_before = now() WHERE state = 'queued'")


def test_a_delivery_fails_when_the_schedule_is_at_its_end(service):
    with endpoint(["500 Broken"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        tell(service, a_report(service, 1))
        assert there.requests == domain.MAX_ATTEMPTS
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("failed", domain.MAX_ATTEMPTS)
    assert delivery["reason"]["code"] == "delivery.exhausted"
    (event,) = events(service.database, type="notifications.message.failed.v1")
    assert event["data"]["reason"] == delivery["reason"]
    assert event["data"]["attempts"] == domain.MAX_ATTEMPTS
    assert [item["outcome"] for item in history(service, delivery)] == ["retried"] * 9 + ["failed"]


def test_a_permanent_refusal_fails_at_once_with_its_reason(service):
    with endpoint(["404 None"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        tell(service, a_report(service, 1))
        assert there.requests == 1
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("failed", 1)
    assert delivery["reason"] == {"code": "delivery.http_status", "detail": "the endpoint answered 404"}
    assert len(events(service.database, type="notifications.message.failed.v1")) == 1
    (job,) = jobs(service.database, kind="notifications.message.send")
    assert job["state"] == "failed"


def test_410_disables_the_channel_and_later_messages_say_so(service):
    with endpoint(["410 Gone"]) as there:
        channel = make_channel(service, "hook", "webhook", url=there.url)
        make_rule(service, channel)
        tell(service, a_report(service, 1))
        shown = service.client.get(f"/v1/channels/{channel['id']}").json()
        assert "410" in shown["disabled_reason"]
        tell(service, a_report(service, 1))
        assert there.requests == 1
    latest, first = deliveries(service)
    assert first["reason"]["code"] == "delivery.gone"
    assert (latest["status"], latest["attempts"], latest["job"]) == ("failed", 0, None)
    assert latest["reason"]["code"] == "channel.gone"
    assert len(events(service.database, type="notifications.message.failed.v1")) == 2


def test_a_webhook_to_a_private_address_is_refused(service, mailbox):
    make_rule(service, make_channel(service, "hook", "webhook", url="http://169.254.169.254/latest/meta-data"))
    tell(service, a_report(service, 1))
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["reason"]["code"]) == ("failed", "delivery.destination_forbidden")


def test_one_refused_address_does_not_hold_the_others(service, mailbox, monkeypatch):
    async def refuse(self, server, session, envelope, address, options):
        if address == "gone@example.com":
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    monkeypatch.setattr("infra.local.mailbox.smtp.Handler.handle_RCPT", refuse, raising=False)
    make_rule(service, make_channel(service, "team", "email", to=["gone@example.com", "ann@example.com"]))
    tell(service, a_report(service, 1))
    found = {delivery["destination"]: delivery for delivery in deliveries(service)}
    assert found["ann@example.com"]["status"] == "delivered"
    assert found["gone@example.com"]["status"] == "failed"
    assert "550 no such user" in found["gone@example.com"]["reason"]["detail"]


def test_a_channel_that_was_deleted_meanwhile_fails_its_deliveries(service, mailbox):
    channel = make_channel(service, "team", "email", to=["ann@example.com"])
    make_rule(service, channel)
    give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=service.workspace)
    with full("smtp"):
        run_due(service.database, tasks.tasks, hurry=False)
        assert service.client.delete(f"/v1/channels/{channel['id']}").status_code == 204
    run_due(service.database, tasks.tasks)
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["reason"]["code"]) == ("failed", "channel.gone")
    assert mails(mailbox) == []


def test_a_send_that_succeeded_is_not_repeated_when_its_record_failed(service, mailbox, monkeypatch):
    """The worker dies between the mail and the finishing transaction: the retry finds the mail sent."""
    real = tasks.operations.complete
    calls = []

    def fail_once(session, delivery_id, result):
        calls.append(delivery_id)
        if len(calls) == 1:
            raise RuntimeError("the worker died here")
        real(session, delivery_id, result)

    monkeypatch.setattr(tasks.operations, "complete", fail_once)
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    tell(service, a_report(service, 1))
    assert len(calls) == 2
    assert len(mails(mailbox)) == 1
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 1)
    assert len(events(service.database, type="notifications.message.delivered.v1")) == 1


def test_a_mail_server_that_is_away_is_tried_again(service, mailbox, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", f"smtp://127.0.0.1:{port}")
    tasks.settings.cache_clear()
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=service.workspace)
    run_due(service.database, tasks.tasks, hurry=False)
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["reason"]["code"]) == ("pending", "delivery.connection_refused")
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", f"smtp://127.0.0.1:{mailbox.smtp_port}")
    tasks.settings.cache_clear()
    run_due(service.database, tasks.tasks)
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 2)
    assert len(mails(mailbox)) == 1


def test_a_destination_that_has_its_bound_of_sends_is_left_for_later_without_a_try(service, mailbox):
    make_rule(service, make_channel(service, "team", "email", to=["ann@example.com"]))
    give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=service.workspace)
    with full("smtp"):
        run_due(service.database, tasks.tasks, hurry=False)
        (delivery,) = deliveries(service)
        assert (delivery["status"], delivery["attempts"]) == ("pending", 0)
    run_due(service.database, tasks.tasks)
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 1)


def test_a_delivery_that_is_driven_again_begins_its_schedule_anew(service):
    with endpoint(["500 Broken"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        tell(service, a_report(service, 1))
        (delivery,) = deliveries(service)
        assert (delivery["status"], delivery["attempts"]) == ("failed", domain.MAX_ATTEMPTS)
        assert service.client.post(f"{delivery['job']['url']}/retry").status_code == 200
        (delivery,) = deliveries(service)
        assert (delivery["status"], delivery["reason"], delivery["finished_at"]) == ("pending", None, None)
        run_due(service.database, tasks.tasks)
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["attempts"]) == ("failed", 2 * domain.MAX_ATTEMPTS)
    assert [item["number"] for item in history(service, delivery)] == list(range(1, 2 * domain.MAX_ATTEMPTS + 1))


def test_a_delivery_that_is_called_off_fails_and_nothing_is_sent(service):
    with endpoint(["204 Fine"]) as there:
        make_rule(service, make_channel(service, "hook", "webhook", url=there.url))
        event = give_event(service.database, SUBSCRIPTIONS, a_report(service, 1), workspace=service.workspace)
        because = Origin(event.workspace, event.runid, "event", event.id)
        with service.database.transaction(origin=because) as session:
            operations.match(session, event, datetime.now(UTC))
        (delivery,) = deliveries(service)
        assert service.client.post(f"{delivery['job']['url']}/cancel").status_code == 200
        run_due(service.database, tasks.tasks)
        assert there.requests == 0
    (delivery,) = deliveries(service)
    assert (delivery["status"], delivery["reason"]["code"]) == ("failed", "job.cancelled")
    assert [event["type"] for event in events(service.database)] == ["notifications.message.failed.v1"]
