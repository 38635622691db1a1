"""What the system relies on outside itself fails: disks, the trace collector, mail servers, webhooks."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

import httpx2 as httpx
import psutil

from infra.chaos.faults.fault import Fault, Scene
from infra.chaos.load import ROWS, TIMEOUT_SECONDS, make_csv
from infra.chaos.millrace import Millrace
from infra.chaos.sinks import HookSink, MailSink, Mood

Which = Literal["mail", "hooks"]

ROOM_BYTES: Final = 1_000_000
"""So much more than its log a file of a process may hold while the disk is full."""
FILE_ROWS: Final = 120_000
"""Of a file that does not fit: about 3 MB."""
FILES: Final = 3
SHUT_SECONDS: Final = 4.0
"""Shorter than the pause before the second try: a third one comes minutes later."""


def _millrace(scene: Scene) -> Millrace:
    assert isinstance(scene.world, Millrace)
    return scene.world


def fill_disk(scene: Scene) -> None:
    """Files end half-way, by a limit on the processes: first where uploads are stored, then where they are loaded."""
    world = _millrace(scene)
    assert world.uploads is not None
    content = make_csv(world.random, FILE_ROWS)
    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as caller:
        with _no_room(world, "ingest-http"):
            scene.load.send_file(caller, world.uploads, content, tries=1)
            scene.window.wait(2.0)
        with _no_room(world, "ingest-worker", "reports-worker"):
            scene.load.send_file(caller, world.uploads, content)
            scene.window.wait_out()


@contextmanager
def _no_room(world: Millrace, *names: str) -> Iterator[None]:
    room = max(world.log(name).stat().st_size for name in names) + ROOM_BYTES
    pids = [pid for name in names for pid in world.family(name)]
    for pid in pids:
        _limit(pid, room)
    try:
        yield
    finally:
        for pid in pids:
            _limit(pid, resource.RLIM_INFINITY)


def _limit(pid: int, room: int) -> None:
    with suppress(psutil.Error):
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def hide_collector(scene: Scene) -> None:
    """The trace collector hangs, then refuses."""
    world = _millrace(scene)
    world.collector.swallow()
    try:
        scene.window.wait(15.0)
        world.collector.refuse()
        scene.window.wait_out()
    finally:
        world.collector.pass_on()


def treat(which: Which, mood: Mood) -> Callable[[Scene], None]:
    """The sink treats each message so when it sees it first."""

    def act(scene: Scene) -> None:
        sink = _sink(scene, which)
        sink.mood = mood
        try:
            _send_files(scene)
            scene.window.wait_out()
        finally:
            sink.mood = "take"

    return act


def shut(which: Which) -> Callable[[Scene], None]:
    """Connections are refused, about when the messages of some files are on their way."""

    def act(scene: Scene) -> None:
        _send_files(scene)
        sink = _sink(scene, which)
        sink.shut()
        try:
            scene.window.wait(SHUT_SECONDS)
        finally:
            sink.open()
        scene.window.wait_out()

    return act


def _sink(scene: Scene, which: Which) -> MailSink | HookSink:
    return _millrace(scene).mail if which == "mail" else _millrace(scene).hooks


def _send_files(scene: Scene) -> None:
    world = _millrace(scene)
    assert world.uploads is not None
    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as caller:
        for _ in range(FILES):
            scene.load.send_file(caller, world.uploads, make_csv(world.random, ROWS))


def faults(lease: float) -> list[Fault]:
    made = [
        ("disk-full", 15.0, fill_disk),
        ("collector-down", 30.0, hide_collector),
        ("mail-refused", 15.0, shut("mail")),
        ("mail-hang", 15.0, treat("mail", "hang")),
        ("mail-busy", 15.0, treat("mail", "busy")),
        ("mail-rejected", 15.0, treat("mail", "reject")),
        ("hook-refused", 15.0, shut("hooks")),
        ("hook-hang", 15.0, treat("hooks", "hang")),
        ("hook-5xx", 15.0, treat("hooks", "busy")),
        ("hook-rejected", 15.0, treat("hooks", "reject")),
    ]
    return [Fault(name, "outside", seconds, act, stock=False) for name, seconds, act in made]
