"""The journey, against scripted answers: what it shows, when it believes, and how it fails."""

from pathlib import Path
from typing import Any, cast

import pytest

from clients.cli import journey as journeys
from clients.cli.errors import BadInput
from clients.cli.journey import Journey, JourneyFailed, Progress, Step, dataset_name
from clients.cli.mailbox import Mailbox
from clients.client import Client
from clients.problems import Unreachable
from infra.local.errors import StartFailed

Json = dict[str, Any]
START = "2026-01-01T00:00:00Z"
END = "2026-01-01T00:00:02.500Z"


def job(kind: str, state: str = "succeeded", **facts: Any) -> Json:
    return {
        "service": kind.split(".")[0],
        "kind": kind,
        "state": state,
        "attempt": 1,
        "progress": None,
        "started_at": START,
        "finished_at": END if state == "succeeded" else None,
        **facts,
    }


def run(state: str, *jobs: Json, reason: str | None = None) -> Json:
    return {"id": "r", "state": state, "reason": reason, "trace_id": "t", "jobs": list(jobs), "events": []}


def delivery(kind: str, status: str = "delivered", **facts: Any) -> Json:
    return {
        "id": f"id-of-{kind}",
        "channel": f"team-{kind}",
        "channel_kind": kind,
        "destination": f"{kind}.example.org",
        "status": status,
        "attempts": 1,
        "reason": None,
        "created_at": START,
        "finished_at": END,
        **facts,
    }


WHOLE = run("succeeded", job("ingest.dataset.load"), job("reports.report.render"))
BOTH = [delivery("email"), delivery("webhook")]


class Gateway:
    """Stands in for the client: answers from lists, of which the last stays."""

    def __init__(self, *runs: Json | Exception, deliveries: list[Json] = BOTH) -> None:
        self.runs, self.found = list(runs), deliveries

    def upload(self, path: Path, name: str, *, progress: Any) -> Json:
        total = path.stat().st_size
        progress(0, total)
        progress(total, total)
        return {"dataset": {"id": "d"}, "job": {"id": "j"}, "run": {"id": "r"}}

    def run(self, run: str) -> Json:
        answer = self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def dataset(self, dataset: str) -> Json:
        return {"name": "orders", "version": 1, "rows_loaded": 99, "rows_rejected": 1}

    def deliveries(self, run: str) -> list[Json]:
        return self.found

    def renders(self, run: str) -> list[Json]:
        return [{"id": "render"}]

    def render(self, render: str) -> Json:
        return {"artifacts": [{"id": "a", "format": "pdf", "filename": "../../etc/report one.pdf"}]}

    def download(self, artifact: str, target: Path) -> int:
        return target.write_bytes(b"%PDF")


class Witness:
    """Stands in for the mailbox."""

    def __init__(self, *, mail: bool = True, pdf: bool = True, hook: bool = True, verified: bool = True) -> None:
        kind = "application/pdf" if pdf else "text/csv"
        self._mails = [{"message_id": "<id-of-email@x>", "attachments": [{"media_type": kind}]}] if mail else []
        self._hooks = [{"verified": verified, "headers": {"webhook-id": "id-of-webhook"}}] if hook else []

    def mails(self) -> list[Json]:
        return self._mails

    def hooks(self) -> list[Json]:
        return self._hooks


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journeys.time, "sleep", lambda seconds: None)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text("a\n1\n")
    return path


def travel(gateway: Gateway, witness: Witness, csv: Path, **options: Any) -> tuple[Journey, list[tuple[str, Progress]]]:
    moved: list[tuple[str, Progress]] = []

    def changed(step: Step) -> None:
        moved.append((step.name, step.progress))

    journey = Journey(cast(Client, gateway), cast(Mailbox, witness), changed, **{"timeout": 0.2, **options})
    return journey, moved


def test_it_ends_when_everything_arrived_and_tells_all(csv: Path, tmp_path: Path) -> None:
    running = run(
        "running",
        job("ingest.dataset.load", "running", progress={"done": 50, "total": 100}, attempt=2, finished_at=None),
    )
    gateway = Gateway(running, Unreachable("http://x", OSError("restarting")), WHOLE)
    journey, moved = travel(gateway, Witness(), csv)
    found = journey.go(csv, "orders", tmp_path / "reports")
    assert [name for name, progress in moved if progress is Progress.DONE] == [
        "upload",
        "load",
        "render",
        "mail",
        "webhook",
    ]
    told = found.as_json()
    assert told["run_id"] == "r"
    assert told["trace_id"] == "t"
    assert (told["rows_loaded"], told["rows_rejected"]) == (99, 1)
    assert told["jobs"][0] == {
        "service": "ingest",
        "kind": "ingest.dataset.load",
        "state": "succeeded",
        "attempts": 1,
        "seconds": 2.5,
    }
    assert told["deliveries"] == [
        {
            "channel": "team-email",
            "kind": "email",
            "destination": "email.example.org",
            "status": "delivered",
            "attempts": 1,
        },
        {
            "channel": "team-webhook",
            "kind": "webhook",
            "destination": "webhook.example.org",
            "status": "delivered",
            "attempts": 1,
        },
    ]
    assert 0 <= told["seconds"] < 10


