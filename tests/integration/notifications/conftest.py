"""The notifications service with a mailbox at the far end."""

from types import SimpleNamespace

import pytest

from services.notifications import tasks
from services.notifications.main import create
from shared import ids
from shared.objects import ObjectStore
from shared.testing.http import TestApp
from tests.integration.notifications.harness import serve_mailbox


@pytest.fixture
def mailbox(tmp_path):
    with serve_mailbox(tmp_path / "mailbox") as mailbox:
        yield mailbox


@pytest.fixture
def surroundings(service_database, environment, mailbox, monkeypatch):
    """Sets the environment of the service's processes; answers its database."""
    database = service_database("notifications")
    environment("notifications")
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", f"smtp://127.0.0.1:{mailbox.smtp_port}")
    monkeypatch.setenv("NOTIFICATIONS_MAIL_FROM", "Millrace <reports@millrace.example>")
    monkeypatch.setenv("NOTIFICATIONS_ALLOWED_NETWORKS", '["127.0.0.1/32"]')
    monkeypatch.setenv("NOTIFICATIONS_PUBLIC_URL", "https://millrace.example")
    return database


@pytest.fixture
def service(surroundings):
    """The service's HTTP application, database, objects, and a workspace."""
    forget()
    workspace = ids.draw()
    with TestApp(create()).client(workspace) as client:
        objects = ObjectStore(client.app.state.settings.objects_url)
        yield SimpleNamespace(client=client, database=surroundings, objects=objects, workspace=workspace)
    forget()


def forget():
    """What a worker's process keeps is another test's."""
    for cached in (tasks.settings, tasks._objects, tasks._gates):
        cached.cache_clear()
