"""`millrace jobs watch`: one job to its end, as a line that changes in a terminal, as plain lines elsewhere."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clients.cli import place
from clients.cli.errors import CommandError
from clients.cli.jobs import id_of
from clients.cli.progress import far
from clients.cli.screen import REFRESHES_A_SECOND, Terminal
from clients.cli.tables import local, state_of

Json = dict[str, Any]
_BAR_CELLS: Final = 30


@dataclass(frozen=True)
class _Screen:
    """Where it is shown how the job stands, and that nobody answers."""

    show: Callable[[Json], None]
    away: Callable[[Exception], None]


def watch_job(folder: Path, job: str, *, as_json: bool) -> None:
    """Returns when the job has succeeded. Raises BadInput, CommandError when it failed or was cancelled, and what the
    client raises."""
    wanted, last = id_of(job, "job"), Json()
    with place.client(folder) as client, _screen(as_json=as_json) as screen:
        for last in client.watch_job(wanted, away=screen.away):
            screen.show(last)
    if last["state"] != "succeeded":
        ended = "was cancelled" if last["state"] == "cancelled" else last["state"]
        why = f": {last['reason']['detail']}" if last["reason"] else ""
        raise CommandError(f"the job {ended}{why}")


@contextmanager
def _screen(*, as_json: bool) -> Iterator[_Screen]:
    console = Terminal()
    if as_json:
        yield _Screen(lambda job: print(json.dumps(job), flush=True), _tell)
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=REFRESHES_A_SECOND, redirect_stderr=False) as live:
            yield _Screen(lambda job: live.update(_drawn(job)), lambda problem: live.update(Text(_waiting(problem))))
    else:
        yield _Screen(_plain, _tell)


def _tell(problem: Exception) -> None:
    print(f"millrace: {Text(_waiting(problem)).plain}", file=sys.stderr, flush=True)


def _waiting(problem: Exception) -> str:
    return f"{' '.join(str(problem).split())} (waiting for it)"


def _drawn(job: Json) -> Table:
    line, progress = Table.grid(padding=(0, 1)), job["progress"]
    if progress and progress["total"]:
        bar = ProgressBar(total=progress["total"], completed=progress["done"], width=_BAR_CELLS)
        line.add_row(state_of(job), bar, Text(_news(job)))
    else:
        line.add_row(state_of(job), Text(_news(job)))
    return line


def _plain(job: Json) -> None:
    news = Text(_news(job)).plain  # without what would steer a terminal
    print(f"{time.strftime('%H:%M:%S')} {job['state']}" + (f": {news}" if news else ""), flush=True)


def _news(job: Json) -> str:
    """What there is to say of it besides its state."""
    match job["state"]:
        case "queued" if job["reason"]:
            tries = f"after {job['attempt']} of {job['max_attempts']} attempts"
            return f"again at {local(job['not_before'])} {tries}: {job['reason'].get('detail', '')}"
        case "running":
            again = f"attempt {job['attempt']}" if job["attempt"] > 1 else ""
            return ", ".join(said for said in (again, far(job["progress"]) if job["progress"] else "") if said)
        case "failed" | "cancelled":
            return str((job["reason"] or {}).get("detail", ""))
        case _:
            return ""
