"""Workers die, freeze, and are told to stop too soon."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from infra.chaos.faults.fault import Fault, NotInjected, Scene

CHILD_EVERY_SECONDS: Final = 3.0
WORKER_EVERY_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 0.7
"""Shorter than most of the jobs that take time."""
FREEZE_EXTRA_SECONDS: Final = 8.0
"""Past the lease."""
HOLD_SECONDS: Final = 4.0
HOLD_EXTRA_SECONDS: Final = 30.0
"""So long past the lease that it shows when the leader waits for who is frozen."""


def kill_children(scene: Scene) -> None:
    """A pool process that has a job in hand, again and again."""
    world = scene.world
    while scene.window.wait(CHILD_EVERY_SECONDS):
        children = [pid for worker in world.workers for pid in world.children(worker)]
        busy = world.busy(children)
        if busy:
            world.kill_one(world.random.choice(busy))
        crowded = [pid for pid in scene.crowd() if pid in children and pid not in busy]
        if crowded:
            world.kill_one(crowded[-1])  # in the middle of a message of many
        others = [pid for worker in world.others for pid in world.children(worker)]
        if others:
            world.kill_one(world.random.choice(others))


def kill_worker(scene: Scene) -> None:
    """Each kind of worker once, whole."""
    world = scene.world
    scene.burst()
    scene.crowd()
    for worker in (world.workers[0], *world.others):
        if worker in world.workers:
            scene.wait_until_busy(worker)
        world.kill(worker)
        if not scene.window.wait(1.0):
            return
    scene.window.wait_out()


def kill_worker_every_10_seconds(scene: Scene) -> None:
    """One of the small jobs' and one of the others, in turn."""
    world, turn = scene.world, 0
    while scene.window.wait(1.0 if turn == 0 else WORKER_EVERY_SECONDS):
        worker = world.workers[turn % len(world.workers)]
        scene.crowd()
        scene.wait_until_busy(worker)
        world.kill(worker)
        if world.others:
            world.kill(world.others[turn % len(world.others)])
        turn += 1


def freeze(scene: Scene) -> None:
    """Stopped past its lease, then let go on with what is another's by now."""
    world = scene.world
    scene.burst()
    scene.wait_until_busy(world.workers[0])
    _stop(scene, world.workers[0], *world.others[:1])


def freeze_in_transaction(scene: Scene) -> None:
    """A worker is stopped past its lease while a job of its holds a row in a transaction."""
    world = scene.world
    while scene.window.wait(0.1):
        scene.load.want("hold", {"seconds": HOLD_SECONDS})
        began = time.monotonic()
        while time.monotonic() - began < HOLD_SECONDS and scene.window.wait(0.05):
            holds = {job.number for job in world.record.jobs if job.kind == "hold"}
            for worker in world.workers:
                if world.busy(world.children(worker), holds):
                    _stop(scene, worker)
                    return
    raise NotInjected("no worker held a row")


def _stop(scene: Scene, *workers: str) -> None:
    """All their processes, to the end of the window."""
    world = scene.world
    frozen = [worker for worker in workers if world.kill(worker, signal.SIGSTOP)]
    pids = [pid for worker in frozen for pid in world.family(worker)]
    try:
        scene.window.wait_out()
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def roll(scene: Scene) -> None:
    """A rolling restart whose grace is shorter than the jobs: SIGTERM, and soon SIGKILL."""
    world = scene.world
    scene.burst()
    for worker in (*world.workers, *world.others):
        if not scene.window.wait(1.0):
            return
        if worker in world.workers:
            scene.wait_until_busy(worker)
        before = world.pid(worker)
        world.tell(worker, signal.SIGTERM)
        scene.window.wait(GRACE_SECONDS)
        if before is not None and world.pid(worker) == before:
            world.kill(worker)
        while scene.window.wait(0.5) and not (world.is_ready(worker) and world.pid(worker) != before):
            continue


def faults(lease: float) -> list[Fault]:
    return [
        Fault("child-kill", "workers", 20, kill_children),
        Fault("worker-kill", "workers", 8, kill_worker),
        Fault("worker-kill-10s", "workers", 45, kill_worker_every_10_seconds, brief=25),
        Fault("worker-freeze", "workers", lease + FREEZE_EXTRA_SECONDS, freeze, brief=lease + FREEZE_EXTRA_SECONDS),
        Fault(
            "worker-freeze-row",
            "workers",
            lease + HOLD_EXTRA_SECONDS,
            freeze_in_transaction,
            brief=lease + FREEZE_EXTRA_SECONDS,
            goes_on=True,
            stock=False,
        ),
        Fault("rolling-sigterm", "workers", 40, roll, brief=20),
    ]
