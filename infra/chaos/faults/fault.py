"""What a fault is: a function that goes on until its time is over, and leaves nothing broken behind."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.chaos.load import Load
from infra.chaos.world import World


class NotInjected(Exception):
    """What was to be broken was not."""


class Window:
    """The time that a fault has."""

    def __init__(self, seconds: float, stopped: threading.Event) -> None:
        self._until = time.monotonic() + seconds
        self._stopped = stopped

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._until and not self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits, at most to the end; whether there is time left."""
        self._stopped.wait(max(0.0, min(seconds, self._until - time.monotonic())))
        return self.is_open

    def wait_out(self) -> None:
        while self.wait(3600.0):
            continue


BURST: Final = 24
CROWD: Final = 300
BUSY_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Scene:
    """What a fault acts on."""

    world: World
    load: Load
    window: Window

    def burst(self) -> None:
        """So many jobs of a second at once that every worker has one in hand, and more wait."""
        for turn in range(BURST):
            self.load.want("take", {"seconds": 1.0}, keyless=turn % 2 == 0)
        self.window.wait(0.5)

    def crowd(self) -> list[int]:
        """So many short jobs at once that messages carry many, and some requests that share a commit. Returns when
        some have run, or that takes too long; answers the processes that ran them, the last one last."""
        numbers = self.load.want_crowd("write", CROWD)
        for _ in range(BURST):
            self.load.want("write", keyless=True)
        began, ran = time.monotonic(), list[int]()
        while numbers and not ran and time.monotonic() - began < BUSY_SECONDS and self.window.wait(0.05):
            ran = [deed.pid for deed in self.world.deeds.records() if deed.number in numbers]
        return ran

    def wait_until_busy(self, worker: str) -> None:
        """Until a process of the worker is in the middle of a job, or that takes too long."""
        began = time.monotonic()
        while time.monotonic() - began < BUSY_SECONDS and not self.world.busy(self.world.children(worker)):
            if not self.window.wait(0.05):
                return


@dataclass(frozen=True)
class Fault:
    """One way of breaking."""

    name: str
    group: str
    seconds: float
    """How long it lasts when it is injected alone."""
    inject: Callable[[Scene], None]
    """Returns when the window is over and what was broken is mended again."""
    brief: float = 10.0
    """Seconds in a mixed plan."""
    goes_on: bool = False
    """Other jobs must not be held up by it for longer than moments."""
    beatless: bool = False
    """While it lasts there may be no Beat at all: what falls due fires afterwards."""
    stock: bool = True
    """Whether it applies to stock Celery too."""

    @property
    def is_brokers(self) -> bool:
        """The API must not show it."""
        return self.group == "broker"
