"""Who is measured: how each is started. All have two worker processes and run the same body."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.local.stack import ROOT

PEERS_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
OURS: Final = "ours"
_TASKIQ = ("-m", "taskiq", "worker", "bench.peers.taskiq_app:broker")
_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class Contender:
    """One task queue in one configuration. Commands are arguments of its Python."""

    label: str
    app: str
    """Its module in bench.peers, which both its producers and its HTTP server import."""
    workers: tuple[tuple[str, ...], ...]
    """Empty: the probe's worker and Beat."""
    jobs: int
    """Of one throughput run: as many as ours, or some seconds of work."""
    environment: dict[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        return not self.workers

    @property
    def python(self) -> Path:
        return Path(sys.executable) if self.ours else PEERS_PYTHON

    @property
    def module(self) -> str:
        return f"bench.peers.{self.app}"


def _celery(*options: str) -> tuple[tuple[str, ...], ...]:
    named = ("-m", "celery", "-A", "bench.peers.celery_app", "worker", "-l", "WARNING")
    return ((*named, "-P", "prefork", "-c", "2", "-n", "bench@%h", *options),)


def _dramatiq(threads: int) -> tuple[tuple[str, ...], ...]:
    return (("-m", "dramatiq", "bench.peers.dramatiq_app", "-p", "2", "-t", str(threads)),)


CONTENDERS: Final[dict[str, Contender]] = {
    OURS: Contender("Millrace: prefork -c 2, Beat", "millrace_app", (), jobs=10_000),
    "celery_adr": Contender(
        "Celery prefork -c 2, db+postgresql results, track_started, acks_late",
        "celery_app",
        _celery(*_QUIET),
        jobs=300,
        environment={"BENCH_CELERY": "adr"},
    ),
    "celery_plain": Contender("Celery prefork -c 2, no results", "celery_app", _celery(), jobs=2_000),
    "dramatiq": Contender("Dramatiq, 2 processes x 4 threads", "dramatiq_app", _dramatiq(4), jobs=10_000),
    "dramatiq_tuned": Contender(
        "Dramatiq, 2 processes x 8 threads, prefetch 100",
        "dramatiq_app",
        _dramatiq(8),
        jobs=10_000,
        environment={"dramatiq_queue_prefetch": "100"},
    ),
    "rq": Contender(
        "RQ SimpleWorker, 2 processes, no results", "rq_app", (("-m", "bench.peers.rq_app"),) * 2, jobs=1_000
    ),
    "taskiq": Contender(
        "Taskiq list broker, 2 processes x 100, no results",
        "taskiq_app",
        ((*_TASKIQ, "--workers", "2", "--log-level", "WARNING", "--max-async-tasks", "100"),),
        jobs=10_000,
    ),
    "procrastinate": Contender(
        "Procrastinate, 2 processes x 10",
        "procrastinate_app",
        (("-m", "bench.peers.procrastinate_app"),) * 2,
        jobs=1_500,
        setup=("-m", "bench.peers.procrastinate_app", "setup"),
    ),
    "huey": Contender(
        "Huey, 2 processes, no results",
        "huey_app",
        (("-m", "huey.bin.huey_consumer", "bench.peers.huey_app.huey", "-w", "2", "-k", "process", "-q"),),
        jobs=10_000,
    ),
}
