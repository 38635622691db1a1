"""`millrace status` and `millrace stop`."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.cli.board import age, processes
from clients.cli.errors import CommandError
from clients.cli.place import Place
from infra.local import ports
from infra.local.process import Status, View
from infra.local.state import State, holder

STOP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1


def status(folder: Path, *, as_json: bool) -> None:
    """Raises NotRunning."""
    place = Place.running(folder)
    kept = place.state.read("status.json").get("processes", [])
    views = [View(**{**each, "status": Status(each["status"])}) for each in kept]
    addresses = {name: ports.url(port) for name, port in place.ports.items() if name in _SHOWN}
    if as_json:
        print(json.dumps({"state": str(place.state.folder), "processes": kept, "addresses": addresses}))
        return
    started = place.state.read("stack.json").get("started", time.time())
    console = Console()
    console.print(Text(f"Millrace on {place.state.folder}, up {age(time.time() - started)}", "bold"))
    console.print(processes(views, ages=True))
    table = Table.grid(padding=(0, 2))
    for name, address in addresses.items():
        table.add_row(Text(name, "dim"), address)
    console.print(table)
    for view in views:
        if view.reason and view.status is not Status.STOPPED:
            console.print(Text(f"{view.name} last {view.reason}", "yellow"))


def stop(folder: Path) -> None:
    """Returns when the stack has ended; at once when none runs. Raises CommandError when it does not end."""
    state = State(folder)
    pid = holder(state)
    if pid is None:
        print(f"no stack is running on {state.folder}")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while holder(state) == pid:
        if time.monotonic() > deadline:
            raise CommandError(f"process {pid} did not stop within {STOP_SECONDS:.0f} seconds")
        time.sleep(_POLL_SECONDS)
    print("stopped")


_SHOWN: Final = ("api", "ingest", "reports", "notifications", "mailbox", "flower")
