"""Timetables: from readings of a zone's clock to instants, away from changes of the clock and at them."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.schedules.cron import parse
from shared.schedules.timetable import (
    CronTimes,
    Interval,
    Once,
    Slot,
    Timetable,
    ZoneUnknown,
    slot_of,
    zone_names,
    zone_of,
)

MINUTE = timedelta(minutes=1)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
         "Africa/Casablanca", "Pacific/Apia", "America/Havana", "Europe/Dublin", "UTC")  # fmt: skip


def cron(text: str, zone: str) -> Timetable:
    return Timetable(CronTimes(parse(text), zone_of(zone)))


def slots(timetable: Timetable, after: datetime, number: int) -> list[Slot]:
    found: list[Slot] = []
    while len(found) < number and (slot := timetable.after(after)) is not None:
        found.append(slot)
        after = slot.at
    return found


def local(text: str, zone: str, after: str, number: int) -> list[str]:
    """The next slots as instants in the zone: with the offset, for a reading may come twice."""
    found = slots(cron(text, zone), datetime.fromisoformat(after).astimezone(UTC), number)
    return [f"{slot.at.astimezone(zone_of(zone)):%Y-%m-%d %H:%M:%S%z}" for slot in found]


# The cases of the issue


def test_a_time_that_does_not_exist_fires_at_the_end_of_the_gap() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29 03:00:00+0200",
        "2026-03-30 02:30:00+0200",
    ]
    [slot] = slots(cron("30 2 * * *", "Europe/Berlin"), datetime(2026, 3, 28, 12, tzinfo=UTC), 1)
    assert slot.note == "02:30:00 does not exist that day: fires at 03:00:00"
    assert f"{slot.wall:%H:%M}" == "02:30"


def test_a_time_that_exists_twice_fires_the_first_time_only() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+02:00", 2) == [
        "2026-10-25 02:30:00+0200",
        "2026-10-26 02:30:00+0100",
    ]
    [slot] = slots(cron("30 2 * * *", "Europe/Berlin"), datetime(2026, 10, 24, 12, tzinfo=UTC), 1)
    assert slot.note == "02:30:00 comes twice that day: fires the first time"


def test_many_times_in_one_gap_fire_once() -> None:
    assert local("*/10 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29 03:00:00+0200",
        "2026-03-30 02:00:00+0200",
    ]


def test_a_gap_ends_where_a_slot_is_anyway() -> None:
    assert local("0 2,3 * * *", "Europe/Berlin", "2026-03-29T01:00+01:00", 2) == [
        "2026-03-29 03:00:00+0200",
        "2026-03-30 02:00:00+0200",
    ]


def test_every_hour_means_elapsed_time() -> None:
    assert local("30 * * * *", "Europe/Berlin", "2026-03-29T01:00+01:00", 2) == [
        "2026-03-29 01:30:00+0100",
        "2026-03-29 03:30:00+0200",
    ]
    assert local("30 * * * *", "Europe/Berlin", "2026-10-25T02:00+02:00", 3) == [
        "2026-10-25 02:30:00+0200",
        "2026-10-25 02:30:00+0100",
        "2026-10-25 03:30:00+0100",
    ]
    twice = slots(cron("30 * * * *", "Europe/Berlin"), datetime(2026, 10, 25, 0, tzinfo=UTC), 3)
    assert [slot.note for slot in twice] == [
        "02:30:00 comes twice that day: this is the first time",
        "02:30:00 comes twice that day: this is the second time",
        None,
    ]


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00-05:00", "2026-03-08 03:00:00-0400"),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00-04:00", "2026-11-01 01:30:00-0400"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", "2026-10-04 02:30:00+1100"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00+11:00", "2026-04-05 01:45:00+1100"),
        ("0 9 * * *", "Asia/Kathmandu", "2026-01-01T00:00+00:00", "2026-01-01 09:00:00+0545"),
        ("0 0 29 2 *", "Europe/Berlin", "2026-01-01T00:00+01:00", "2028-02-29 00:00:00+0100"),
        ("0 0 L * *", "Europe/Berlin", "2028-02-01T00:00+01:00", "2028-02-29 00:00:00+0100"),
        ("0 23 31 * *", "Europe/Berlin", "2026-04-01T00:00+02:00", "2026-05-31 23:00:00+0200"),
        ("0 0 * * *", "America/Havana", "2026-03-07T12:00-05:00", "2026-03-08 01:00:00-0400"),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-20T00:00+00:00", "2011-12-31 00:00:00+1400"),
        ("59 * 31 10 *", "Europe/Berlin", "2026-10-31T23:00+01:00", "2026-10-31 23:59:00+0100"),
    ],
)
def test_zones_and_days(text: str, zone: str, after: str, expected: str) -> None:
    assert local(text, zone, after, 1) == [expected]


def test_half_an_hour_twice() -> None:
    """Lord Howe's clock goes back by half an hour, from 02:00 to 01:30."""
    assert local("*/30 * * * *", "Australia/Lord_Howe", "2026-04-05T01:00+11:00", 4) == [
        "2026-04-05 01:30:00+1100",
        "2026-04-05 01:30:00+1030",
        "2026-04-05 02:00:00+1030",
        "2026-04-05 02:30:00+1030",
    ]
    assert local("*/30 1-3 * * *", "Australia/Lord_Howe", "2026-04-05T01:00+11:00", 3) == [
        "2026-04-05 01:30:00+1100",
        "2026-04-05 02:00:00+1030",
        "2026-04-05 02:30:00+1030",
    ]


