"""The short screen at the end: what happened, and where to look."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clients.cli.board import size
from clients.cli.journey import Outcome
from clients.cli.trace import duration

Link = tuple[str, str, str]
"""A label, where to look, and what to know about it."""


def outcome(found: Outcome) -> RenderableType:
    """Rows, files, deliveries and the seconds of each step."""
    table = _grid()
    dataset = found.dataset
    rows = f"{dataset['rows_loaded']:,} rows loaded, {dataset['rows_rejected']:,} rejected"
    table.add_row("Data", rows, f"dataset {dataset['name']}, version {dataset['version']}")
    files = ", ".join(f"{each['format']} {size(each['bytes'])}" for each in found.artifacts)
    table.add_row("Report", f"{len(found.artifacts)} files", files)
    for delivery in found.deliveries:
        tries = f"{delivery['attempts']} attempt" + ("s" if delivery["attempts"] != 1 else "")
        table.add_row(
            _DELIVERED.get(delivery["kind"], "Delivery"), f"{delivery['status']} to {delivery['destination']}", tries
        )
    steps = ", ".join(f"{step.name} {step.seconds:.1f} s" for step in found.steps if step.seconds is not None)
    table.add_row("Time", duration(found.seconds), steps)
    return Group(Text(), Text("What happened", "bold green"), table)


def links(found: Sequence[Link]) -> RenderableType:
    """Where to look."""
    table = _grid()
    for label, where, note in found:
        table.add_row(label, where, note)
    return Group(Text(), Text("Where to look", "bold green"), table)


def report_links(found: Outcome) -> list[Link]:
    """The report's best file, and how to see the trace."""
    by_format = {each["format"]: each["path"] for each in found.artifacts}
    best = next((by_format[kind] for kind in ("pdf", "html", "csv") if kind in by_format), None)
    report = [("Report", short(best), "")] if best else []
    return [*report, ("Trace", f"{command()} trace", f"run {found.run}")]


_DELIVERED = {"email": "Mail", "webhook": "Webhook"}


def command() -> str:
    """How the user can call this command again: by its name when the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "millrace" or shutil.which("millrace") == str(called.absolute()):
        return "millrace"
    return short(called.absolute())


def short(path: Path | str) -> str:
    """Relative to the working directory when it is below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10)
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    return table
