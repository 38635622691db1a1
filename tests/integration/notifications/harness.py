"""What the tests of notifications share: the far ends, what happens, and what became of it."""

import asyncio
import email
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.policy import default
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import uvicorn

from infra.local.mailbox.smtp import protocol
from infra.local.mailbox.store import Messages
from infra.local.mailbox.web import create as create_mailbox
from services.notifications import tasks
from services.notifications.handlers import SUBSCRIPTIONS
from shared import ids
from shared.contracts.ingest import DatasetFailed
from shared.contracts.reports import Artifact, Figure, ReportRendered
from shared.testing.ledger import give_event, run_due
from shared.testing.objects import put

KEY = "k" * 20


@contextmanager
def serve_mailbox(directory: Path) -> Iterator[SimpleNamespace]:
    """The embedded mailbox: its SMTP port, its URL, a client with the key, its directory."""
    ready = threading.Event()
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
    assert ready.wait(10)
    url = f"http://127.0.0.1:{http.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client:
            yield SimpleNamespace(smtp_port=smtp.getsockname()[1], url=url, client=client, directory=directory)
    finally:
        server.should_exit = True
        thread.join(10)
        for each in (smtp, http):
            each.close()


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
    for number, content in enumerate([*(b"%" * size for size in sizes), b"a,b\n1,2\n"]):
        form = "pdf" if number < len(sizes) else "csv"
        key = f"reports/{number}.{form}"
        put(service.objects, key, content)
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


@contextmanager
def full(destination):
    """As many sends are on their way to the destination as may be."""
    with ExitStack() as places:
        for _ in range(tasks.SENDS_A_DESTINATION):
            places.enter_context(tasks._gates().enter(destination))
        yield
