"""What is fired of slots that nobody fired in time."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.schedules.cron import parse
from shared.schedules.policies import COUNTED, SLOTS_A_LOOK, Look, Misfire, Missed, Plan, look, undecided
from shared.schedules.timetable import CronTimes, Timetable, zone_of

BEGIN = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def plan(
    misfire: Misfire,
    cron: str = "* * * * *",
    grace: timedelta = MINUTE,
    window: timedelta = 10 * MINUTE,
    end: datetime | None = None,
    jitter: timedelta = timedelta(0),
) -> Plan:
    return Plan(Timetable(CronTimes(parse(cron), zone_of("UTC")), None, end), jitter, misfire, grace, window, "key")


def looked(given: Plan, now: datetime) -> Look:
    first = given.after(BEGIN - SECOND)
    assert first is not None
    return look(given, first, now)


def fired(found: Look) -> list[int]:
    """Minutes after BEGIN."""
    return [int((slot.at - BEGIN) / MINUTE) for slot in found.fire]


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_in_time_it_fires_whatever_the_policy(misfire: Misfire) -> None:
    found = looked(plan(misfire), BEGIN + 3 * SECOND)
    assert (fired(found), found.missed) == ([0], None)
    assert found.next is not None
    assert found.next.at == BEGIN + MINUTE


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_what_is_late_by_less_than_the_grace_fires_each(misfire: Misfire) -> None:
    """A takeover takes seconds and misses nothing, also of a schedule that fires every second."""
    found = looked(plan(misfire, "* * * * * *"), BEGIN + 15 * SECOND)
    assert len(found.fire) == 16
    assert found.missed is None


def test_skip_leaves_out_what_was_missed() -> None:
    found = looked(plan("skip"), BEGIN + 10 * MINUTE + 30 * SECOND)
    assert fired(found) == [10]
    assert found.missed is not None
    assert (found.missed.first, found.missed.last, found.missed.slots) == (BEGIN, BEGIN + 9 * MINUTE, 10)


def test_skip_fires_nothing_when_all_was_missed() -> None:
    found = looked(plan("skip", "0 * * * *"), BEGIN + 90 * MINUTE)
    assert fired(found) == []
    assert found.missed is not None
    assert found.missed.slots == 2
    assert found.next is not None
    assert found.next.at == BEGIN + 120 * MINUTE


def test_once_makes_up_for_all_by_the_last() -> None:
    found = looked(plan("once", "0 * * * *"), BEGIN + 190 * MINUTE)
    assert fired(found) == [180]
    assert found.missed is not None
    assert (found.missed.last, found.missed.slots) == (BEGIN + 120 * MINUTE, 3)


def test_once_needs_nothing_more_when_a_newer_one_fires_in_time() -> None:
    found = looked(plan("once"), BEGIN + 10 * MINUTE + 30 * SECOND)
    assert fired(found) == [10]
    assert found.missed is not None
    assert found.missed.slots == 10


def test_once_with_one_missed_leaves_nothing_out() -> None:
    found = looked(plan("once", "0 * * * *"), BEGIN + 30 * MINUTE)
    assert (fired(found), found.missed) == ([0], None)


def test_all_fires_each_within_the_window() -> None:
    found = looked(plan("all"), BEGIN + 30 * MINUTE)
    assert fired(found) == list(range(20, 31))
    assert found.missed is not None
    assert (found.missed.last, found.missed.slots) == (BEGIN + 19 * MINUTE, 20)


def test_a_window_that_is_shorter_than_the_grace_takes_nothing_from_it() -> None:
    found = looked(plan("all", window=timedelta(0)), BEGIN + 30 * SECOND)
    assert fired(found) == [0]


def test_very_many_are_taken_in_parts() -> None:
    given = plan("all", "* * * * * *", window=timedelta(days=1))
    found = looked(given, BEGIN + timedelta(hours=1))
    assert len(found.fire) == SLOTS_A_LOOK
    assert found.next is not None
    assert look(given, found.next, BEGIN + timedelta(hours=1)).fire[0].at == BEGIN + SLOTS_A_LOOK * SECOND


@pytest.mark.parametrize("misfire", ["skip", "once"])
@pytest.mark.parametrize("jitter", [timedelta(0), timedelta(hours=1)])
def test_a_week_of_seconds_is_jumped_over(misfire: Misfire, jitter: timedelta) -> None:
    now = BEGIN + timedelta(days=7)
    found = looked(plan(misfire, "* * * * * *", grace=2 * SECOND, jitter=jitter), now)
    assert found.missed is not None
    assert (found.missed.first, found.missed.slots) == (BEGIN, None)
    assert found.fire[0].at == found.missed.last + SECOND
    assert 2 <= len(found.fire) <= 3
    assert found.next is not None
    assert found.next.at > now - 2 * SECOND


def test_once_after_more_than_is_counted_fires_the_last() -> None:
    given = plan("once", "* 12 * * *", end=BEGIN + timedelta(days=100))
    found = looked(given, BEGIN + timedelta(days=200))
    last = BEGIN + timedelta(days=99, minutes=59)
    assert [slot.at for slot in found.fire] == [last]
    assert found.missed is not None
    assert (found.missed.last, found.missed.slots) == (last - MINUTE, None)
    assert found.next is None
    assert COUNTED < 6000


def test_the_last_slot_ends_it() -> None:
    found = looked(plan("once", end=BEGIN + 2 * MINUTE), BEGIN + MINUTE)
    assert (fired(found), found.next) == ([0, 1], None)


def test_lateness_counts_from_the_jittered_time() -> None:
    given = plan("skip", "0 * * * *", jitter=50 * MINUTE, grace=SECOND)
    first = given.after(BEGIN - SECOND)
    assert first is not None
    due = given.due(first)
    assert due > BEGIN + MINUTE
    assert looked(given, due - SECOND).fire == []
    assert looked(given, due + SECOND / 2).fire == [first]
    assert looked(given, due + 2 * SECOND).fire == []


@pytest.mark.parametrize(
    ("decided", "left"),
    [
        ([], [(0, 9, 10)]),
        ([4], [(0, 3, 4), (5, 9, 5)]),
        ([0, 1, 9], [(2, 8, 7)]),
        ([2, 3, 5], [(0, 1, 2), (4, 4, 1), (6, 9, 4)]),
        (list(range(10)), []),
    ],
)
@pytest.mark.parametrize("is_counted", [True, False])
def test_what_was_decided_before_is_cut_out_of_what_was_missed(
    decided: list[int], left: list[tuple[int, int, int]], is_counted: bool
) -> None:
    missed = Missed(BEGIN, BEGIN + 9 * MINUTE, 10 if is_counted else None)
    found = undecided(plan("skip"), missed, [BEGIN + minute * MINUTE for minute in decided])
    expected = [
        Missed(BEGIN + first * MINUTE, BEGIN + last * MINUTE, slots if is_counted else None)
        for first, last, slots in left
    ]
    assert found == expected
