"""Ends a stack's processes when its supervisor dies without doing so (kill -9, out of memory).

The supervisor holds the write end of this process's standard input; the kernel closes it however the
supervisor dies. A byte before the end of file says that it went down in order and there is nothing to do.
The processes are found by the mark that each carries in its environment, so none slips through between a fork
and a note of it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from infra.local.process import MARK

GRACE_SECONDS: Final = 10.0
_IN_ORDER: Final = b"."


class Watchdog:
    """The supervisor's side: started before the first process, dismissed after the last."""

    def __init__(self, mark: str) -> None:
        self._child = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "infra.local.watchdog", mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Its own session: neither Ctrl-C nor the closing of a terminal reaches it.
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def dismiss(self) -> None:
        """Ends the watchdog; it leaves everything as it is."""
        try:
            self._child.communicate(_IN_ORDER, timeout=GRACE_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._child.kill()
            self._child.wait()


def marked(mark: str) -> list[psutil.Process]:
    """The running processes that carry the mark, without the caller."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def sweep(mark: str, grace: float = GRACE_SECONDS) -> int:
    """Ends all marked processes: SIGTERM, after `grace` seconds SIGKILL to their groups. Returns how many."""
    remaining = marked(mark)
    total = len(remaining)
    groups = {group for process in remaining if (group := _group(process)) is not None}
    for process in remaining:
        _end(process)
    deadline = time.monotonic() + grace
    while remaining and time.monotonic() < deadline:
        _, remaining = psutil.wait_procs(remaining, timeout=0.2)
    # A group outlives its leader: a worker's children may be left in it.
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return total


def _group(process: psutil.Process) -> int | None:
    """The process's group when it leads it, as every process that the supervisor starts does."""
    try:
        group = os.getpgid(process.pid)
    except ProcessLookupError:
        return None
    return group if group != os.getpgrp() else None


def _end(process: psutil.Process) -> None:
    try:
        # PostgreSQL's fast shutdown; SIGTERM would wait for its clients to leave.
        process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    except psutil.Error:
        return


def main() -> None:
    """Waits for the end of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != _IN_ORDER:
        sweep(sys.argv[1])


if __name__ == "__main__":
    main()