def test_a_files_name_from_the_server_cannot_leave_the_folder(csv: Path, tmp_path: Path) -> None:
    journey, _ = travel(Gateway(WHOLE), Witness(), csv)
    (artifact,) = journey.go(csv, "orders", tmp_path / "reports").artifacts
    assert artifact == {"path": str(tmp_path / "reports" / "report-one.pdf"), "format": "pdf", "bytes": 4}


def test_progress_and_attempts_show(csv: Path, tmp_path: Path) -> None:
    running = job("ingest.dataset.load", "running", progress={"done": 50, "total": 100}, attempt=2)
    seen: list[tuple[int, int | None, str]] = []

    def changed(step: Step) -> None:
        if step.name == "load" and step.progress is Progress.RUNNING:
            seen.append((step.done, step.total, step.note))

    journey = Journey(cast(Client, Gateway(run("running", running), WHOLE)), cast(Mailbox, Witness()), changed)
    journey.go(csv, "orders", tmp_path)
    assert seen == [(50, 100, "attempt 2")]


@pytest.mark.parametrize(
    ("witness", "missing"),
    [
        (Witness(mail=False), "the mail did not arrive"),
        (Witness(pdf=False), "the mail did not arrive"),
        (Witness(hook=False), "the webhook did not arrive"),
        (Witness(verified=False), "the webhook did not arrive"),
        (Witness(mail=False, hook=False), "the mail and the webhook did not arrive"),
    ],
)
def test_the_systems_own_word_is_not_enough(witness: Witness, missing: str, csv: Path, tmp_path: Path) -> None:
    journey, _ = travel(Gateway(WHOLE), witness, csv)
    with pytest.raises(JourneyFailed, match=missing):
        journey.go(csv, "orders", tmp_path)


def test_a_report_that_was_skipped_is_told_at_once(csv: Path, tmp_path: Path) -> None:
    skipped = {"definition": "overview", "reason": {"code": "x", "detail": "The dataset has no rows."}}
    ended = {**WHOLE, "events": [{"type": "reports.report.skipped.v1", "data": skipped}]}
    journey, _ = travel(Gateway(ended, deliveries=[]), Witness(), csv, timeout=60)
    with pytest.raises(
        JourneyFailed, match="no mail and no webhook was sent: report overview was skipped, The dataset"
    ):
        journey.go(csv, "orders", tmp_path)


def test_a_channel_that_was_not_told_is_named(csv: Path, tmp_path: Path) -> None:
    journey, _ = travel(Gateway(WHOLE, deliveries=[delivery("email")]), Witness(), csv, timeout=60)
    with pytest.raises(JourneyFailed, match="no webhook was sent"):
        journey.go(csv, "orders", tmp_path)


def test_a_failed_run_ends_with_its_reason(csv: Path, tmp_path: Path) -> None:
    gateway = Gateway(
        run("running", job("ingest.dataset.load", "running")),
        run("failed", job("ingest.dataset.load", "failed"), reason="ingest.dataset.load: The file is empty."),
    )
    journey, moved = travel(gateway, Witness(), csv)
    with pytest.raises(JourneyFailed, match=r"the run failed: ingest.dataset.load: The file is empty\.") as failed:
        journey.go(csv, "orders", tmp_path)
    assert "(run r)" in str(failed.value)
    assert moved[-1] == ("load", Progress.FAILED)


def test_a_run_that_does_not_end_is_given_up(csv: Path, tmp_path: Path) -> None:
    journey, _ = travel(Gateway(run("running")), Witness(), csv)
    with pytest.raises(JourneyFailed, match="nothing has moved for"):
        journey.go(csv, "orders", tmp_path)


def test_waiting_ends_when_the_stack_is_broken(csv: Path, tmp_path: Path) -> None:
    def check() -> None:
        raise StartFailed("ingest-worker", "ended with exit code 1", tmp_path)

    journey, _ = travel(Gateway(run("running")), Witness(), csv, check=check, timeout=60)
    with pytest.raises(StartFailed, match="ingest-worker did not start"):
        journey.go(csv, "orders", tmp_path)


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    journey, _ = travel(Gateway(WHOLE), Witness(), tmp_path)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        journey.go(tmp_path / "missing.csv", "orders", tmp_path)


@pytest.mark.parametrize(
    ("file", "name"),
    [("orders.csv", "orders"), ("Q3 Sales (final).CSV", "q3-sales-final"), ("---.csv", "data"), ("ü.csv", "data")],
)
def test_datasets_are_named_after_their_files(file: str, name: str) -> None:
    assert dataset_name(Path(file)) == name
