"""How many sends may go to one destination at a time, so that a slow one leaves threads to the others.

The bound holds in one worker process: with N of them a destination gets N times as many. Who finds the gate
full is told when to come back, one after the other at the pace at which the destination has lately answered;
so a thousand deliveries to an endpoint that hangs do not wake up every second.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAX_WAIT_SECONDS = 600.0
MIN_WAIT_SECONDS = 0.5
WEIGHT = 0.3  # of the newest duration in the average


class Busy(Exception):
    """The destination has as many sends under way as it may; come back in `after` seconds."""

    def __init__(self, after: float) -> None:
        super().__init__(f"come back in {after:.1f} s")
        self.after = after


@dataclass
class _Gate:
    inside: int = 0
    seconds: float = 1.0  # a send's average duration
    promised: float = 0.0  # monotonic time of the last place that was given to a waiter


class Gates:
    """One gate a destination, with room for `limit` sends."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._gates: dict[str, _Gate] = {}
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, destination: str) -> Iterator[None]:
        """Hold a place for the block. Raises Busy when there is none."""
        began = self._monotonic()
        with self._lock:
            gate = self._gates.setdefault(destination, _Gate())
            if gate.inside >= self._limit:
                raise Busy(self._promise(gate, began))
            gate.inside += 1
        try:
            yield
        finally:
            self._leave(destination, gate, began)

    def _promise(self, gate: _Gate, now: float) -> float:
        pace = gate.seconds / self._limit
        gate.promised = max(gate.promised, now) + pace
        after = min(max(gate.promised - now, MIN_WAIT_SECONDS), MAX_WAIT_SECONDS)
        gate.promised = min(gate.promised, now + MAX_WAIT_SECONDS)
        return after

    def _leave(self, destination: str, gate: _Gate, began: float) -> None:
        now = self._monotonic()
        with self._lock:
            gate.inside -= 1
            gate.seconds += WEIGHT * (now - began - gate.seconds)
            if gate.inside == 0 and gate.promised <= now:
                del self._gates[destination]  # nobody is there or coming: names do not pile up
