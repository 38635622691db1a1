"""One contender with a PostgreSQL and a Valkey of its own, in a temporary folder; nothing is left of them."""

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import psycopg
import redis

from bench.jobs import meters
from bench.jobs.contenders import Contender
from bench.peers import FIRST
from infra.local import ports, postgres, probes, valkey
from infra.local.process import MARK, View
from infra.local.stack import ROOT, inherited, torn_down
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.probe.plant import Probe, Servers, free_port
from infra.probe.record import Reader, Record
from infra.provision import DATABASE, at

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
RUN_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 1.5
LOOK_SECONDS: Final = 0.01


class BenchError(Exception):
    """A contender did not do what it had to; the message is one line."""


class Stand:
    """The contender's processes and what can be asked of them. Workers are stopped until `start_workers`."""

    def __init__(
        self, contender: Contender, state: State, servers: Servers, views: Callable[[], Iterable[View]]
    ) -> None:
        self.contender = contender
        self.state = state
        self._views = views
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._log: IO[bytes] = state.log("bench").open("ab")
        self.probe = Probe(state.folder, servers)
        self.admin_url = servers.admin_url
        self.broker_url = servers.broker_url
        self.database = DATABASE if contender.ours else "bench"
        self.database_url = self.probe.database_url if contender.ours else at(servers.admin_url, database="bench")
        self.reader = Reader(self.probe.record_file)
        self.environment = {
            **inherited(),
            **(self.probe.environment() if contender.ours else {}),
            **contender.environment,
            "BENCH_BROKER_URL": servers.broker_url,
            "BENCH_DATABASE_URL": self.database_url,
            "PROBE_RECORD_FILE": str(self.probe.record_file),
            "PYTHONUNBUFFERED": "1",
            MARK: state.read("bench.json")["mark"],
        }

    def set_up(self) -> None:
        """Makes its database and its tables."""
        if self.contender.ours:
            schema = next(each for each in self.probe.processes() if each.name == "probe-schema")
            self._call(list(schema.command), schema.environment)
            return
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        if self.contender.setup:
            self._call([str(self.contender.python), *self.contender.setup])

    def start_workers(self) -> None:
        """Starts them; `ready` waits for them."""
        if self.contender.ours:
            for each in self.probe.processes():
                if each.name in ("probe-worker", "probe-beat"):
                    self._start(each.name.removeprefix("probe-"), list(each.command), each.environment)
        else:
            for command in self.contender.workers:
                self._start("worker", [str(self.contender.python), *command])

    def ready(self, **environment: str) -> None:
        """Waits until the workers have done one job, and a moment more: its siblings may still be starting."""
        self.reader.rewind()
        self.produce(0, **environment)
        self.wait(lambda: any(record.number == FIRST for record in self.reader.records()), READY_SECONDS, "no answer")
        time.sleep(SETTLE_SECONDS)
        self.reader.rewind()

    def stop_workers(self) -> None:
        self.stop("beat", "worker")

    def serve(self, *, route: bool = False) -> str:
        """Starts the HTTP server; answers its address. `route`: the probe's own, with all that a service has."""
        if route:
            http = next(each for each in self.probe.processes() if each.name == "probe-http")
            self._start("http", list(http.command), http.environment)
            return self._answering(self.probe.url)
        port = free_port()
        command = [str(self.contender.python), "-m", "uvicorn", "bench.peers.api:api", "--port", str(port)]
        options = ["--host", ports.HOST, "--no-access-log", "--log-level", "warning"]
        self._start("http", command + options, {"BENCH_APP": self.contender.module})
        return self._answering(ports.url(port))

    def _answering(self, url: str) -> str:
        answers = probes.answers(f"{url}/readyz")
        self.wait(lambda: answers(None), READY_SECONDS, "its HTTP server does not answer")  # type: ignore[arg-type]
        return url

    def produce(self, count: int, rate: float | None = None, **environment: str) -> dict[str, Any]:
        """Runs a producer process to its end; answers what it says of itself."""
        command = [str(self.contender.python), "-m", "bench.peers.producer", self.contender.module, str(count)]
        said = self._call(command + ([str(rate)] if rate else []), environment)
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found

    def records(self) -> list[Record]:
        """What bodies wrote since the last rewind, without the first jobs of producers."""
        return [record for record in self.reader.records() if record.number < FIRST]

    def wait(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        """Raises BenchError, saying `complaint`, when the condition does not come true in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise BenchError(f"{self.contender.label}: {complaint} within {seconds:.0f} s")
            time.sleep(LOOK_SECONDS)

    def connect(self) -> psycopg.Connection[Any]:
        """Autocommit; as the contender's own role."""
        return psycopg.connect(self.database_url, autocommit=True)

    def broker(self) -> "redis.Redis":
        return redis.Redis.from_url(self.broker_url)

    def signal_broker(self, number: signal.Signals) -> None:
        os.kill(self._server("valkey"), number)

    def pids(self) -> dict[str, list[int]]:
        """By role: worker, beat (ours), http, broker, postgres."""
        running = {role: [each.pid for each in processes] for role, processes in self._running.items() if processes}
        return {**running, "broker": [self._server("valkey")], "postgres": [self._server("postgres")]}

    def usage(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {role: meters.cpu(pids) for role, pids in self.pids().items()}

    def stop(self, *roles: str) -> None:
        """Ends the processes of these roles, by default all: SIGTERM, then whatever is left of their groups."""
        ending = [each for role in roles or tuple(self._running) for each in self._running.pop(role, [])]
        for each in ending:
            each.terminate()
        for each in ending:
            with suppress(subprocess.TimeoutExpired):
                each.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()

    def _server(self, name: str) -> int:
        pid = next(view.pid for view in self._views() if view.name == name)
        if pid is None:
            raise BenchError(f"{name} is not running")
        return int(pid)

    def _start(self, role: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **(environment or {})},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._running.setdefault(role, []).append(process)

    def _call(self, command: list[str], environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self._log,
            timeout=RUN_SECONDS,
        )
        if done.returncode:
            raise BenchError(f"{self.contender.label}: {' '.join(command[1:4])} failed: {self._last_words()}")
        return done.stdout.decode()

    def _last_words(self) -> str:
        lines = self.state.log("bench").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


@contextmanager
def standing(contender: Contender) -> Iterator[Stand]:
    """The contender with fresh servers and without workers. Raises StackError or BenchError."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-", ignore_cleanup_errors=True) as folder:
        state = State(Path(folder) / "state")
        state.create()
        mark = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
        state.write("bench.json", {"mark": mark})
        chosen, password = ports.free(), secrets.token_urlsafe(24)
        admin = postgres.admin_url(chosen["postgres"], password)
        servers = Servers(admin, admin, valkey.url(chosen["valkey"], password))
        made = [
            postgres.process(state, chosen["postgres"], password),
            valkey.process(state, chosen["valkey"], password),
        ]
        supervisor = Supervisor(map(torn_down, made), state.log, mark)
        stand = Stand(contender, state, servers, supervisor.views)
        try:
            supervisor.start()
            supervisor.wait(timeout=READY_SECONDS)
            stand.set_up()
            yield stand
        finally:
            stand.stop()
            supervisor.stop()
