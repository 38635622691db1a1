"""Starts processes in the order of what they need, restarts what crashes, stops all in reverse.

One thread owns all state: it starts and reaps the children, asks their probes and decides. Others read views
and ask for a stop. Each child leads its own session, so that Ctrl-C in the terminal reaches the supervisor
alone and a child's own children can be killed with it. If the supervisor is killed, its watchdog ends them.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from infra.local.errors import StackError, StartFailed
from infra.local.process import MARK, Process, Running, Status, View
from infra.local.watchdog import Watchdog, sweep

TICK_SECONDS: Final = 0.05
PROBE_SECONDS: Final = 0.2
BACKOFF_SECONDS: Final = 0.5
BACKOFF_LIMIT_SECONDS: Final = 30.0
# A process that served this long had a good start: its next crash begins at the shortest pause again.
STEADY_SECONDS: Final = 60.0
# A process that never became ready is given up after so many crashes in a row.
FIRST_START_TRIES: Final = 4
LOG_LIMIT_BYTES: Final = 20_000_000
_KILL_SECONDS: Final = 5.0

Listener = Callable[[View], None]


@dataclass
class _Child:
    """A process and how it stands. Touched by the supervisor's thread only, read through views."""

    process: Process
    log: Path
    status: Status = Status.WAITING
    popen: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    restarts: int = 0
    crashes: int = 0
    was_ready: bool = False
    reason: str | None = None
    since: float = field(default_factory=time.time)
    moved: float = field(default_factory=time.monotonic)
    due: float = 0.0
    """When to start again (restarting) or to probe again (starting); monotonic."""
    started_seconds: float | None = None

    @property
    def view(self) -> View:
        pid = self.popen.pid if self.popen and self.popen.returncode is None else None
        return View(self.process.name, self.status, pid, self.restarts, self.reason, self.since, self.started_seconds)