# The rule, read minute by minute

starts = st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)).map(lambda at: at.replace(second=0, microsecond=0))  # noqa: DTZ001
numbers = st.lists(st.integers(0, 59), min_size=1, max_size=4).map(lambda found: ",".join(map(str, found)))
hours = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda found: ",".join(map(str, found)))


def changes(zone: str, begin: datetime) -> datetime:
    """An instant not long before the next change of the zone's clock, or `begin`."""
    at = begin.replace(tzinfo=UTC)
    known = at.astimezone(zone_of(zone)).utcoffset()
    for day in range(366):
        later = at + timedelta(days=day)
        if later.astimezone(zone_of(zone)).utcoffset() != known:
            return later - timedelta(days=1, hours=3)
    return at


def named(text: str, begin: datetime, end: datetime) -> set[datetime]:
    """The readings that the expression names, by the other implementation."""
    found = set()
    for wall in CronSim(text, begin - MINUTE):
        if wall > end:
            return found
        found.add(wall)
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), starts, numbers)
def test_every_hour_names_each_instant_whose_reading_fits(zone: str, begin: datetime, minutes: str) -> None:
    text, at, where = f"{minutes} * * * *", changes(zone, begin), zone_of(zone)
    instants = [at + n * MINUTE for n in range(1, 60 * 30)]
    readings = {instant: instant.astimezone(where).replace(tzinfo=None, fold=0) for instant in instants}
    fitting = named(text, min(readings.values()), max(readings.values()))
    expected = [instant for instant in instants if readings[instant] in fitting]
    assert [slot.at for slot in slots(cron(text, zone), at, len(expected))] == expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), starts, numbers, hours)
def test_certain_hours_name_each_reading_once(zone: str, begin: datetime, minutes: str, hours: str) -> None:
    text, at, where = f"{minutes} {hours} * * *", changes(zone, begin), zone_of(zone)
    instants = [at + n * MINUTE for n in range(1, 60 * 60)]
    first: dict[datetime, datetime] = {}
    for instant in instants:
        first.setdefault(instant.astimezone(where).replace(tzinfo=None, fold=0), instant)
    fitting = named(text, min(first), max(first))
    after_gap = {min(at for reading, at in first.items() if reading > wall) for wall in fitting - first.keys()}
    expected = sorted({first[wall] for wall in fitting & first.keys()} | after_gap)
    assert [slot.at for slot in slots(cron(text, zone), at, len(expected))] == expected


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ZONES), starts, numbers, st.booleans())
def test_slots_go_forward_and_looking_from_anywhere_finds_the_same(
    zone: str, begin: datetime, minutes: str, every: bool
) -> None:
    timetable = cron(f"{minutes} {'*' if every else '1-3'} * * *", zone)
    at = changes(zone, begin)
    found = [slot.at for slot in slots(timetable, at, 40)]
    assert found == sorted(set(found))
    for earlier, later in zip([at, *found], found, strict=False):
        between = earlier + (later - earlier) / 2
        nearest = timetable.after(between)
        assert nearest is not None
        assert nearest.at == later
        assert timetable.last(at - MINUTE, later) == timetable.after(later - timedelta(microseconds=1))


