"""What is fired of the slots that are due: the misfire policies. Pure; overlap needs the ledger (firing.py there)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from shared.schedules.timetable import Slot, Timetable

Misfire = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue", "cancel"]

SLOTS_A_LOOK = 500
"""At most so many slots of one schedule are fired in one go; the rest follows in the next."""
COUNTED = 300
"""Missed slots beyond so many are not counted one by one."""


@dataclass(frozen=True)
class Plan:
    """When a schedule fires, and what it does about slots that nobody fired in time."""

    timetable: Timetable
    jitter: timedelta
    misfire: Misfire
    grace: timedelta
    """A slot that comes no later than this fires in any case."""
    window: timedelta
    """`all`: slots that were missed longer ago than this are left out."""
    key: object
    """What jitter is drawn by: the schedule's id, so that every Beat draws the same."""

    def due(self, slot: Slot) -> datetime:
        return self.timetable.due(slot, self.jitter, self.key)

    def after(self, instant: datetime) -> Slot | None:
        return self.timetable.after(instant)


@dataclass(frozen=True)
class Missed:
    """Slots that are not made up for, `first` to `last`."""

    first: datetime
    last: datetime
    slots: int | None
    """How many; None: more than were counted."""


@dataclass(frozen=True)
class Look:
    """What one look at a due schedule finds."""

    fire: list[Slot]
    """Oldest first."""
    missed: Missed | None
    next: Slot | None
    """The first slot that this look did not decide about; None: it was the last one."""


def look(plan: Plan, first: Slot, now: datetime) -> Look:
    """Decide about the slots from `first` on that are due at `now`."""
    late = now - (max(plan.grace, plan.window) if plan.misfire == "all" else plan.grace)
    if plan.due(first) >= late:
        fire, following = _take(plan, first, now)
        return Look(fire, None, following)
    missed, following = pass_over(plan, first, late)
    fire, following = _take(plan, following, now) if following is not None else ([], None)
    if plan.misfire == "once" and not fire:
        last = plan.timetable.last(first.at - _INSTANT, missed.last)
        assert last is not None
        return Look([last], _without_last(plan, missed), following)
    return Look(fire, missed, following)


_INSTANT = timedelta(microseconds=1)


def _take(plan: Plan, first: Slot, now: datetime) -> tuple[list[Slot], Slot | None]:
    """The slots from `first` on that are due, and the one behind them."""
    taken: list[Slot] = []
    slot: Slot | None = first
    while slot is not None and len(taken) < SLOTS_A_LOOK and plan.due(slot) <= now:
        taken.append(slot)
        slot = plan.after(slot.at)
    return taken, slot


def pass_over(plan: Plan, first: Slot, late: datetime) -> tuple[Missed, Slot | None]:
    """The slots from `first` on that were due before `late`, and the one behind them. Each is looked at while they
    are few; else they are jumped over, for there may be one for every second of a week."""
    last, count = first, 1
    for slot in _following(plan, first):
        if plan.due(slot) >= late:
            return Missed(first.at, last.at, count), slot
        if count == COUNTED:
            break
        last, count = slot, count + 1
    else:
        return Missed(first.at, last.at, count), None
    found = plan.after(max(last.at, late - plan.jitter - _INSTANT))
    while found is not None and plan.due(found) < late:
        found = plan.after(found.at)
    end = plan.timetable.last(last.at, late if found is None else found.at - _INSTANT) or last
    return Missed(first.at, end.at, None), found


def _following(plan: Plan, slot: Slot) -> Iterator[Slot]:
    following = plan.after(slot.at)
    while following is not None:
        yield following
        following = plan.after(following.at)


def undecided(plan: Plan, missed: Missed, decided: Iterable[datetime]) -> list[Missed]:
    """What is left of `missed` between the slots that were `decided` about before, oldest first: a clock that was set
    back leads over the same slots again."""
    left, first = [], plan.timetable.after(missed.first - _INSTANT)
    for instant in (*decided, missed.last + _INSTANT):
        if first is not None and first.at < instant:
            left.append(_between(plan, first, instant, is_counted=missed.slots is not None))
        first = plan.after(instant)
    return left


def _between(plan: Plan, first: Slot, end: datetime, *, is_counted: bool) -> Missed:
    """The slots from `first` to before `end`."""
    last, count = first, 1
    if not is_counted:
        return Missed(first.at, (plan.timetable.last(first.at - _INSTANT, end - _INSTANT) or first).at, None)
    for slot in _following(plan, first):
        if slot.at >= end:
            break
        last, count = slot, count + 1
    return Missed(first.at, last.at, count)


def _without_last(plan: Plan, missed: Missed) -> Missed | None:
    before = plan.timetable.last(missed.first - _INSTANT, missed.last - _INSTANT)
    if before is None:
        return None
    return Missed(missed.first, before.at, None if missed.slots is None else missed.slots - 1)
