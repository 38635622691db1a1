"""A system of its own for a benchmark, and the conditions it ran in."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from clients.cli import first_use
from clients.cli.mailbox import Mailbox
from clients.client import Client
from infra.local import ports
from infra.local.stack import Stack
from infra.local.state import Lock, State


@contextmanager
def running_system() -> Iterator[tuple[Stack, Client]]:
    """The whole stack on free ports in a temporary folder, with the first use's report, channels and rules."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        state = State(Path(folder) / "state")
        state.create()
        with Lock(state):
            stack = Stack(state, ports.free(), flower=False, lasting=False)
            try:
                stack.start()
                stack.wait()
                gateway = ports.url(stack.ports["api"])
                access = first_use.open_workspace(state, gateway, stack.secrets.keys["operator"])
                mailbox_url, web = ports.url(stack.ports["mailbox"]), stack.secrets.passwords["web"]
                with Client(gateway, access["key"]) as client, Mailbox(mailbox_url, web) as mailbox:
                    first_use.furnish(client, mailbox)
                    yield stack, client
            finally:
                stack.stop()


def conditions() -> dict[str, Any]:
    """The machine and the versions that figures hold for."""
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "celery": version("celery"),
        "duckdb": version("duckdb"),
    }
