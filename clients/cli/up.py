"""`millrace up`: the whole system in the foreground, set up, shown to work, and stopped in order."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from clients.cli import first_use, summary
from clients.cli.demo import DemoFile, sample_file
from clients.cli.errors import CommandError
from clients.cli.interrupts import Interrupts
from clients.cli.journey import Journey, JourneyFailed
from clients.cli.mailbox import Mailbox
from clients.cli.screen import Screen, make_screen
from clients.client import Client
from clients.problems import ProblemError, Unreachable
from infra.local import ports, secrets
from infra.local.ports import Ports
from infra.local.stack import WEB_USER, Stack
from infra.local.state import Lock, State

_DEMO: Final = "demo.json"


def up(folder: Path, base: int | None, chosen: Mapping[str, int], demo: bool | None) -> None:
    """Runs until Ctrl-C, SIGTERM or the end of the terminal.

    `demo` None sends the sample when that never succeeded on this folder. Raises StackError when the stack
    cannot start; a demo that fails is told, and the stack stays up.
    """
    # Everything in the folder, and what the processes write, is the owner's alone.
    os.umask(0o077)
    state = State(folder)
    state.create()
    with Interrupts() as interrupts, Lock(state), make_screen() as screen:
        stack = Stack(state, _ports(state, base, chosen), listener=screen.heard)
        screen.follow(stack.views)
        stack.start()
        try:
            _run(state, stack, screen, demo)
        except KeyboardInterrupt:
            screen.say("stopping")
        finally:
            interrupts.calm(stack.hurry)
            screen.title("Stopping; Ctrl-C again kills what is left")
            stack.stop()
        screen.say("stopped, nothing is left running")


def _run(state: State, stack: Stack, screen: Screen, demo: bool | None) -> None:
    began = time.monotonic()
    screen.title(f"Millrace is starting on {state.folder}")
    stack.wait()
    screen.settled()
    screen.say(f"all processes are ready after {time.monotonic() - began:.1f} s")
    links = _links(state, stack)
    try:
        links = _demonstrate(state, stack, screen, demo) + links
    except (CommandError, ProblemError, Unreachable) as error:
        screen.say(f"the demo failed: {error}")
    screen.journey(())
    screen.show(summary.links(links))
    screen.title(
        "Millrace is running", f"Ctrl-C stops it. Elsewhere: {summary.command()} demo FILE, status, logs SERVICE"
    )
    while True:
        signal.pause()


def _demonstrate(state: State, stack: Stack, screen: Screen, wanted: bool | None) -> list[summary.Link]:
    """Sets up what is missing, and sends the sample unless it once succeeded."""
    gateway = ports.url(stack.ports["api"])
    screen.title("Millrace is up; looking at its set-up")
    access = first_use.open_workspace(state, gateway, stack.secrets.keys["operator"])
    mailbox_url = ports.url(stack.ports["mailbox"])
    with Client(gateway, access["key"]) as client, Mailbox(mailbox_url, stack.secrets.passwords["web"]) as mailbox:
        first_use.furnish(client, mailbox)
        done = state.read(_DEMO)
        if wanted is False or (wanted is None and done):
            return []
        journey = Journey(client, mailbox, screen.moved)
        return _send_sample(state, journey, screen)


def _send_sample(state: State, journey: Journey, screen: Screen) -> list[summary.Link]:
    file: DemoFile = sample_file(state)
    screen.title(f"Millrace is up; sending {file.path.name}: {file.said}")
    screen.journey(journey.steps)
    try:
        found = journey.go(file.path, file.dataset, state.path("reports"))
    except JourneyFailed:
        for step in journey.steps:
            screen.moved(step)
        raise
    state.write(_DEMO, found.as_json())
    screen.journey(())
    screen.show(summary.outcome(found))
    return summary.report_links(found)


def _ports(state: State, base: int | None, chosen: Mapping[str, int]) -> Ports:
    """The chosen ports; those of the last start where nothing was chosen, so that links stay good."""
    last = state.read("stack.json").get("ports", {}) if base is None else {}
    known = {name: port for name, port in last.items() if name in ports.NAMES}
    return ports.from_base(base or ports.DEFAULT_BASE, {**known, **chosen})


def _links(state: State, stack: Stack) -> list[summary.Link]:
    key, password = (summary.short(state.path(name)) for name in (first_use.KEY, secrets.WEB_PASSWORD))
    return [
        ("API docs", f"{ports.url(stack.ports['api'])}/docs", f"password: the key in {key}"),
        ("Mailbox", ports.url(stack.ports["mailbox"]), f"password in {password}"),
        ("Flower", ports.url(stack.ports["flower"]), f"user {WEB_USER}, password in {password}"),
    ]