class Supervisor:
    """Runs the processes of one stack until `stop`. Make it, `start` it, `wait` for it, `stop` it."""

    def __init__(
        self,
        processes: Iterable[Process],
        logs: Callable[[str], Path],
        mark: str,
        listener: Listener = lambda view: None,
    ) -> None:
        """`logs` names a process's log file; `listener` hears of every change, in the supervisor's thread.

        The listener must return at once and not raise: while it works, nothing is restarted.
        """
        self._children = {each.name: _Child(each, logs(each.name)) for each in processes}
        for child in self._children.values():
            if unknown := set(child.process.after) - set(self._children):
                raise ValueError(f"{child.process.name} comes after unknown {', '.join(sorted(unknown))}")
        self._mark, self._listener = mark, listener
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._watchdog: Watchdog | None = None

    def start(self) -> None:
        """Ends what an earlier crash left running, then starts the processes as they may."""
        sweep(self._mark)
        self._watchdog = Watchdog(self._mark)
        self._thread.start()

    def views(self) -> list[View]:
        """How every process stands now, in their given order."""
        return [child.view for child in self._children.values()]

    def wait(self, names: Iterable[str] | None = None, timeout: float = 120.0) -> None:
        """Returns when the named processes (all by default) are ready; `timeout` in seconds.

        Raises StartFailed when one of the stack cannot start, StackError when the stack is being stopped.
        """
        wanted = [self._children[name] for name in (self._children if names is None else names)]
        deadline = time.monotonic() + timeout
        with self._changed:
            while not all(child.status.holds for child in wanted):
                self.check()
                if self._stopping.is_set():
                    raise StackError("the stack was stopped while it started")
                left = deadline - time.monotonic()
                if left <= 0:
                    late = next(child for child in wanted if not child.status.holds)
                    raise StartFailed(late.process.name, f"not ready after {timeout:.0f} seconds", late.log)
                self._changed.wait(min(left, 1.0))

    def check(self) -> None:
        """Raises StartFailed when a process has been given up."""
        for child in self._children.values():
            if child.status is Status.FAILED:
                raise StartFailed(child.process.name, child.reason or "no reason known", child.log)

    def stop(self) -> None:
        """Stops all in reverse order and returns when nothing is left running."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._watchdog:
            self._watchdog.dismiss()
            self._watchdog = None

    def hurry(self) -> None:
        """Kills what is still stopping; called while `stop` waits in another thread."""
        self._hurry.set()

    # From here on: the supervisor's thread.

    def _run(self) -> None:
        try:
            while not self._stopping.wait(TICK_SECONDS):
                for child in self._children.values():
                    self._advance(child)
        finally:
            self._stop_all()

    def _advance(self, child: _Child) -> None:
        match child.status:
            case Status.WAITING if all(self._children[name].status.holds for name in child.process.after):
                self._launch(child)
            case Status.RESTARTING if time.monotonic() >= child.due:
                self._launch(child)
            case Status.STARTING | Status.READY if (code := _exit_code(child)) is not None:
                self._ended(child, code)
            case Status.STARTING:
                self._probe(child)

    def _launch(self, child: _Child) -> None:
        process = child.process
        try:
            if process.prepare:
                process.prepare()
            with _open_log(child.log) as log:
                child.log_start = log.tell()
                child.popen = _spawn(process, log, self._mark)
        except StackError as error:
            self._move(child, Status.FAILED, str(error))
        except OSError as error:
            self._move(child, Status.FAILED, f"{process.command[0]}: {error.strerror}")
        else:
            self._move(child, Status.STARTING, child.reason)

    def _probe(self, child: _Child) -> None:
        assert child.popen is not None
        waited = time.monotonic() - child.moved
        if time.monotonic() < child.due:
            return
        child.due = time.monotonic() + PROBE_SECONDS
        running = Running(child.popen.pid, child.log, child.log_start)
        if not child.process.step and (child.process.ready is None or child.process.ready(running)):
            child.started_seconds, child.was_ready = waited, True
            self._move(child, Status.READY, child.reason)
        elif waited > child.process.ready_seconds:
            _kill_group(child.popen)
            child.popen.wait()
            self._crashed(child, f"not ready after {child.process.ready_seconds:.0f} seconds")

    def _ended(self, child: _Child, code: int) -> None:
        assert child.popen is not None
        # What it started goes with it: half a worker would hold on to jobs and memory.
        _kill_group(child.popen)
        if child.process.step and code == 0:
            child.started_seconds = time.monotonic() - child.moved
            self._move(child, Status.DONE, None)
            return
        reason = _describe(code)
        if child.process.step or not child.was_ready:
            reason = _with_last_line(reason, child.log)
        self._crashed(child, reason)

    def _crashed(self, child: _Child, reason: str) -> None:
        if child.status is Status.READY and time.monotonic() - child.moved >= STEADY_SECONDS:
            child.crashes = 0
        child.crashes += 1
        if child.process.step or (not child.was_ready and child.crashes >= FIRST_START_TRIES):
            self._move(child, Status.FAILED, reason)
            return
        child.restarts += 1
        pause = min(BACKOFF_SECONDS * 2 ** (child.crashes - 1), BACKOFF_LIMIT_SECONDS)
        child.due = time.monotonic() + pause
        self._move(child, Status.RESTARTING, reason)

    def _stop_all(self) -> None:
        """Waves: those that nobody running comes after, until none is left."""
        running = {child.process.name for child in self._children.values() if _exit_code(child) is None}
        running &= {child.process.name for child in self._children.values() if child.popen}
        for child in self._children.values():
            if child.process.name not in running and child.status is not Status.FAILED:
                self._move(child, Status.STOPPED, child.reason)
        while running:
            needed = {name for each in running for name in self._needs(each)}
            wave = [self._children[name] for name in running - needed]
            self._stop_wave(wave)
            running &= needed
        sweep(self._mark, _KILL_SECONDS)

    def _needs(self, name: str) -> set[str]:
        """Everything that the process comes after, near and far."""
        near = set(self._children[name].process.after)
        return near.union(*(self._needs(other) for other in near))

    def _stop_wave(self, wave: list[_Child]) -> None:
        begun = time.monotonic()
        for child in wave:
            assert child.popen is not None
            self._move(child, Status.STOPPING, child.reason)
            # The main process alone: a Celery worker sees its own children to the end of their jobs.
            child.popen.send_signal(child.process.stop_signal)
        while wave:
            wave = [child for child in wave if not self._stopped(child, time.monotonic() - begun)]
            if wave:
                time.sleep(TICK_SECONDS)

    def _stopped(self, child: _Child, seconds: float) -> bool:
        assert child.popen is not None
        patience = 0.0 if self._hurry.is_set() else child.process.stop_seconds
        late = seconds > patience and child.popen.poll() is None
        if late:
            _kill_group(child.popen)
            child.popen.wait()
        elif child.popen.poll() is None:
            return False
        # A group outlives its leader: what the process left behind goes too.
        _kill_group(child.popen)
        reason = f"killed: did not stop within {patience:.0f} seconds" if late else None
        self._move(child, Status.STOPPED, reason)
        return True

    def _move(self, child: _Child, status: Status, reason: str | None) -> None:
        with self._changed:
            child.status, child.reason = status, reason
            child.since, child.moved = time.time(), time.monotonic()
            self._changed.notify_all()
        self._listener(child.view)


def _spawn(process: Process, log: IO[bytes], mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # running the given commands is what it is for
        process.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**process.environment, MARK: mark},
        cwd=process.directory or "/",
        start_new_session=True,
        user=process.user.uid if process.user else None,
        group=process.user.gid if process.user else None,
        extra_groups=[] if process.user else None,
    )


def _open_log(path: Path) -> IO[bytes]:
    """The log to append to; a big one is put aside first (one old log is kept)."""
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        os.replace(path, path.with_suffix(".log.1"))
    return open(path, "ab")


def _exit_code(child: _Child) -> int | None:
    return child.popen.poll() if child.popen else None


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(popen.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def _with_last_line(reason: str, log: Path) -> str:
    """The reason with the log's last line that says something."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f"{reason}: {lines[-1][:300]}" if lines else reason
