"""`millrace up` and `millrace demo` as a user runs them: whole commands, real processes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import ports, secrets
from infra.local.state import State, holder
from infra.local.watchdog import marked
from shared.testing.waiting import until

ROOT = Path(__file__).parents[2]
MILLRACE = (sys.executable, "-c", "from clients.cli import main; main()")
SERVICES = ("api", "ingest", "reports", "notifications")
START_SECONDS = 120
# Promised for 2 free cores; tests share theirs with whatever else runs.
SLOWNESS = 3

pytestmark = pytest.mark.timeout(400)


def millrace(*arguments: object, code: int = 0, **environment: str) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(
        [*MILLRACE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


class Up:
    """`millrace up` on a folder and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.state, self.base = State(folder), ports.free()
        self.output = folder.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> float:
        """Returns after so many seconds, when everything is ready and set up."""
        given = [part for name, port in self.base.items() for part in (f"--{name}-port", str(port))]
        began = time.monotonic()
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [*MILLRACE, "up", "--state", str(self.state.folder), *given, *options],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process = self.process
        until(lambda: "Millrace is running" in self.said() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, self.said()
        return time.monotonic() - began

    def said(self) -> str:
        return self.output.read_text()

    def run(self, *arguments: object, code: int = 0) -> str:
        return millrace(*arguments, "--state", self.state.folder, code=code)

    def processes(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.run("status", "--json"))["processes"]
        return {process["name"]: process for process in found}

    def end(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)

    def left(self) -> list[psutil.Process]:
        return marked(secrets.load(self.state).stack)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up") / "state")
    up.start()
    yield up
    if up.process and up.process.poll() is None:
        up.end(signal.SIGTERM)
    assert up.left() == []


def test_it_sets_up_sends_the_sample_and_says_what_happened(up: Up) -> None:
    said = up.said()
    assert re.search(r"\d{3},\d{3} rows loaded, [1-9]\d* rejected", said)
    assert re.search(r"Report +3 files", said)
    assert re.search(r"Mail +delivered to team@millrace.localhost +1 attempt", said)
    assert re.search(r"Webhook +delivered to http://127\.0\.0\.1\S* +1 attempt", said)
    assert re.search(r"Time .*upload .*load .*render .*mail .*webhook", said)
    for where in ("API docs", "Mailbox", "Flower", "Trace", "Report"):
        assert re.search(rf"{where} +\S+", said)
    report = re.search(r"Report +(\S+\.pdf)", said)
    assert report
    assert (ROOT / report[1]).read_bytes().startswith(b"%PDF")
    assert "\x1b" not in said


def test_no_secret_is_printed_or_logged(up: Up) -> None:
    kept = secrets.load(up.state)
    everything = up.said() + "".join(path.read_text() for path in up.state.path("logs").iterdir())
    key = up.state.read("access.json")["key"]
    for secret in (*kept.passwords.values(), *kept.keys.values(), key):
        assert secret not in everything


def test_the_folder_is_closed_to_others(up: Up) -> None:
    for path in up.state.folder.iterdir():
        # PostgreSQL's own folder belongs to its own user; all else is ours alone.
        assert path.stat().st_mode & 0o077 == 0, path


def test_status_shows_every_process_ready(up: Up) -> None:
    until(lambda: up.processes()["flower"]["status"] == "ready", START_SECONDS)
    processes = up.processes()
    assert {f"{service}-{role}" for service in SERVICES for role in ("http", "worker", "beat")} <= set(processes)
    assert {process["status"] for process in processes.values()} == {"ready", "done"}
    assert "http://127.0.0.1:" in up.run("status")


def test_a_second_up_on_the_folder_is_refused(up: Up) -> None:
    refused = subprocess.run(
        [*MILLRACE, "up", "--state", str(up.state.folder)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2
    assert f"already running on {up.state.folder} (process {up.process and up.process.pid})" in refused.stderr


def test_a_file_of_ones_own_goes_through(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "My Measurements.csv"
    with open(file, "w", newline="") as out:
        rows = [("day", "place", "value"), *((f"2026-01-{day:02d}", "north", day * 1.5) for day in range(1, 29))]
        csv.writer(out).writerows(rows)
    told = json.loads(up.run("demo", "--json", file))
    assert (told["rows_loaded"], told["rows_rejected"]) == (28, 0)
    assert {delivery["status"] for delivery in told["deliveries"]} == {"delivered"}
    assert {job["service"] for job in told["jobs"]} >= {"ingest", "reports", "notifications"}
    assert told["run_id"] in up.run("runs")
    assert "ingest.dataset.load" in up.run("jobs", "list", "--run", told["run_id"])
    drawn = up.run("trace", told["run_id"])
    assert told["trace_id"] in drawn
    assert all(service in drawn for service in SERVICES)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 2, "The file is empty"),
        (b"\x00\x01\x02\xff" * 1000, 1, "this is not CSV text"),
        (b"a,b\n", 1, "no mail and no webhook was sent: report overview was skipped"),
        (None, 2, "cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(up: Up, tmp_path: Path, content: bytes | None, code: int, said: str) -> None:
    file = tmp_path / "bad.csv"
    if content is not None:
        file.write_bytes(content)
    done = subprocess.run(
        [*MILLRACE, "demo", "--json", str(file), "--state", str(up.state.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("millrace: ")
    assert said in last


def test_what_is_killed_comes_back_and_is_told(up: Up) -> None:
    before = up.processes()["reports-worker"]
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: up.processes()["reports-worker"]["restarts"] == 1, START_SECONDS)
    until(lambda: up.processes()["reports-worker"]["status"] == "ready", START_SECONDS)
    until(lambda: "reports worker is ready again" in up.said(), START_SECONDS)
    assert "reports worker ended by SIGKILL; starting it again" in up.said()
    told = json.loads(up.run("demo", "--json"))
    assert told["rows_loaded"] > 100_000


def test_logs_of_a_service_are_shown(up: Up) -> None:
    assert "ingest-worker info:" in up.run("logs", "ingest")


def test_the_next_start_is_fast_and_keeps_the_data(up: Up) -> None:
    runs = up.run("runs", "-n", "100").splitlines()
    assert up.end(signal.SIGINT) == 0
    assert "stopped, nothing is left running" in up.said()
    assert up.left() == []
    assert holder(up.state) is None
    # Ports that were chosen stay chosen, so that what was set up with them stays good.
    assert up.start() < 15 * SLOWNESS
    assert "rows loaded" not in up.said()
    assert up.run("runs", "-n", "100").splitlines() == runs


def test_nothing_survives_a_killed_up(up: Up) -> None:
    assert len(up.left()) > 12
    assert up.process
    up.process.kill()
    up.process.wait()
    until(lambda: up.left() == [], 30)
    # And it starts again from what the crash left.
    up.start("--no-demo")


def test_stop_ends_everything(up: Up) -> None:
    assert up.run("stop") == "stopped\n"
    assert up.process
    assert up.process.wait(10) == 0
    assert up.left() == []
    up.run("status", code=1)


def test_the_ephemeral_demo_proves_the_whole_path_and_leaves_nothing(tmp_path: Path) -> None:
    told = json.loads(millrace("demo", "--ephemeral", "--json", TMPDIR=str(tmp_path)))
    assert told["rows_loaded"] + told["rows_rejected"] >= 100_000
    assert told["rows_rejected"] > 0
    assert {artifact["format"] for artifact in told["artifacts"]} == {"html", "pdf", "csv"}
    for artifact in told["artifacts"]:
        assert Path(artifact["path"]).stat().st_size == artifact["bytes"]
    assert {delivery["kind"]: delivery["status"] for delivery in told["deliveries"]} == {
        "email": "delivered",
        "webhook": "delivered",
    }
    assert {job["service"] for job in told["jobs"]} == set(SERVICES)
    assert all(job["state"] == "succeeded" and job["attempts"] >= 1 for job in told["jobs"])
    (reports,) = {Path(artifact["path"]).parent for artifact in told["artifacts"]}
    assert list(tmp_path.iterdir()) == [reports]
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())
    ]


def test_an_ephemeral_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    command = [*MILLRACE, "demo", "--ephemeral"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: list(tmp_path.glob("millrace-*/logs/api-http.log")), START_SECONDS)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "millrace: interrupted"
    assert not list(tmp_path.glob("millrace-*"))
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())
    ]
