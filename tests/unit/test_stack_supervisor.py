"""The supervisor against real child processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.local import ports, probes
from infra.local import supervisor as supervising
from infra.local.errors import StackError, StartFailed
from infra.local.process import MARK, Process, Status, View
from infra.local.supervisor import Supervisor
from infra.local.watchdog import marked, sweep
from shared.testing.waiting import until

ROOT = Path(__file__).parents[2]
SLEEPER = "import signal; signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
    "while True: signal.pause()"
)
PARENT = (
    "import subprocess, sys, signal; "
    "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); signal.pause()"
)


class Stack:
    """A supervisor whose every view is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, f"test-{os.getpid()}-{folder.name}"
        self.views: list[View] = []
        self.supervisor: Supervisor | None = None

    def start(self, *processes: Process) -> Supervisor:
        self.supervisor = Supervisor(processes, lambda name: self.folder / f"{name}.log", self.mark, self.views.append)
        self.supervisor.start()
        return self.supervisor

    def view(self, name: str) -> View:
        assert self.supervisor
        return next(view for view in self.supervisor.views() if view.name == name)

    def order(self, status: Status) -> list[str]:
        return [view.name for view in self.views if view.status is status]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    yield stack
    if stack.supervisor:
        stack.supervisor.stop()
    assert not marked(stack.mark)


def program(name: str, code: str, **options: object) -> Process:
    return replace(Process(name, (sys.executable, "-c", code)), **options)  # type: ignore[arg-type]


def test_processes_start_after_what_they_need_is_ready_and_stop_before_it(stack: Stack) -> None:
    flag = stack.folder / "flag"
    base = program("base", SLEEPER, ready=lambda running: flag.exists())
    step = program("step", "pass", step=True, after=("base",))
    top = program("top", SLEEPER, after=("step",))
    running = stack.start(base, step, top)
    until(lambda: stack.view("base").status is Status.STARTING, 15)
    assert stack.view("step").status is Status.WAITING
    flag.touch()
    running.wait(timeout=15)
    assert [view.status for view in running.views()] == [Status.READY, Status.DONE, Status.READY]
    running.stop()
    # Through the step, which has long ended, the top still keeps the base up.
    assert stack.order(Status.STOPPING) == ["top", "base"]


def test_what_crashes_is_started_again_and_the_reason_told(stack: Stack) -> None:
    running = stack.start(program("one", SLEEPER))
    running.wait()
    first = stack.view("one").pid
    assert first
    os.kill(first, signal.SIGKILL)
    until(lambda: stack.view("one").restarts == 1 and stack.view("one").status is Status.READY, 15)
    assert stack.view("one").pid != first
    assert stack.view("one").reason == "ended by SIGKILL"


def test_restarts_wait_longer_each_time(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "BACKOFF_SECONDS", 0.1)
    running = stack.start(program("flaky", "import time; time.sleep(0.15)"))
    running.wait()
    until(lambda: stack.view("flaky").restarts >= 4, 15)
    ended = [view.since for view in stack.views if view.status is Status.RESTARTING]
    begun = [view.since for view in stack.views if view.status is Status.STARTING][1:]
    pauses = [start - end for end, start in zip(ended, begun, strict=False)]
    assert pauses[0] < pauses[1] < pauses[2]
    assert pauses[2] >= 0.4


def test_a_process_that_never_starts_is_given_up_with_its_last_words(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "BACKOFF_SECONDS", 0.01)
    running = stack.start(program("broken", "raise SystemExit('no such table')", ready=lambda running: False))
    with pytest.raises(StartFailed, match="broken did not start: ended with exit code 1: no such table"):
        running.wait()
    assert stack.view("broken").restarts == supervising.FIRST_START_TRIES - 1


def test_a_step_that_fails_is_not_repeated(stack: Stack) -> None:
    running = stack.start(program("step", "raise SystemExit(3)", step=True))
    with pytest.raises(StartFailed, match="exit code 3"):
        running.wait()


def test_readiness_is_not_read_from_an_earlier_start(stack: Stack) -> None:
    (stack.folder / "worker.log").write_text("worker ready.\n")
    running = stack.start(program("worker", SLEEPER, ready=probes.logged("ready."), ready_seconds=0.4))
    until(lambda: stack.view("worker").restarts >= 1, 15)
    assert Status.READY not in {view.status for view in stack.views}
    running.stop()