# Intervals, one-offs, bounds


def test_an_interval_counts_from_its_anchor_and_knows_no_clock() -> None:
    anchor = datetime(2026, 3, 29, 0, 10, tzinfo=UTC)
    times = Timetable(Interval(timedelta(minutes=45), anchor, zone_of("Europe/Berlin")))
    assert [slot.at for slot in slots(times, anchor - timedelta(days=3), 3)] == [
        anchor,
        anchor + timedelta(minutes=45),
        anchor + timedelta(minutes=90),
    ]
    later = times.after(anchor + timedelta(days=1000, seconds=1))
    assert later is not None
    assert (later.at - anchor) % timedelta(minutes=45) == timedelta(0)
    assert f"{later.wall:%z}" in ("+0100", "+0200")


def test_a_one_off_comes_once_by_the_same_rule() -> None:
    slot = slot_of(datetime(2026, 3, 29, 2, 30), zone_of("Europe/Berlin"))  # noqa: DTZ001
    assert slot.at == datetime(2026, 3, 29, 1, tzinfo=UTC)
    once = Timetable(Once(slot))
    assert slots(once, datetime(2026, 1, 1, tzinfo=UTC), 3) == [slot]
    assert once.after(slot.at) is None


def test_the_start_is_included_and_the_end_is_not() -> None:
    start, end = datetime(2026, 6, 1, 12, tzinfo=UTC), datetime(2026, 6, 1, 12, 3, tzinfo=UTC)
    bounded = Timetable(CronTimes(parse("* * * * *"), zone_of("UTC")), start, end)
    assert [slot.at.minute for slot in slots(bounded, datetime(2020, 1, 1, tzinfo=UTC), 9)] == [0, 1, 2]


@given(st.integers(0, 3600), st.text(max_size=5))
def test_jitter_is_the_same_for_everybody_and_never_reaches_the_next_slot(seconds: int, key: str) -> None:
    timetable = cron("*/10 * * * *", "Europe/Berlin")
    found = slots(timetable, datetime(2026, 3, 29, tzinfo=UTC), 12)
    due = [timetable.due(slot, timedelta(seconds=seconds), key) for slot in found]
    assert due == [timetable.due(slot, timedelta(seconds=seconds), key) for slot in found]
    for slot, following, at in zip(found, found[1:], due, strict=False):
        assert slot.at <= at < following.at
        assert at - slot.at <= timedelta(seconds=seconds)


def test_jitter_spreads() -> None:
    timetable = cron("0 * * * *", "UTC")
    slot = timetable.after(datetime(2026, 1, 1, tzinfo=UTC))
    assert slot is not None
    late = sorted((timetable.due(slot, timedelta(minutes=10), key) - slot.at).total_seconds() for key in range(1000))
    assert late[0] < 10
    assert 250 < late[500] < 350
    assert 590 < late[-1] < 600


def test_a_slot_a_second_is_found_backwards_without_reading_years() -> None:
    every = cron("* * * * * *", "UTC")
    until = datetime(2026, 6, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    last = every.last(datetime(2020, 1, 1, tzinfo=UTC), until)
    assert last is not None
    assert last.at == until.replace(microsecond=0)
    assert every.last(until, until) is None


@pytest.mark.parametrize("name", ["", "Berlin", "europe/berlin", "../../etc/passwd", "localtime", "Factory", "UTC+1",
                                  "\x00", "x" * 10_000])  # fmt: skip
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ZoneUnknown, match="no IANA time zone"):
        zone_of(name)


def test_a_zone_that_is_misspelt_is_told_what_is_near() -> None:
    with pytest.raises(ZoneUnknown, match="near it are Europe/Berlin"):
        zone_of("Europe/Brelin")
    assert "Europe/Berlin" in zone_names()


@given(st.sampled_from(ZONES), starts)
def test_away_from_changes_it_is_what_another_implementation_says(zone: str, begin: datetime) -> None:
    """Noon is never skipped nor repeated in these zones but for Samoa's lost day, which lies before."""
    at = begin.replace(tzinfo=UTC)
    theirs = islice(CronSim("17 12 * * 1-5", at.astimezone(zone_of(zone))), 30)
    assert [slot.at for slot in slots(cron("17 12 * * 1-5", zone), at, 30)] == [each.astimezone(UTC) for each in theirs]
