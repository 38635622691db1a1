"""Queues and workers in the terminal, and taking a worker out."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from clients.cli import place
from clients.cli.errors import BadInput
from clients.cli.tables import check, local, show, table
from clients.cli.trace import duration

Json = dict[str, Any]
_STYLES: Final = {"alive": "green", "draining": "yellow", "lost": "bold red", "ended": "dim"}


def list_queues(folder: Path, *, as_json: bool) -> None:
    """Raises CommandError, when all else is told, when a service could not be asked."""
    with place.operator(folder) as client:
        found = client.queues()
    if as_json:
        print(json.dumps({"queues": found["items"], "unreachable": found["unreachable"]}))
    else:
        rows = table("queue", "due", "oldest", "lanes", "later", "running", "in/s", "out/s", "workers", "slots")
        for queue in found["items"]:
            oldest = queue["oldest_due_seconds"]
            numbers = [queue["later"], queue["running"], *(f"{queue[way]:.1f}" for way in _WAYS)]
            rows.add_row(
                *(queue["name"], str(queue["due"]), "" if oldest is None else duration(oldest), _lanes(queue)),
                *map(str, [*numbers, queue["workers"], queue["slots"]]),
            )
        show(rows, found["items"], "no queues")
    check(found["unreachable"])


_WAYS: Final = ("in_per_second", "out_per_second")


def _lanes(queue: Json) -> str:
    """Where what is due waits."""
    return ", ".join(f"{lane['due']} {name}" for name, lane in queue["lanes"].items() if lane["due"])


def list_workers(folder: Path, *, ended: bool, as_json: bool) -> None:
    """Raises CommandError, when all else is told, when a service could not be asked."""
    with place.operator(folder) as client:
        found = client.workers(ended=ended)
    if as_json:
        print(json.dumps({"workers": found["items"], "unreachable": found["unreachable"]}))
    else:
        rows = table("worker", "state", "queues", "pool", "running", "busy", "started", "heard", "version")
        for worker in found["items"]:
            rows.add_row(
                Text(worker["name"]),
                Text(worker["state"], _STYLES.get(worker["state"], "")),
                *(", ".join(worker["queues"]), f"{worker['slots'] or '?'} {worker['pool'] or ''}"),
                *(str(worker["running"]), _busy(worker), local(worker["started_at"]), _heard(worker)),
                worker["version"],
            )
        show(rows, found["items"], "no workers")
    check(found["unreachable"])


def _busy(worker: Json) -> str:
    return "" if worker["utilisation"] is None else f"{100 * worker['utilisation']:.0f} %"


def _heard(worker: Json) -> str:
    if worker["renewed_at"] is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(worker["renewed_at"])).total_seconds()
    return f"{duration(max(0.0, seconds))} ago"


def drain_worker(folder: Path, name: str, *, as_json: bool) -> None:
    """Raises BadInput when no worker, or more than one, is meant."""
    with place.operator(folder) as client:
        drained = client.drain_worker(_named(client.workers(), name)["id"])
    if as_json:
        print(json.dumps(drained))
    else:
        print(f"{drained['name']} gets no further jobs; {drained['running']} are running, then it stops")


def _named(found: Json, name: str) -> Json:
    going = [worker for worker in found["items"] if worker["state"] in ("alive", "draining")]
    meant = [worker for worker in going if name in (worker["id"], worker["name"], worker["name"].partition("@")[0])]
    if not meant:
        check(found["unreachable"])
        there = ", ".join(sorted(worker["name"] for worker in going)) or "none"
        raise BadInput(f"no worker that is alive is named {name!r}: there are {there}")
    if len(meant) > 1:
        ids = ", ".join(worker["id"] for worker in meant)
        raise BadInput(f"{len(meant)} workers are named {name!r}: name one by its id ({ids})")
    return dict(meant[0])
