"""Stock Celery under test: the control. The same load, the same faults where they apply, the same counting."""

import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from infra.chaos.proxy import Proxy
from infra.chaos.record import Record, SmallJob
from infra.chaos.world import Endpoint, JobRow, Row, World
from infra.local import ports, postgres, probes, valkey
from infra.local.process import Process, View
from infra.local.stack import ROOT, inherited, torn_down
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.provision import DATABASE, at

START_SECONDS: Final = 60.0
ROLE: Final = "probe"
STATES: Final = {
    **{"PENDING": "queued", "RECEIVED": "queued", "RETRY": "queued", "STARTED": "running"},
    **{"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "cancelled"},
}
WORKERS: Final = ("probe-worker", "probe-worker-2")


class StockCelery(World):
    """One HTTP process and two workers of two, as Millrace's probe has them."""

    name = "stock Celery"
    queue = "probe.jobs"
    workers = WORKERS
    https = ("probe-http",)
    beats = ()
    lease_seconds = 30.0
    patience_seconds = 120.0

    def __init__(
        self, folder: Path, record: Record, random_: random.Random, say: Callable[[str], None], resources: ExitStack
    ) -> None:
        self.state = State(folder / "state")
        self.state.create()
        record_file = self.state.path("probe.records")
        super().__init__(record, record_file, random_, say)
        chosen, password, own = ports.free(), secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.broker = Proxy(chosen["valkey"])
        self.broker.start()
        resources.callback(self.broker.close)
        admin = postgres.admin_url(chosen["postgres"], password)
        self.admin_url = at(admin, database=DATABASE)
        self.app_url = at(admin, ROLE, own, DATABASE)
        self.broker_url = valkey.url(chosen["valkey"], password)
        self.jobs = Endpoint(ports.url(chosen["api"]), {})
        self._mark = f"chaos-{os.getpid()}-{secrets.token_hex(4)}"
        environment = {
            "STOCK_BROKER_URL": valkey.url(self.broker.port, password),
            "STOCK_DATABASE_URL": self.app_url,
            "PROBE_RECORD_FILE": str(record_file),
        }
        made = [
            postgres.process(self.state, chosen["postgres"], password),
            self._forgetful(valkey.process(self.state, chosen["valkey"], password)),
            Process(
                name="schema",
                command=(sys.executable, "-m", "infra.probe.schema"),
                environment={"MILLRACE_ADMIN_DATABASE_URL": admin, "PROBE_PASSWORD": own},
                after=("postgres",),
                step=True,
            ),
            Process(
                name="probe-http",
                command=(
                    *(sys.executable, "-m", "uvicorn", "--factory", "infra.chaos.stock.web:create", "--no-access-log"),
                    *("--host", ports.HOST, "--port", str(chosen["api"])),
                ),
                environment=environment,
                after=("schema", "valkey"),
                ready=probes.answers(f"{self.jobs.url}/healthz"),
            ),
            *(self._worker(name, environment) for name in WORKERS),
        ]
        ours = [replace(each, environment={**inherited(), **each.environment}, directory=ROOT) for each in made[2:]]
        self.supervisor = Supervisor(map(torn_down, [*made[:2], *ours]), self.state.log, self._mark)

    def _worker(self, name: str, environment: dict[str, str]) -> Process:
        return Process(
            name=name,
            command=(
                *(sys.executable, "-m", "celery", "-A", "infra.chaos.stock.app", "worker", "-n", f"{name}@%h"),
                *("-c", "2", "--loglevel", "INFO", "--without-mingle", "--without-gossip"),
            ),
            environment=environment,
            after=("schema", "valkey"),
            ready=probes.logged(" ready."),
            stop_seconds=15,
        )

    def _forgetful(self, broker: Process) -> Process:
        def prepare() -> None:
            if self.wipe.is_set():
                shutil.rmtree(self.state.path("valkey", "appendonlydir"), ignore_errors=True)
            if broker.prepare is not None:
                broker.prepare()

        return replace(broker, prepare=prepare)

    def message_of(self, job: SmallJob) -> Row:
        return {"args": (job.number,), "task_id": job.job}

    def rows(self) -> list[JobRow]:
        """The tasks that were accepted and of which the result backend knows anything."""
        kinds = {job.job: job for job in list(self.record.jobs)}
        try:
            found = self.query("SELECT task_id, status, traceback FROM probe.celery_taskmeta")
        except psycopg.errors.UndefinedTable:
            return []  # the first result makes it
        return [
            JobRow(row["task_id"], job.number, job.kind, STATES[row["status"]], "raised" if row["traceback"] else None)
            for row in found
            if (job := kinds.get(row["task_id"])) is not None
        ]

    def still_open(self) -> list[str]:
        ended = {row.job for row in self.rows() if row.state in ("succeeded", "failed", "cancelled")}
        return [f"{job.kind} {job.job} has not ended" for job in list(self.record.jobs) if job.job not in ended]

    def upload_rows(self) -> dict[str, Row]:
        return {}

    def moves(self) -> list[Row]:
        return []  # nothing moves there: a result's row is overwritten by whoever comes

    def clean_up(self) -> None:
        """What did not end is given up: it must not be in the way of the next fault's jobs."""
        self.given_up += self.unfinished()
        with Redis.from_url(self.broker_url, socket_timeout=5) as broker, suppress(RedisError):
            broker.flushall()
        before = {worker: self.pid(worker) for worker in self.workers}
        for worker in self.workers:
            self.tell(worker, signal.SIGKILL)
        # What a dying worker takes would be counted against the next fault.
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not all(
            self.is_ready(worker) and self.pid(worker) not in (None, pid) for worker, pid in before.items()
        ):
            time.sleep(0.2)

    def views(self) -> list[View]:
        return self.supervisor.views()

    def process(self, name: str) -> Process:
        raise LookupError("there is no Beat in it")

    def mark(self) -> str:
        return self._mark


@contextmanager
def stock_celery(record: Record, random_: random.Random, say: Callable[[str], None]) -> Iterator[StockCelery]:
    """Brings stock Celery up in a temporary folder, on free ports; nothing is left of it. Raises StackError."""
    with (
        tempfile.TemporaryDirectory(prefix="millrace-chaos-", ignore_cleanup_errors=True) as folder,
        ExitStack() as held,
    ):
        world = StockCelery(Path(folder), record, random_, say, held)
        try:
            world.supervisor.start()
            world.supervisor.wait(timeout=START_SECONDS)
            yield world
        finally:
            world.supervisor.stop()
