"""Schedules that the load makes, and which of their slots fall due: by their definitions and the clock alone.

A slot is fired when a job of it is in the system's table, which a trigger of ours notes (`World.fires`). Of which slot
it is says its id: an id begins with a time (RFC 9562), and that of a fire with its slot's.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

KIND: Final = "tick"
TAKEOVER_SECONDS: Final = 15.0
"""A slot fires at most so long after its time, whatever happens to a Beat of several, or to PostgreSQL."""


@dataclass(frozen=True)
class Timing:
    """Fires at each second whose number since the epoch leaves `phase` when divided by `every`."""

    asked: dict[str, Any]
    every: int
    phase: int

    def first(self, begin: int) -> int:
        return begin + (self.phase - begin) % self.every


TIMINGS: Final = {
    "each second": Timing({"every_seconds": 1}, every=1, phase=0),
    "each third second": Timing({"every_seconds": 3}, every=3, phase=0),
    "by the clock": Timing({"cron": "1-59/5 * * * * *", "zone": "Europe/Berlin"}, every=5, phase=1),
}
"""By name."""


@dataclass(frozen=True)
class Made:
    """A schedule that the API accepted. `number` is its own: its jobs carry it."""

    number: int
    id: str
    timing: Timing
    begin: int

    def due(self, end: int) -> range:
        """Seconds since the epoch of its slots up to `end`, that included."""
        return range(self.timing.first(self.begin), end + 1, self.timing.every)


@dataclass
class Found:
    """What became of the slots that were due; a slot is (number of its schedule, second since the epoch)."""

    due: list[tuple[int, int]] = field(default_factory=list)
    missed: list[tuple[int, int]] = field(default_factory=list)
    twice: list[tuple[int, int]] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    """Jobs of no slot, or before its time."""
    late: list[tuple[int, float]] = field(default_factory=list)
    """Slots' seconds, and how many seconds later they fired."""


def find(schedules: Iterable[Made], fires: Iterable[dict[str, Any]], end: int) -> Found:
    """`fires` as `World.fires` has them, in their order; what is of later slots than `end` does not count."""
    found, first, times = Found(), dict[tuple[int, int], float](), Counter[tuple[int, int]]()
    due = {(made.number, at) for made in schedules for at in made.due(end)}
    for fire in fires:
        at_ms = UUID(fire["job"]).int >> 80
        slot = (fire["number"], at_ms // 1000)
        if at_ms > end * 1000:
            continue
        if slot not in due or at_ms % 1000 or fire["at"] < slot[1]:
            found.unasked.append(fire["job"])
            continue
        first.setdefault(slot, fire["at"])
        times[slot] += 1
    found.due = sorted(due)
    found.missed = sorted(due - first.keys())
    found.twice = sorted(slot for slot, fired in times.items() if fired > 1)
    found.late = [(second, at - second) for (_, second), at in first.items()]
    return found
