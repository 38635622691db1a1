"""`millrace jobs watch`, against a real gateway that has a real service behind it."""

import json
import threading

import pytest

from clients.cli import run
from clients.client import Client
from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared.db import Database
from shared.ledger import attempts
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.testing.ledger import run_due
from shared.testing.waiting import until
from tests.integration.api_service import PEERS_JOB


def owe(client: Client) -> str:
    return str(client.create_job(RunCanary.kind, {"text": "bird"})["job"]["id"])


def test_a_job_is_followed_to_its_success(
    client: Client, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PROGRESS_SECONDS", 0.0)
    job, seen = owe(client), list[str]()

    def said() -> str:
        seen.append(capsys.readouterr().out)
        return "".join(seen)

    def work(attempt: Attempt, args: RunCanary) -> None:
        attempt.progress(0, 2000, "rows")
        attempt.progress(900, 2000, "rows", "counting feathers")
        until(lambda: "900 of 2,000 rows (45 %)" in said())

    def later() -> None:
        until(lambda: " queued\n" in said())
        run_due(database, working)

    working = Tasks()
    working.job(RunCanary)(work)
    worker = threading.Thread(target=later)
    worker.start()
    assert run(["jobs", "watch", job]) == 0
    worker.join()
    lines = said().splitlines()
    assert lines[0].endswith(" queued")
    assert "left, counting feathers" in lines[1]
    assert lines[-1].endswith(" succeeded")


def test_a_job_that_fails_or_is_cancelled_is_exit_code_1(
    client: Client, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    job = owe(client)
    client.cancel_job(job)
    assert run(["jobs", "watch", job]) == 1
    assert "millrace: the job was cancelled: Cancelled by" in capsys.readouterr().err
    client.retry_job(job)
    run_due(database, tasks)
    assert run(["jobs", "watch", job, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"text": "bird"}
    assert run(["jobs", "watch", "no-id"]) == 2


def test_the_gateway_gives_on_the_stream_of_the_service_that_has_the_job(client: Client) -> None:
    """Also when that service is killed in the middle, and is there again."""
    watching = client.watch_job(PEERS_JOB)
    assert [job["state"] for job in watching] == ["queued", "running", "succeeded"]
