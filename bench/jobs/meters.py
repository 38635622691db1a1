"""CPU and memory of process trees, and how quiet and how fast the machine is meanwhile."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil

LOOP_ROUNDS = 300_000


def tree(pids: Iterable[int]) -> Iterator[psutil.Process]:
    """The processes and all their descendants."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            yield root
            yield from root.children(recursive=True)


def cpu(pids: Iterable[int]) -> float:
    """User and system seconds of the trees so far, with those of descendants that ended and were waited for."""
    total = 0.0
    for process in tree(pids):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(pids: Iterable[int]) -> tuple[float, float]:
    """Megabytes of the trees: resident sets, which count what processes share in each, and proportional sets."""
    resident = proportional = 0
    for process in tree(pids):
        with suppress(psutil.NoSuchProcess):
            found = process.memory_full_info()
            resident += found.rss
            proportional += found.pss
    return resident / 1e6, proportional / 1e6


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


def loop_ms() -> float:
    """CPU milliseconds of one fixed loop in Python: how fast the machine is just now."""
    began, total = time.process_time(), 0
    for number in range(LOOP_ROUNDS):
        total += number * number
    return (time.process_time() - began) * 1e3


class Window:
    """The conditions while a phase runs: cores used by processes that are not ours, and the loop before and after."""

    def __init__(self) -> None:
        self._loop = loop_ms()
        self._busy, self._own, self._at = _machine(), cpu([os.getpid()]), time.monotonic()

    def close(self) -> dict[str, float]:
        foreign = (_machine() - self._busy) - (cpu([os.getpid()]) - self._own)
        cores = foreign / (time.monotonic() - self._at)
        return {"foreign_cores": max(0.0, cores), "loop_ms": (self._loop + loop_ms()) / 2}


def _machine() -> float:
    """CPU seconds of all processes of the machine since it booted."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
