"""API processes die before they could answer; Beats die, freeze, and are too many."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from infra.chaos.faults.fault import Fault, Scene
from infra.chaos.world import World
from infra.local.process import MARK

API_EVERY_SECONDS: Final = 4.0
COMMIT_EVERY_SECONDS: Final = 3.0
FREEZE_SECONDS: Final = 40.0
"""Longer than a leader may be silent."""


def kill_api(scene: Scene) -> None:
    turn, world = 0, scene.world
    while scene.window.wait(API_EVERY_SECONDS):
        world.tell(world.https[turn % len(world.https)], signal.SIGKILL)
        turn += 1


def kill_between_commit_and_answer(scene: Scene) -> None:
    """The probe's process ends itself when the commit of such a request is behind it and the answer is not."""
    keyless = False
    while scene.window.wait(COMMIT_EVERY_SECONDS):
        scene.load.want("write", keyless=keyless, probe_die="1")
        keyless = not keyless


def kill_beat(scene: Scene) -> None:
    world = scene.world
    while scene.window.wait(3.0):
        for beat in world.beats:
            world.tell(beat, signal.SIGKILL)


def freeze_leader(scene: Scene) -> None:
    """The leading Beat is stopped, and another stands by."""
    world = scene.world
    with _second_beat(world):
        scene.window.wait(3.0)
        pid = world.pid(world.beats[0])
        world.tell(world.beats[0], signal.SIGSTOP)
        try:
            scene.window.wait_out()
        finally:
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def run_two(scene: Scene) -> None:
    """Two Beats at once; the first dies in the middle."""
    world = scene.world
    with _second_beat(world):
        scene.window.wait(8.0)
        world.tell(world.beats[0], signal.SIGKILL)
        scene.window.wait_out()


@contextmanager
def _second_beat(world: World) -> Iterator[None]:
    process = world.process(f"{world.beats[0]}-2")
    started = subprocess.Popen(  # noqa: S603  # a process of the stack
        process.command,
        env={**process.environment, MARK: world.mark()},
        cwd=process.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        started.kill()
        started.wait()


def faults(lease: float) -> list[Fault]:
    return [
        Fault("api-kill", "api", 20, kill_api),
        Fault("api-kill-commit", "api", 15, kill_between_commit_and_answer),
        Fault("beat-kill", "beat", 12, kill_beat, beatless=True, stock=False),
        Fault("beat-freeze", "beat", FREEZE_SECONDS, freeze_leader, brief=15, stock=False),
        Fault("beat-two", "beat", 20, run_two, brief=15, stock=False),
    ]
