"""What the user sees: the board, the plain lines, and signals."""

import os
import signal
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from clients.cli import summary
from clients.cli.board import Board, age, describe, processes, size
from clients.cli.interrupts import Interrupts
from clients.cli.journey import Outcome, Progress, Step
from clients.cli.screen import PlainScreen, Terminal, TerminalScreen
from infra.local.process import Status, View


def view(name: str, status: Status = Status.READY, restarts: int = 0, reason: str | None = None) -> View:
    return View(name, status, 1, restarts, reason, time.time(), 1.25)


def drawn(what: RenderableType) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def plain() -> tuple[PlainScreen, StringIO]:
    out = StringIO()
    return PlainScreen(Console(file=out, width=160)), out


def test_a_services_processes_stand_on_one_line() -> None:
    names = ("api-http", "api-worker", "api-beat", "postgres", "provision")
    views = [view(name) for name in names[:4]] + [view("provision", Status.DONE)]
    views[1] = view("api-worker", Status.RESTARTING, 2, "ended by SIGKILL")
    first, second = drawn(processes(views)).splitlines()
    assert first.split()[0] == "api"
    assert "worker restarting (2 restarts)" in first
    assert "● beat" in first
    assert "● postgres" in second
    assert "provision" not in second


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step("upload", "Upload", "bytes", Progress.RUNNING, 1_500_000, 3_000_000), "1.5 MB"),
        (Step("load", "Load", "rows", Progress.RUNNING, 12_345, None, "attempt 2"), "attempt 2, 12,345 rows"),
        (Step("load", "Load", "rows", Progress.DONE, 120_000, seconds=1.5), "1.50 s"),
        (Step("load", "Load", "rows", note="queued"), "queued"),
        (Step("render", "Render", progress=Progress.DONE, seconds=0.25), "250 ms"),
    ],
)
def test_a_step_is_described(step: Step, said: str) -> None:
    assert describe(step) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (999, "999 B"), (10_200_000, "10.2 MB"), (5e12, "5000.0 GB")])
def test_sizes_are_readable(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(("seconds", "said"), [(5.9, "5 s"), (61, "1 m"), (7300, "2 h"), (200_000, "2 d")])
def test_ages_are_whole(seconds: float, said: str) -> None:
    assert age(seconds) == said


def test_the_board_shows_the_journey_in_place_of_the_processes() -> None:
    board = Board()
    board.views = lambda: [view("postgres")]
    board.title = "Starting"
    assert "postgres" in drawn(board)
    board.steps, board.show_processes = [Step("upload", "Upload", progress=Progress.RUNNING, total=2, done=1)], False
    assert "Upload" in drawn(board)
    assert "postgres" not in drawn(board)


def test_plain_lines_tell_each_thing_once() -> None:
    screen, out = plain()
    step = Step("load", "Load", "rows")
    for done in (1, 2, 3):
        step.progress, step.done = Progress.RUNNING, done
        screen.moved(step)
    step.progress, step.seconds = Progress.DONE, 2.0
    screen.moved(step)
    assert out.getvalue().splitlines() == ["Load: running", "Load: done (2.00 s)"]


def test_a_start_is_told_process_by_process_and_later_only_what_goes_wrong() -> None:
    screen, out = plain()
    screen.heard(view("api-http", Status.STARTING))
    screen.heard(view("api-http"))
    screen.settled()
    screen.heard(view("api-worker", Status.STARTING))
    screen.heard(view("api-worker", Status.RESTARTING, 1, "ended by SIGKILL"))
    screen.heard(view("api-worker", Status.READY, 1))
    screen.heard(view("api-beat"))
    assert out.getvalue().splitlines() == [
        "api http ready (1.2 s)",
        "api worker ended by SIGKILL; starting it again",
        "api worker is ready again (1.2 s)",
    ]


def test_markup_in_a_message_is_not_markup() -> None:
    screen, out = plain()
    screen.say("[red]failed[/] because of [/nothing]")
    with TerminalScreen(Terminal(file=out, force_terminal=True)) as live:
        live.say("[bold]x[/nonsense]")
    assert "[red]failed[/] because of [/nothing]" in out.getvalue()
    assert "[bold]x[/nonsense]" in out.getvalue()


def test_a_reader_that_leaves_does_not_end_the_command() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as out:
        screen = PlainScreen(Terminal(file=out, width=80))
        screen.say("heard")
        os.close(read)
        for _ in range(3):
            screen.say("nobody is there")


def test_the_summary_tells_rows_files_deliveries_and_seconds(tmp_path: Path) -> None:
    found = Outcome(
        run="run-1",
        trace="t",
        seconds=4.5,
        dataset={"name": "orders", "version": 2, "rows_loaded": 119_396, "rows_rejected": 604},
        steps=[Step("upload", "Upload", seconds=0.3), Step("render", "Render report", seconds=2.0), Step("x", "X")],
        artifacts=[
            {"format": "html", "bytes": 2_000, "path": str(tmp_path / "a.html")},
            {"format": "pdf", "bytes": 45_000, "path": str(tmp_path / "a.pdf")},
        ],
        deliveries=[{"kind": "email", "destination": "team@example.org", "status": "delivered", "attempts": 1}],
    )
    said = drawn(summary.outcome(found))
    assert "119,396 rows loaded, 604 rejected" in said
    assert "dataset orders, version 2" in said
    assert "2 files" in said
    assert "pdf 45.0 kB" in said
    assert "delivered to team@example.org" in said
    assert "1 attempt" in said
    assert "upload 0.3 s, render 2.0 s" in said
    assert summary.report_links(found) == [
        ("Report", str(tmp_path / "a.pdf"), ""),
        ("Trace", "millrace trace", "run run-1"),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_once_and_then_hurries(number: signal.Signals) -> None:
    hurried: list[bool] = []
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)
        interrupts.calm(lambda: hurried.append(True))
        signal.raise_signal(number)
    assert hurried == [True]
    assert signal.getsignal(number) is before
