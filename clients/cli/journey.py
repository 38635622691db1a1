"""The main job as a user sees it: a CSV goes in, a report comes out, people are told; followed step by step."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from clients.cli.errors import BadInput, CommandError
from clients.cli.mailbox import Mailbox
from clients.client import Client
from clients.problems import Unreachable

Json = dict[str, Any]
POLL_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 300.0
ARRIVAL_SECONDS: Final = 15.0
"""What the system says it delivered must be in the mailbox after so long."""


class Progress(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Step:
    """One leg of the journey; `done` and `total` in `unit` when they are known."""

    name: str
    label: str
    unit: str = ""
    progress: Progress = Progress.WAITING
    done: int = 0
    total: int | None = None
    note: str = ""
    seconds: float | None = None
    """How long the work took, without waiting for its turn."""


@dataclass
class Outcome:
    """What became of it."""

    run: str
    trace: str | None
    seconds: float
    dataset: Json
    steps: list[Step]
    artifacts: list[Json] = field(default_factory=list)
    deliveries: list[Json] = field(default_factory=list)
    jobs: list[Json] = field(default_factory=list)

    def as_json(self) -> Json:
        """The object that `millrace demo --json` prints."""
        return {
            "run_id": self.run,
            "trace_id": self.trace,
            "seconds": round(self.seconds, 3),
            "rows_loaded": self.dataset["rows_loaded"],
            "rows_rejected": self.dataset["rows_rejected"],
            "artifacts": self.artifacts,
            "deliveries": self.deliveries,
            "jobs": [
                {
                    "service": job["service"],
                    "kind": job["kind"],
                    "state": job["state"],
                    "attempts": job["attempt"],
                    "seconds": _worked([job]),
                }
                for job in self.jobs
            ],
        }


class JourneyFailed(CommandError):
    """The run did not end well, or what it promised did not arrive."""

    def __init__(self, reason: str, run: str | None = None) -> None:
        self.run = run
        super().__init__(f"{reason} (run {run})" if run else reason)


class Journey:
    """Sends one file through the system. `changed` is told of each step that moved."""

    def __init__(
        self,
        client: Client,
        mailbox: Mailbox,
        changed: Callable[[Step], None] = lambda step: None,
        check: Callable[[], None] = lambda: None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """`check` is called while waiting and may raise when waiting is in vain.

        `timeout`: given up when nothing has moved for so many seconds; a large file may take its hours.
        """
        self._client, self._mailbox, self._changed = client, mailbox, changed
        self._check, self._timeout = check, timeout
        self._upload = Step("upload", "Upload", "bytes")
        self._load = Step("load", "Load")
        self._render = Step("render", "Render report")
        self._mail = Step("mail", "Send mail")
        self._hook = Step("webhook", "Call webhook")
        self.steps = [self._upload, self._load, self._render, self._mail, self._hook]
        self._ways = {"email": self._mail, "webhook": self._hook}

    def go(self, path: Path, dataset: str, reports: Path) -> Outcome:
        """Returns when the run succeeded and the mail and the webhook arrived; report files go to `reports`.

        Raises JourneyFailed, BadInput when the file cannot be read, and what the client raises.
        """
        began = time.monotonic()
        accepted = self._send(path, dataset)
        run = accepted["run"]["id"]
        try:
            found = self._follow(run)
            deliveries = self._arrivals(found)
        except JourneyFailed:
            self._fail_open_steps()
            raise
        seconds = time.monotonic() - began
        return Outcome(
            run=run,
            trace=found["trace_id"],
            seconds=seconds,
            dataset=self._client.dataset(accepted["dataset"]["id"]),
            steps=self.steps,
            artifacts=self._fetch(run, reports),
            deliveries=deliveries,
            jobs=found["jobs"],
        )

    def _send(self, path: Path, dataset: str) -> Json:
        began = time.monotonic()

        def progress(sent: int, total: int) -> None:
            self._set(self._upload, Progress.RUNNING, sent, total)

        try:
            accepted = self._client.upload(path, dataset, progress=progress)
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
        self._upload.seconds = time.monotonic() - began
        self._set(self._upload, Progress.DONE)
        return accepted

    def _follow(self, run: str) -> Json:
        """The run, once it has ended well. Raises JourneyFailed."""
        seen: list[Json] = []
        deadline = time.monotonic() + self._timeout
        while True:
            found = self._ask(run)
            if found:
                self._show(found)
                if (marks := _marks(found)) != seen:
                    seen, deadline = marks, time.monotonic() + self._timeout
                if found["state"] == "succeeded":
                    return found
                if found["state"] != "running":
                    raise JourneyFailed(f"the run {found['state']}: {found['reason'] or 'no reason given'}", run)
            self._wait(deadline, f"nothing has moved for {self._timeout:.0f} seconds", run)

    def _ask(self, run: str) -> Json | None:
        try:
            return self._client.run(run)
        except Unreachable:
            # A gateway that restarts: what it accepted goes on meanwhile.
            return None

    def _show(self, run: Json) -> None:
        """Moves the steps to where the run's jobs are."""
        jobs = run["jobs"]
        self._show_jobs(
            self._load, [job for job in jobs if (job.get("began_as") or job["kind"]) == "ingest.dataset.load"]
        )
        renders = [job for job in jobs if job["kind"] == "reports.report.render"]
        self._show_jobs(self._render, renders)

    def _show_jobs(self, step: Step, jobs: list[Json]) -> None:
        if not jobs or step.progress is Progress.DONE:
            return
        states = {job["state"] for job in jobs}
        told = jobs[-1].get("progress") or {}
        step.unit = told.get("unit") or step.unit
        if states == {"succeeded"}:
            step.seconds = _worked(jobs)
            self._set(step, Progress.DONE, step.total or step.done, step.total, _retrying(jobs))
        elif states & {"failed", "cancelled"}:
            self._set(step, Progress.FAILED, note="")
        elif states & {"running"}:
            self._set(step, Progress.RUNNING, told.get("done") or 0, told.get("total"), _retrying(jobs))
        else:
            self._set(step, Progress.WAITING, note=_retrying(jobs) or "queued")

    def _arrivals(self, run: Json) -> list[Json]:
        """What an ended run delivered, once the mailbox holds it. Raises JourneyFailed."""
        deliveries = list(self._client.deliveries(run["id"]))
        kinds = {delivery["channel_kind"] for delivery in deliveries}
        if missing := [step.name for kind, step in self._ways.items() if kind not in kinds]:
            raise JourneyFailed(f"no {' and no '.join(missing)} was sent{_why_not(run)}", run["id"])
        deadline = time.monotonic() + min(ARRIVAL_SECONDS, self._timeout)
        while True:
            for delivery in deliveries:
                self._show_delivery(delivery)
            late = [step.name for step in self._ways.values() if step.progress is not Progress.DONE]
            if not late:
                return [_delivery_json(delivery) for delivery in deliveries]
            self._wait(deadline, f"the {' and the '.join(late)} did not arrive", run["id"])

    def _show_delivery(self, delivery: Json) -> None:
        step = self._ways.get(delivery["channel_kind"])
        if step is None or step.progress is Progress.DONE:
            return
        if self._has_arrived(delivery):
            step.seconds = _elapsed(delivery["created_at"], delivery["finished_at"])
            self._set(step, Progress.DONE, note=delivery["channel"])
        else:
            self._set(step, Progress.RUNNING, note=delivery["channel"])

    def _has_arrived(self, delivery: Json) -> bool:
        """Whether the mailbox itself has it: the mail with a PDF, the webhook with a valid signature."""
        if delivery["channel_kind"] == "email":
            return any(delivery["id"] in mail["message_id"] and _has_pdf(mail) for mail in self._mailbox.mails())
        return any(_is_webhook_of(delivery, arrival) for arrival in self._mailbox.hooks())

    def _fetch(self, run: str, reports: Path) -> list[Json]:
        """Downloads the run's report files."""
        fetched = []
        for render in self._client.renders(run):
            for artifact in self._client.render(render["id"])["artifacts"]:
                reports.mkdir(parents=True, exist_ok=True)
                # The server's name is not trusted to be one: only its last part, without odd characters.
                target = reports / re.sub(r"[^\w.-]+", "-", Path(artifact["filename"]).name).lstrip(".-")
                size = self._client.download(artifact["id"], target)
                fetched.append({"path": str(target), "format": artifact["format"], "bytes": size})
        return fetched

    def _wait(self, deadline: float, failure: str, run: str) -> None:
        self._check()
        if time.monotonic() > deadline:
            raise JourneyFailed(failure, run)
        time.sleep(POLL_SECONDS)

    def _fail_open_steps(self) -> None:
        for step in self.steps:
            if step.progress is Progress.RUNNING:
                self._set(step, Progress.FAILED)

    def _set(
        self, step: Step, progress: Progress, done: int | None = None, total: int | None = None, note: str | None = None
    ) -> None:
        step.progress = progress
        step.done = step.done if done is None else done
        step.total = total if total is not None else step.total
        step.note = step.note if note is None else note
        self._changed(step)


