"""What the user sees of a running command: live in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape

from clients.cli.board import Board, describe
from clients.cli.journey import Progress, Step
from infra.local.process import Status, View

PLAIN_WIDTH = 400  # nobody looks at it through a window: long paths stay whole
REFRESHES_A_SECOND = 8


class Screen(Protocol):
    """Both kinds of screen. Any thread may call."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def title(self, text: str, footer: str = "") -> None:
        """What the command is doing now."""

    def follow(self, views: Callable[[], Sequence[View]]) -> None:
        """Where to ask how the stack's processes stand."""

    def heard(self, view: View) -> None:
        """A process changed."""

    def settled(self) -> None:
        """The stack is up: from now on only what goes wrong is worth a line."""

    def journey(self, steps: Sequence[Step]) -> None:
        """The steps to show; none when the journey is over."""

    def moved(self, step: Step) -> None:
        """A step of the journey changed."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def show(self, what: RenderableType) -> None:
        """Something larger that stays."""


class Terminal(Console):
    """A console that may lose its reader (a closed terminal, `| head`) without ending the command."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(self.file)


def discard(file: IO[str]) -> None:
    """Sends what is written to the file, and what it still holds, to nowhere: its reader has left."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def make_screen(*, quiet: bool = False) -> Screen:
    """The terminal's screen where standard output is one, else plain lines; `quiet` ones go to standard error."""
    console = Terminal(stderr=quiet)
    if console.is_terminal and not console.is_dumb_terminal and not quiet:
        return TerminalScreen(console)
    return PlainScreen(Terminal(file=sys.stderr if quiet else sys.stdout, width=PLAIN_WIDTH, soft_wrap=True))


class TerminalScreen:
    """A board that is drawn again and again, with lines that stay scrolling by above it."""

    def __init__(self, console: Console) -> None:
        self._console, self._board, self._settled = console, Board(), False
        self._live = Live(
            self._board, console=console, refresh_per_second=REFRESHES_A_SECOND, transient=True, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._live.stop()

    def title(self, text: str, footer: str = "") -> None:
        self._board.title, self._board.footer = text, footer

    def follow(self, views: Callable[[], Sequence[View]]) -> None:
        self._board.views = views

    def heard(self, view: View) -> None:
        if notice := _notice(view, self._settled):
            self.say(notice)

    def settled(self) -> None:
        self._settled = True

    def journey(self, steps: Sequence[Step]) -> None:
        self._board.steps, self._board.show_processes = steps, not steps

    def moved(self, step: Step) -> None:
        return

    def say(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {escape(text)}", highlight=False)

    def show(self, what: RenderableType) -> None:
        with suppress(OSError):
            self._console.print(what)


class PlainScreen:
    """Lines, each once; for logs, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self._console, self._settled = console, False
        self._told: dict[str, Progress] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def title(self, text: str, footer: str = "") -> None:
        self.say(text)

    def follow(self, views: Callable[[], Sequence[View]]) -> None:
        return

    def heard(self, view: View) -> None:
        if notice := _notice(view, self._settled):
            self.say(notice)
        elif not self._settled and view.status.holds:
            self.say(f"{_spoken(view.name)} {view.status} ({view.started_seconds or 0:.1f} s)")

    def settled(self) -> None:
        self._settled = True

    def journey(self, steps: Sequence[Step]) -> None:
        self._told.clear()

    def moved(self, step: Step) -> None:
        if step.progress is not Progress.WAITING and self._told.get(step.name) is not step.progress:
            self._told[step.name] = step.progress
            said = describe(step) if step.progress is Progress.DONE else step.note
            self.say(f"{step.label}: {step.progress}" + (f" ({said})" if said else ""))

    def say(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, highlight=False, markup=False)

    def show(self, what: RenderableType) -> None:
        with suppress(OSError):
            self._console.print(what)


def _spoken(name: str) -> str:
    return name.replace("-", " ")


def _notice(view: View, settled: bool) -> str | None:
    """What is worth a line of its own about a process."""
    match view.status:
        case Status.RESTARTING:
            return f"{_spoken(view.name)} {view.reason}; starting it again"
        case Status.FAILED if settled:
            # While the stack starts, the command ends with the same reason.
            return f"{_spoken(view.name)} failed: {view.reason}"
        case Status.READY if view.restarts:
            return f"{_spoken(view.name)} is ready again ({view.started_seconds or 0:.1f} s)"
        case Status.STOPPED if view.reason and view.reason.startswith("killed"):
            return f"{_spoken(view.name)} {view.reason}"
        case _:
            return None
