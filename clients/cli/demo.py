"""`millrace demo`: the main job on any CSV, against the running stack or one that lives only for it."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clients.cli import first_use, summary
from clients.cli.errors import BadInput
from clients.cli.interrupts import Interrupts
from clients.cli.journey import Journey, Outcome, dataset_name
from clients.cli.mailbox import Mailbox
from clients.cli.place import Place
from clients.cli.screen import Screen, make_screen
from clients.client import Client
from infra.local import ports, sample
from infra.local.secrets import SERVICES
from infra.local.stack import Stack
from infra.local.state import Lock, State


@dataclass(frozen=True)
class DemoFile:
    """What is sent, and under which name."""

    path: Path
    dataset: str
    said: str
    """What it is, in a few words."""


def sample_file(state: State) -> DemoFile:
    """The generated orders, made once a folder."""
    path = state.path("sample", "orders.csv")
    if not path.exists():
        sample.write(path)
    return DemoFile(path, "orders", f"{sample.ROWS:,} generated orders, some of them bad")


def given_file(path: Path) -> DemoFile:
    """A file of the user's. Raises BadInput when it cannot be read."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    return DemoFile(path, dataset_name(path), f"{path.stat().st_size:,} bytes")


def demo(folder: Path, file: Path | None, *, as_json: bool) -> None:
    """Sends a file (or the sample) through the running stack. Raises JourneyFailed when it does not arrive."""
    given = given_file(file) if file else None
    place = Place.running(folder)
    os.umask(0o077)
    with make_screen(quiet=as_json) as screen, place.client() as client, place.mailbox() as mailbox:
        found = _travel(client, mailbox, screen, given or sample_file(place.state), place.state.path("reports"))
        screen.journey(())
        if not as_json:
            screen.title("")
            screen.show(summary.outcome(found))
            screen.show(summary.links(summary.report_links(found)))
    if as_json:
        _print(found)


def ephemeral(file: Path | None, *, as_json: bool, keep: bool) -> None:
    """The same on free ports and a temporary folder; everything is stopped afterwards.

    The report files stay, in a temporary folder of their own; with `keep` the stack's whole folder does.
    """
    given = given_file(file) if file else None
    os.umask(0o077)
    with (
        Interrupts() as interrupts,
        _reports() as reports,
        _temporary(keep) as state,
        Lock(state),
        make_screen(quiet=as_json) as screen,
    ):
        began = time.monotonic()
        # Flower is for people; nobody is here to look.
        stack = Stack(state, ports.free(), flower=False, lasting=keep, listener=screen.heard)
        screen.follow(stack.views)
        stack.start()
        try:
            screen.title(f"Millrace is starting in {state.folder}")
            file_to_send = given or sample_file(state)
            # What comes later in the pipeline may still start while the first step works.
            stack.wait([f"{service}-http" for service in SERVICES] + ["mailbox"])
            screen.say(f"ready to take data after {time.monotonic() - began:.1f} s")
            found = _with_stack(state, stack, screen, file_to_send, reports)
            screen.journey(())
            if not as_json:
                screen.show(summary.outcome(found))
                screen.show(summary.links(summary.report_links(found)[:1]))
        finally:
            interrupts.calm(stack.hurry)
            screen.title("Stopping")
            stack.stop()
    if as_json:
        _print(found)


def _with_stack(state: State, stack: Stack, screen: Screen, file: DemoFile, reports: Path) -> Outcome:
    gateway = ports.url(stack.ports["api"])
    access = first_use.open_workspace(state, gateway, stack.secrets.keys["operator"])
    mailbox_url = ports.url(stack.ports["mailbox"])
    with Client(gateway, access["key"]) as client, Mailbox(mailbox_url, stack.secrets.passwords["web"]) as mailbox:
        first_use.furnish(client, mailbox)
        return _travel(client, mailbox, screen, file, reports, stack.check)


def _travel(
    client: Client,
    mailbox: Mailbox,
    screen: Screen,
    file: DemoFile,
    reports: Path,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    journey = Journey(client, mailbox, screen.moved, check)
    screen.title(f"Sending {file.path.name}: {file.said}")
    screen.journey(journey.steps)
    return journey.go(file.path, file.dataset, reports)


@contextmanager
def _reports() -> Iterator[Path]:
    """A folder for the report files, which stays when there are any."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-report-"))
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _temporary(keep: bool) -> Iterator[State]:
    state = State(Path(tempfile.mkdtemp(prefix="millrace-")))
    state.create()
    try:
        yield state
    finally:
        if keep:
            print(f"kept: {state.folder}", file=sys.stderr)
        else:
            shutil.rmtree(state.folder, ignore_errors=True)


def _print(found: Outcome) -> None:
    print(json.dumps(found.as_json()))
