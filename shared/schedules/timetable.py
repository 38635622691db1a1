"""A timetable: cron, interval or one-off in an IANA time zone → the instants at which a schedule fires.

The rule for clocks that are changed (docs/explanation/schedules.md):

- A reading that does not exist (the clock was put forward over it) fires at the first instant after the gap, once
  however many of the schedule's readings lay in it.
- A reading that exists twice (the clock was put back) fires the first time only.
- A cron expression that names every hour means elapsed time: what does not exist is left out, and what exists twice
  fires twice.
- An interval is elapsed time and knows no clock.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones

from shared.schedules.cron import Cron

DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_INSTANT = timedelta(microseconds=1)
_SPANS = (timedelta(minutes=2), timedelta(hours=2), timedelta(days=2), timedelta(days=70), timedelta(days=366 * 41))
"""How far back the last slot is looked for: no further than needed, for there may be one a second."""


class ZoneUnknown(ValueError):
    """No IANA time zone has the name."""


@dataclass(frozen=True)
class Slot:
    """One time at which a schedule is to fire."""

    at: datetime
    """UTC. With jitter it fires a little later."""
    wall: datetime
    """What the timetable means, in its zone; may be a reading that does not exist."""
    note: str | None = None
    """What a change of the clock does to it."""


class Times(Protocol):
    """A rule without beginning or end."""

    def after(self, instant: datetime) -> Slot | None:
        """The first slot later than `instant` (UTC)."""
        ...


@dataclass(frozen=True)
class CronTimes:
    """The readings of a zone's wall clock that a cron expression names."""

    cron: Cron
    zone: ZoneInfo

    def after(self, instant: datetime) -> Slot | None:
        return self._elapsed(instant) if self.cron.every_hour else self._by_the_clock(instant)

    def _by_the_clock(self, instant: datetime) -> Slot | None:
        wall: datetime | None = _reading(instant, self.zone)
        while (wall := self.cron.after(wall)) is not None:  # type: ignore[arg-type]
            slot = slot_of(wall, self.zone)
            if slot.at > instant:  # else it is a reading's second time
                return slot
        return None

    def _elapsed(self, instant: datetime) -> Slot | None:
        """Between two changes of the clock readings and instants go together: so from change to change."""
        wall = _reading(instant, self.zone)
        while (found := self.cron.after(wall)) is not None:
            at = (found - _offset(instant, self.zone)).replace(tzinfo=UTC)
            turn = _turn_after(instant, self.zone)
            if at < (turn or instant + DAY):
                return Slot(at, at.astimezone(self.zone), _note_elapsed(at, self.zone))
            if turn is not None:
                instant, wall = turn, _reading(turn, self.zone) - _INSTANT
            else:  # nothing fits before: a reading in between would have been found
                instant = at - DAY / 2
                wall = _reading(instant, self.zone)
        return None


@dataclass(frozen=True)
class Interval:
    """Every so often, counted from `anchor` (UTC), itself included."""

    every: timedelta
    anchor: datetime
    zone: ZoneInfo

    def after(self, instant: datetime) -> Slot | None:
        number = max(0, (instant - self.anchor) // self.every + 1)
        at = self.anchor + number * self.every
        return Slot(at, at.astimezone(self.zone))


@dataclass(frozen=True)
class Once:
    """One instant."""

    slot: Slot

    def after(self, instant: datetime) -> Slot | None:
        return self.slot if self.slot.at > instant else None


@dataclass(frozen=True)
class Timetable:
    """A rule from `start` (included) to `end` (excluded). All instants are UTC."""

    times: Times
    start: datetime | None = None
    end: datetime | None = None

    def after(self, instant: datetime) -> Slot | None:
        """The first slot later than `instant`."""
        if self.start is not None and instant < self.start:
            instant = self.start - _INSTANT
        slot = self.times.after(instant)
        return None if slot is None or (self.end is not None and slot.at >= self.end) else slot

    def last(self, after: datetime, until: datetime) -> Slot | None:
        """The last slot later than `after` and not later than `until`."""
        for span in _SPANS:
            found, begin = None, max(after, until - span)
            slot = self.after(begin)
            while slot is not None and slot.at <= until:
                found, slot = slot, self.after(slot.at)
            if found is not None or begin == after:
                return found
        return None

    def due(self, slot: Slot, jitter: timedelta, key: object) -> datetime:
        """When `slot` is to fire: later by a share of `jitter` that (key, slot) always gives, and before the next."""
        if not jitter:
            return slot.at
        following = self.times.after(slot.at)
        width = jitter if following is None else min(jitter, following.at - slot.at)
        digest = hashlib.sha256(f"{key}\x1f{slot.at.astimezone(UTC).isoformat()}".encode()).digest()
        share = int.from_bytes(digest[:6]) / 2**48
        return slot.at + timedelta(milliseconds=int(width / timedelta(milliseconds=1) * share))


def slot_of(wall: datetime, zone: ZoneInfo) -> Slot:
    """The slot of a reading (naive) of the zone's clock, by the rule for readings that are missing or come twice."""
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    before, after = _naive_offset(first), _naive_offset(second)
    if before < after:  # PEP 495: in a gap the first offset is the one before the change
        at = _turn_after((wall - after).replace(tzinfo=UTC), zone)
        assert at is not None
        return Slot(at, first, f"{wall:%H:%M:%S} does not exist that day: fires at {_reading(at, zone):%H:%M:%S}")
    at = (wall - before).replace(tzinfo=UTC)
    return Slot(at, first, f"{wall:%H:%M:%S} comes twice that day: fires the first time" if before > after else None)


def _note_elapsed(at: datetime, zone: ZoneInfo) -> str | None:
    wall = at.astimezone(zone)
    if _naive_offset(wall.replace(fold=0)) <= _naive_offset(wall.replace(fold=1)):
        return None
    return f"{wall:%H:%M:%S} comes twice that day: this is the {'second' if wall.fold else 'first'} time"


def _naive_offset(wall: datetime) -> timedelta:
    offset = wall.utcoffset()
    assert offset is not None
    return offset


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return _naive_offset(instant.astimezone(zone))


def _reading(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the zone's clock shows, without zone."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _turn_after(instant: datetime, zone: ZoneInfo) -> datetime | None:
    """The first instant with another offset within a day after `instant`, to the second; None: there is none."""
    low = instant.replace(microsecond=0)
    high, old = low + DAY, _offset(low, zone)
    if _offset(high, zone) == old:
        return None
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        low, high = (middle, high) if _offset(middle, zone) == old else (low, middle)
    return high


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The names of IANA zones; what a machine calls its own is none of them."""
    return frozenset(available_timezones() - {"localtime", "Factory", "posixrules"})


@lru_cache(maxsize=1000)
def zone_of(name: str) -> ZoneInfo:
    """Raises ZoneUnknown, with the names that come near."""
    if name not in zone_names():
        near = get_close_matches(name[:64], zone_names(), n=3, cutoff=0.5)
        raise ZoneUnknown(f"{name[:64]!r} is no IANA time zone" + (f"; near it are {', '.join(near)}" if near else ""))
    return ZoneInfo(name)
