"""The ways of going wrong that a job body has in Python; each is bounded, and harms its own process alone."""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

EATEN_BYTES = 256 << 20
PORTION_BYTES = 16 << 20
HUGE_CHARACTERS = 20_000_000


class Unpicklable(Exception):
    """Holds what no pickle takes, and cannot be made again from its arguments."""

    def __init__(self, lock: object, *, needed: str) -> None:
        super().__init__(lock, needed)
        self.lock = lock


class Unspeakable(Exception):
    """Fails again when it is asked what it is."""

    def __str__(self) -> str:
        raise RuntimeError("not even that")

    __repr__ = __str__


class Base(BaseException):
    """What `except Exception` lets pass."""


def segfault() -> None:
    ctypes.string_at(0)


def oom_killed() -> None:
    """Eats memory, and is ended as the kernel ends a process that ate too much."""
    eaten = [bytearray(PORTION_BYTES) for _ in range(EATEN_BYTES // PORTION_BYTES)]
    os.kill(os.getpid(), signal.SIGKILL)
    del eaten


def memory() -> None:
    """Eats all that a limit leaves it. Raises MemoryError; the limit is taken off again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + EATEN_BYTES, hard))
    try:
        eaten = []
        while True:
            eaten.append(bytearray(PORTION_BYTES))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes of this process, as RLIMIT_AS counts them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def hang() -> NoReturn:
    """Goes on whatever is raised in it: only a kill ends it."""
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: S112  # the soft time limit, and whatever else
            continue


def _raise(make: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise make()

    return act


def _raise_unpicklable() -> NoReturn:
    raise Unpicklable(threading.Lock(), needed="this")


def _raise_huge() -> NoReturn:
    raise ValueError("x" * HUGE_CHARACTERS)


def _recurse() -> int:
    return _recurse() + 1


BODIES: dict[str, Callable[[], object]] = {
    "segfault": segfault,
    "oom_killed": oom_killed,
    "memory": memory,
    "error": _raise(lambda: ValueError("wrong")),
    "unpicklable": _raise_unpicklable,
    "unspeakable": _raise(Unspeakable),
    "base": _raise(lambda: Base("past every net")),
    "exit": _raise(lambda: SystemExit(3)),
    "interrupt": _raise(KeyboardInterrupt),
    "huge": _raise_huge,
    "unprintable": _raise(lambda: ValueError("nul \x00, half a pair \ud800")),
    "recursion": _recurse,
    "group": _raise(lambda: BaseExceptionGroup("several", [ValueError("one"), Base("two")])),
    "result": object,
}
"""`result` answers what JSON cannot hold."""
