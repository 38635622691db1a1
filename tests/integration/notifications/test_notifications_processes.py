"""The service's worker and Beat as real processes: a destination that hangs does not hold the others."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from services.notifications.adapters.webhook import DEADLINE
from services.notifications.handlers import SUBSCRIPTIONS
from services.notifications.operations import create_channel, create_rule
from shared import ids
from shared.contracts.ingest import DatasetFailed
from shared.testing.ledger import give_event
from shared.testing.waiting import until
from tests.integration.notifications.harness import mails

HANGING = 10  # messages to each of two destinations that hang: more than the worker has threads


@contextmanager
def hanging_endpoint():
    """Takes every connection and never answers; yields the port and the connections it holds."""
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], held
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in held:
                connection.close()


@contextmanager
def running(*role: str, log: Path):
    command = [sys.executable, "-m", "celery", "-A", "services.notifications.worker", *role, "--loglevel", "WARNING"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ.copy())
        try:
            yield process
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: what it was sending is not this test's
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@pytest.fixture
def processes(surroundings, tmp_path):
    """The service's worker and Beat; answers its database."""
    with (
        running("worker", "-n", "notifications@test", log=tmp_path / "worker.log"),
        running("beat", log=tmp_path / "beat.log"),
    ):
        yield surroundings


def test_a_destination_that_hangs_does_not_hold_the_others(processes, mailbox):
    database, workspace = processes, ids.draw()
    with hanging_endpoint() as (first, held), hanging_endpoint() as (second, also_held):
        with database.transaction() as session:
            channels = [
                create_channel(session, workspace, name=f"hook-{n}", kind="webhook", url=f"http://127.0.0.1:{port}/")
                for n, port in enumerate((first, second))
            ]
            for channel in channels:
                for n in range(HANGING):
                    _rule(session, workspace, f"{channel.name}-{n}", "hanging", channel)
            mail = create_channel(session, workspace, name="mail", kind="email", recipients=["ann@example.com"])
            _rule(session, workspace, "mail", "healthy", mail)
        _happen(database, workspace, "hanging")
        until(lambda: held and also_held, 30)
        began = time.monotonic()
        _happen(database, workspace, "healthy")
        until(lambda: mails(mailbox), 30)
        took = time.monotonic() - began
        assert took < DEADLINE - 5  # the threads that hang are not free again by then
        assert len(held) <= 3
        assert len(also_held) <= 3


def test_a_limit_holds_for_all_workers_together(processes, mailbox, tmp_path):
    database, workspace = processes, ids.draw()
    with database.connect() as connection, hanging_endpoint() as (port, held):
        connection.execute("INSERT INTO limit_rule (key, concurrency) VALUES ('each:host', 2)")
        with database.transaction() as session:
            hook = create_channel(session, workspace, name="hook", kind="webhook", url=f"http://127.0.0.1:{port}/")
            for n in range(HANGING):
                _rule(session, workspace, f"hook-{n}", "hanging", hook)
        with running("worker", "-n", "second@test", log=tmp_path / "second.log"):
            until(lambda: connection.execute("SELECT count(*) AS n FROM worker").fetchone()["n"] == 2, 30)
            _happen(database, workspace, "hanging")
            until(lambda: len(held) == 2, 30)
            [waiting] = connection.execute(
                """SELECT count(*) AS n, min(limit_key) AS key FROM job
                   WHERE kind = 'notifications.message.send' AND state = 'queued' AND attempt = 0"""
            ).fetchall()
            assert waiting == {"n": HANGING - 2, "key": f"host:127.0.0.1:{port}"}, "they wait in the ledger, untouched"
            assert len(held) == 2


def _rule(session, workspace, name, dataset, channel):
    create_rule(session, workspace, name=name, event_type="ingest.*", filter={"name": dataset}, channel=channel.id)


def _happen(database, workspace, dataset):
    event = DatasetFailed(dataset_id=ids.draw(), name=dataset, version=1, reason={"code": "x", "detail": "y"})
    give_event(database, SUBSCRIPTIONS, event, workspace=workspace)
