"""The live part of the terminal: the stack's processes, and the steps of a journey."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from clients.cli.journey import Progress, Step
from clients.cli.trace import duration
from infra.local.process import Status, View

ROLES: Final = ("http", "worker", "beat")
_STYLES: Final = {
    Status.WAITING: "dim",
    Status.STARTING: "yellow",
    Status.READY: "green",
    Status.DONE: "green",
    Status.RESTARTING: "bold yellow",
    Status.FAILED: "bold red",
    Status.STOPPING: "yellow",
    Status.STOPPED: "dim",
}


class Board:
    """What is drawn now; rich asks for it several times a second. Set its attributes to change it."""

    def __init__(self) -> None:
        self.title = ""
        self.views: Callable[[], Sequence[View]] = list
        self.steps: Sequence[Step] = ()
        self.show_processes = True
        self.footer = ""
        self._spinner = Spinner("dots")

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.title:
            # An empty line keeps the board apart from what stays above it.
            parts += [Text(), Text(self.title, "bold")]
        if self.show_processes:
            parts.append(processes(self.views()))
        if self.steps:
            parts.append(self._journey())
        if self.footer:
            parts.append(Text(self.footer, "dim"))
        return Group(*parts)

    def _journey(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column(width=14)
        table.add_column(width=30)
        table.add_column(no_wrap=True)
        for step in self.steps:
            table.add_row(self._mark(step), step.label, _bar(step), Text(describe(step), "dim"))
        return table

    def _mark(self, step: Step) -> RenderableType:
        match step.progress:
            case Progress.DONE:
                return Text("✓", "green")
            case Progress.FAILED:
                return Text("✗", "bold red")
            case Progress.RUNNING:
                return self._spinner
            case _:
                return Text("·", "dim")


def processes(views: Sequence[View], *, ages: bool = False) -> Table:
    """A service a line, its three processes beside each other, the others below; `ages`: how long they are ready."""
    table = Table.grid(padding=(0, 3))
    table.add_column(min_width=13)
    found = {view.name: view for view in views}
    services = [name.removesuffix("-http") for name in found if name.endswith("-http")]
    for service in services:
        table.add_row(service, *(_cell(role, found.pop(f"{service}-{role}"), ages) for role in ROLES))
    others = [view for view in found.values() if view.status is not Status.DONE]
    for start in range(0, len(others), len(ROLES)):
        row = [_cell(view.name, view, ages) for view in others[start : start + len(ROLES)]]
        table.add_row("" if start else "shared", *row)
    return table


def describe(step: Step) -> str:
    """Where a step stands, in a few words: how far, how fast, or how long it took."""
    said = [step.note] if step.note else []
    if step.done and (step.progress is Progress.RUNNING or step.unit == "bytes"):
        said.append(_amount(step))
    if step.progress is Progress.DONE and step.seconds is not None:
        said.append(duration(step.seconds))
    return ", ".join(said)


def size(count: int) -> str:
    """Bytes, readable: 512 B, 10.2 MB (powers of 1000)."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def age(seconds: float) -> str:
    """Whole units: 5 s, 12 m, 3 h, 2 d."""
    for limit, length, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds // 86400)} d"


def _amount(step: Step) -> str:
    if step.unit == "bytes":
        return size(step.done)
    return f"{step.done:,} {step.unit}".strip()


def _bar(step: Step) -> RenderableType:
    if step.progress is Progress.WAITING:
        return Text("")
    if step.progress is Progress.RUNNING and not step.total:
        return ProgressBar(total=None, pulse=True, width=30, animation_time=time.monotonic())
    total = step.total or 1
    done = total if step.progress is Progress.DONE else step.done
    return ProgressBar(total=total, completed=done, width=30)


def _cell(label: str, view: View, ages: bool) -> Text:
    mark = "●" if view.status.holds else "○" if view.status in (Status.WAITING, Status.STOPPED) else "◐"
    said = []
    # What is as it should be needs no word, so that the eye finds what is not.
    if view.status is not Status.READY:
        said.append(str(view.status))
    elif ages:
        said.append(age(time.time() - view.since))
    if view.restarts:
        said.append(f"({view.restarts} restart{'s' if view.restarts > 1 else ''})")
    return Text.assemble((f"{mark} ", _STYLES[view.status]), label, (" " + " ".join(said) if said else "", "dim"))