def dataset_name(path: Path) -> str:
    """A dataset's name from a file's: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:60] or "data"


def _why_not(run: Json) -> str:
    """The report may have been skipped, for a reason that its event tells."""
    skipped = [event["data"] for event in run["events"] if event["type"] == "reports.report.skipped.v1"]
    return f": report {skipped[0]['definition']} was skipped, {_said(skipped[0]['reason'])}" if skipped else ""


def _said(reason: Any) -> str:
    return str(reason.get("detail", reason) if isinstance(reason, dict) else reason)


def _marks(run: Json) -> list[Json]:
    """What changes of a run while something moves."""
    return [{name: job[name] for name in ("kind", "state", "attempt", "progress")} for job in run["jobs"]]


def _retrying(jobs: Iterable[Json]) -> str:
    attempts = max((job["attempt"] for job in jobs), default=0)
    return f"attempt {attempts}" if attempts > 1 else ""


def _worked(jobs: Iterable[Json]) -> float | None:
    """Seconds from the first start to the last end."""
    spans = [(job["started_at"], job["finished_at"]) for job in jobs if job["started_at"] and job["finished_at"]]
    if not spans:
        return None
    return _elapsed(min(start for start, _ in spans), max(end for _, end in spans))


def _elapsed(start: str, end: str) -> float:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)


def _has_pdf(mail: Json) -> bool:
    return any(attachment["media_type"] == "application/pdf" for attachment in mail["attachments"])


def _is_webhook_of(delivery: Json, arrival: Json) -> bool:
    return bool(arrival["verified"]) and arrival["headers"].get("webhook-id") == delivery["id"]


def _delivery_json(delivery: Json) -> Json:
    return {
        "channel": delivery["channel"],
        "kind": delivery["channel_kind"],
        "destination": delivery["destination"],
        "status": delivery["status"],
        "attempts": delivery["attempts"],
    }
