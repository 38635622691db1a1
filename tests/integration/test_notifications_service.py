"""From an event to mail and webhook: the service's jobs on real PostgreSQL, with a real mailbox at the far end."""

import asyncio
import email
import socket
import threading
from contextlib import ExitStack, contextmanager
from email.policy import default
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx2 as httpx
import pytest
import uvicorn
from standardwebhooks import Webhook

from infra.local.mailbox.smtp import protocol
from infra.local.mailbox.store import Messages
from infra.local.mailbox.web import create as create_mailbox
from services.notifications import domain, tasks
from services.notifications.handlers import SUBSCRIPTIONS
from services.notifications.main import create
from shared import ids
from shared.contracts.ingest import DatasetFailed
from shared.contracts.reports import Artifact, Figure, ReportRendered
from shared.objects import ObjectStore
from shared.testing.http import TestApp
from shared.testing.ledger import events, give_event, jobs, run_due

KEY = "k" * 20
PDF = b"%PDF-1.7 " + bytes(range(256)) * 100


@pytest.fixture
def mailbox(tmp_path: Path):
    """The embedded mailbox: its SMTP port, its URL, a client with the key."""
    directory, ready = tmp_path / "mailbox", threading.Event()
    directory.mkdir()
    smtp, http = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    app = create_mailbox(directory, KEY, "test")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))

    async def serve():
        mail = await asyncio.get_running_loop().create_server(protocol(Messages(directory)), sock=smtp)
        ready.set()
        async with mail:
            await server.serve(sockets=[http])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(10)
    url = f"http://127.0.0.1:{http.getsockname()[1]}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client:
        yield SimpleNamespace(smtp_port=smtp.getsockname()[1], url=url, client=client, directory=directory)
    server.should_exit = True
    thread.join(10)
    for each in (smtp, http):
        each.close()


@pytest.fixture
def service(service_database, environment, mailbox, monkeypatch):
    """The service's HTTP application, database, objects, and a workspace."""
    database = service_database("notifications")
    environment("notifications")
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", f"smtp://127.0.0.1:{mailbox.smtp_port}")
    monkeypatch.setenv("NOTIFICATIONS_MAIL_FROM", "Millrace <reports@millrace.example>")
    monkeypatch.setenv("NOTIFICATIONS_ALLOWED_NETWORKS", '["127.0.0.1/32"]')
    monkeypatch.setenv("NOTIFICATIONS_PUBLIC_URL", "https://millrace.example")
    for cached in (tasks.settings, tasks._objects, tasks._gates):
        cached.cache_clear()
    workspace = ids.draw()
    with TestApp(create()).client(workspace) as client:
        objects = ObjectStore(client.app.state.settings.objects_url)
        yield SimpleNamespace(client=client, database=database, objects=objects, workspace=workspace)
    for cached in (tasks.settings, tasks._objects, tasks._gates):
        cached.cache_clear()


def make_channel(service, name, kind, **config):
    answer = service.client.post("/v1/channels", json={"name": name, "kind": kind, "config": config})
    assert answer.status_code == 201, answer.text
    return answer.json()


def make_rule(service, channel, event_type="reports.report.rendered.v1", name=None, **filter):
    body = {"name": name or f"to-{channel['name']}", "event_type": event_type, "channel_id": channel["id"]}
    answer = service.client.post("/v1/rules", json={**body, "filter": filter})
    assert answer.status_code == 201, answer.text
    return answer.json()


def a_report(service, *sizes, dataset="orders"):
    """A rendered event whose artifacts are in the object store: a PDF for each size, and a CSV."""
    artifacts = []
    for number, content in enumerate([*(PDF[:1] * size for size in sizes), b"a,b\n1,2\n"]):
        form = "pdf" if number < len(sizes) else "csv"
        key = f"reports/{number}.{form}"
        service.objects.put_bytes(key, content)
        media_type = "application/pdf" if form == "pdf" else "text/csv"
        artifacts.append(
            Artifact(
                id=ids.draw(),
                format=form,
                object=key,
                bytes=len(content),
                filename=f"overview-{number}.{form}",
                media_type=media_type,
            )
        )
    return ReportRendered(
        render_id=ids.draw(),
        definition_id=ids.draw(),
        definition="overview",
        title="Orders, week 47",
        dataset_id=ids.draw(),
        dataset=dataset,
        version=3,
        artifacts=artifacts,
        figures=[Figure(label="Revenue", value="1,234")],
    )


def a_failure():
    reason = {"code": "dataset.no_header", "detail": "There is no header."}
    return DatasetFailed(dataset_id=ids.draw(), name="orders", version=1, reason=reason)


def tell(service, event, **options):
    """Give the service an event and have all its jobs run to their end."""
    envelope = give_event(service.database, SUBSCRIPTIONS, event, workspace=service.workspace, **options)
    run_due(service.database, tasks.tasks)
    return envelope


def deliveries(service, **params):
    return service.client.get("/v1/deliveries", params=params).json()["items"]


def history(service, delivery):
    return service.client.get(f"/v1/deliveries/{delivery['id']}").json()["history"]


def mails(mailbox):
    return [
        email.message_from_bytes(path.read_bytes(), policy=default)
        for path in sorted(mailbox.directory.glob("messages/*.eml"))
    ]


@contextmanager
def endpoint(answers):
    """An HTTP endpoint that gives one answer after another (the last for ever); `requests` counts."""
    there = SimpleNamespace(requests=0, url="")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as reader:
                    length = 0
                    while (line := reader.readline()).strip():
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    reader.read(length)
                    answer = answers[min(there.requests, len(answers) - 1)]
                    there.requests += 1
                    if answer:
                        connection.sendall(f"HTTP/1.1 {answer}\r\nConnection: close\r\n\r\nhello".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        there.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        try:
            yield there
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


# --- the whole way


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
    assert job["traceparent"] is None or arrival["headers"]["traceparent"][3:35] == job["traceparent"][3:35]


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


# --- when the destination does not take it


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


@contextmanager
def full(destination):
    """As many sends are on their way to the destination as may be."""
    with ExitStack() as places:
        for _ in range(tasks.SENDS_A_DESTINATION):
            places.enter_context(tasks._gates().enter(destination))
        yield


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