def test_readiness_is_the_answer_to_a_request(stack: Stack) -> None:
    port = ports.free()["api"]
    serve = f"""
import http.server, pathlib
flag = pathlib.Path({str(stack.folder / "flag")!r})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if flag.exists() else 503); self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
    running = stack.start(program("web", serve, ready=probes.answers(ports.url(port) + "/readyz")))
    until(lambda: stack.view("web").status is Status.STARTING, 15)
    until(lambda: b'"GET /readyz' in (stack.folder / "web.log").read_bytes(), 15)
    assert stack.view("web").status is Status.STARTING
    (stack.folder / "flag").touch()
    running.wait(timeout=10)


def test_a_missing_program_is_a_clear_failure(stack: Stack) -> None:
    running = stack.start(Process("ghost", ("/nowhere/ghost",)))
    with pytest.raises(StartFailed, match="ghost did not start: /nowhere/ghost: No such file"):
        running.wait()


def test_a_preparation_that_fails_is_a_clear_failure(stack: Stack) -> None:
    def prepare() -> None:
        raise StackError("initdb failed")

    running = stack.start(program("db", SLEEPER, prepare=prepare))
    with pytest.raises(StartFailed, match="initdb failed"):
        running.wait()


def test_a_process_that_is_not_ready_in_time_is_killed_and_tried_again(stack: Stack) -> None:
    running = stack.start(program("slow", SLEEPER, ready=lambda running: False, ready_seconds=0.3))
    until(lambda: stack.view("slow").restarts >= 1, 15)
    assert stack.view("slow").reason == "not ready after 0 seconds"
    running.stop()


def test_what_ignores_the_stop_signal_is_killed(stack: Stack) -> None:
    stubborn = program("stubborn", STUBBORN, stop_seconds=0.3, ready=probes.logged("deaf"))
    running = stack.start(stubborn)
    running.wait()
    running.stop()
    assert stack.view("stubborn").status is Status.STOPPED
    assert stack.view("stubborn").reason == "killed: did not stop within 0 seconds"


def test_children_of_a_child_go_with_it(stack: Stack) -> None:
    running = stack.start(program("parent", PARENT))
    until(lambda: len(marked(stack.mark)) == 2, 15)
    parent = stack.view("parent").pid
    assert parent
    grandchild = psutil.Process(parent).children()[0]
    os.kill(parent, signal.SIGKILL)
    until(lambda: stack.view("parent").restarts == 1, 15)
    until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, 15)
    running.stop()


def test_only_the_given_environment_and_the_mark_reach_a_process(stack: Stack) -> None:
    code = "import os; print(sorted(os.environ.items()))"
    running = stack.start(program("step", code, step=True, environment={"LC_ALL": "C", "ONE": "1"}))
    running.wait()
    log = (stack.folder / "step.log").read_text()
    assert log.strip() == str([("LC_ALL", "C"), (MARK, stack.mark), ("ONE", "1")])


def test_a_big_log_is_put_aside_at_the_next_start(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LOG_LIMIT_BYTES", 10)
    (stack.folder / "step.log").write_text("x" * 11)
    stack.start(program("step", "print('new')", step=True)).wait()
    assert (stack.folder / "step.log").read_text() == "new\n"
    assert (stack.folder / "step.log.1").read_text() == "x" * 11


def test_unknown_needs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one comes after unknown two"):
        Supervisor([program("one", SLEEPER, after=("two",))], lambda name: tmp_path / name, "mark")


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}-{tmp_path.name}"
    code = f"""
import signal, sys, pathlib
from infra.local.process import Process
from infra.local.supervisor import Supervisor
logs = pathlib.Path({str(tmp_path)!r})
programs = [Process(str(n), (sys.executable, "-c", {PARENT!r})) for n in range(3)]
Supervisor(programs, lambda name: logs / name, {mark!r}).start()
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as owner:
        until(lambda: len(marked(mark)) == 6, 15)
        owner.kill()
    until(lambda: not marked(mark), 15)


def test_a_new_start_ends_what_a_crash_left_running(stack: Stack) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", SLEEPER], env={MARK: stack.mark}, start_new_session=True)
    until(lambda: len(marked(stack.mark)) == 1, 15)
    stack.start(program("one", SLEEPER)).wait()
    assert [process.pid for process in marked(stack.mark)] == [stack.view("one").pid]
    orphan.wait()


def test_a_sweep_kills_what_does_not_listen(tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}-{tmp_path.name}"
    command = [sys.executable, "-c", STUBBORN]
    orphan = subprocess.Popen(command, env={MARK: mark}, start_new_session=True, stdout=subprocess.PIPE)
    assert orphan.stdout
    assert orphan.stdout.readline() == b"deaf\n"
    assert sweep(mark, grace=0.2) == 1
    assert orphan.wait(timeout=5) == -signal.SIGKILL
    orphan.stdout.close()
