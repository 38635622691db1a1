"""Runs and traces as tables in the terminal."""

import itertools
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.cli import place
from clients.cli.errors import CommandError
from clients.cli.trace import Waterfall, duration

Json = dict[str, Any]
_WIDE: Final = 200
STATE_STYLES: Final = {
    "queued": "dim",
    "running": "yellow",
    "ending": "magenta",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "magenta",
}


def list_runs(folder: Path, limit: int) -> None:
    with place.client(folder) as client:
        found = list(itertools.islice(client.runs(), limit))
    rows = table("run", "state", "started", "took", "reason")
    for run in found:
        rows.add_row(run["id"], state_of(run), local(run["created_at"]), took(run, "created_at"), run["reason"] or "")
    show(rows, found, "no runs yet")


def show_trace(folder: Path, run: str | None) -> None:
    """Raises CommandError when there is no run, or no trace of it (yet)."""
    with place.client(folder) as client:
        wanted = run or next((each["id"] for each in client.runs()), None)
        if wanted is None:
            raise CommandError("there are no runs yet")
        trace_id = client.run(wanted)["trace_id"]
        if trace_id is None:
            raise CommandError(f"run {wanted} has no trace")
        found = client.trace(trace_id)
    _console().print(Waterfall(found["trace_id"], found["spans"]))


def show(rows: Table, found: list[Json], otherwise: str) -> None:
    _console().print(rows if found else otherwise)


def check(unreachable: Iterable[str]) -> None:
    """Raises CommandError, naming services whose part is missing."""
    if names := sorted(unreachable):
        raise CommandError(f"{', '.join(names)} could not be asked")


def _console() -> Console:
    """As wide as the terminal; elsewhere wide enough that grep finds whole lines. What others wrote is no markup."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(width=_WIDE, markup=False, emoji=False)


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=column != "reason", overflow="fold")
    return made


def state_of(item: Json) -> Text:
    return Text(item["state"], STATE_STYLES.get(item["state"], ""))


def took(item: Json, start: str) -> str:
    if not item[start] or not item["finished_at"]:
        return ""
    return duration((_time(item["finished_at"]) - _time(item[start])).total_seconds())


def local(moment: str) -> str:
    return f"{_time(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def _time(moment: str) -> datetime:
    return datetime.fromisoformat(moment)
