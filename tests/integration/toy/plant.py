"""Real processes of the toy service: its HTTP server, its Celery worker, its Beat."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from infra.local import probes
from infra.local.process import Process
from infra.local.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[3]
CELERY = (sys.executable, "-m", "celery", "-A", "tests.integration.toy.worker")


class Running:
    """One process in a group of its own; what it says goes to a file."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.log = folder / f"{name}.log"
        self._out: IO[bytes] = self.log.open("ab")
        self._popen = subprocess.Popen(
            [*CELERY, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=self._out,
            stderr=self._out,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid).children()]

    def send(self, number: signal.Signals) -> None:
        """To the main process alone, as a supervisor does."""
        self._popen.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """To the process and its children at once, as a machine that loses power or freezes does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> int:
        return self._popen.wait(seconds)

    def end(self) -> None:
        self.send_all(signal.SIGKILL)
        self._popen.wait()
        self._out.close()


class Plant:
    """Starts the toy's processes with an environment of their own; ends them all in the end."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._running: list[Running] = []

    def worker(self, **environment: str) -> Running:
        command = ["worker", "-n", f"toy{len(self._running)}@%h", "--loglevel", "INFO"]
        return self._start("worker", [*command, "--without-mingle", "--without-gossip"], environment)

    def supervisor(self, **environment: str) -> Supervisor:
        """A worker that is started again whenever it ends."""
        worker = Process(
            name="toy-worker",
            command=(*CELERY, "worker", "-n", "toy@%h", "--loglevel", "INFO", "--without-mingle", "--without-gossip"),
            environment=self._environment | environment,
            ready=probes.logged(" ready."),
            directory=ROOT,
        )
        return Supervisor([worker], lambda name: self._folder / f"{name}.log", f"{self._folder.name}-{os.getpid()}")

    def beat(self, **environment: str) -> Running:
        return self._start("beat", ["beat", "--loglevel", "INFO"], environment)

    def end(self, *which: Running) -> None:
        for running in which or tuple(self._running):
            running.end()
            self._running.remove(running)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def _start(self, name: str, arguments: list[str], environment: dict[str, Any]) -> Running:
        number = len(list(self._folder.glob("*.log")))
        running = Running(f"{number:02}-{name}", arguments, self._environment | environment, self._folder)
        self._running.append(running)
        return running
