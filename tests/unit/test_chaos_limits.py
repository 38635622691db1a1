"""The judge of limits sees who was in too many, and what began too soon."""

import pytest

from infra.chaos.limits import BURST, CONCURRENCY, PER_SECOND, SLACK_SECONDS, hold, too_soon
from infra.chaos.record import Crash
from infra.probe.record import ENTERED, LEFT, RAN, Record

SECOND = 1_000_000_000
LEASE = 30.0
THINGS = dict.fromkeys(range(1, 10), "one") | {20: "other"}


def deed(kind, number, pid, at):
    return Record(kind, pid, number, 0, int(at * SECOND))


def crash(pid, at, **more):
    return Crash("part", int(at * SECOND), frozenset([pid]), **more)


def held(*deeds, crashes=(), taken=None):
    return hold(THINGS, deeds, crashes, taken or {}, LEASE)


def crowd(at, first=1):
    """As many as may be in the thing, each in a process of its number; they stay."""
    return [deed(ENTERED, number, number, at) for number in range(first, first + CONCURRENCY)]


def test_as_many_as_may_be_are_no_break_and_one_more_is():
    assert (held(*crowd(1)).most["one"], held(*crowd(1)).exceeded) == (CONCURRENCY, [])
    found = held(*crowd(1), deed(ENTERED, 9, 9, 2))
    assert (found.most["one"], found.exceeded) == (CONCURRENCY + 1, [9])


def test_another_thing_counts_by_itself():
    assert held(*crowd(1), deed(ENTERED, 20, 20, 2)).exceeded == []


def test_whoever_left_makes_room_at_that_instant():
    assert held(*crowd(1), deed(LEFT, 1, 1, 2), deed(ENTERED, 9, 9, 2)).exceeded == []


def test_a_process_that_goes_on_with_another_job_is_out():
    assert held(*crowd(1), deed(RAN, 77, 1, 2), deed(ENTERED, 9, 9, 3)).exceeded == []


def test_whoever_was_killed_is_out_from_then_on():
    later = deed(ENTERED, 9, 9, 3)
    assert held(*crowd(1), later, crashes=[crash(1, 2)]).exceeded == []
    assert held(*crowd(1), later, crashes=[crash(1, 4)]).exceeded == [9]
    assert held(*crowd(2), later, crashes=[crash(1, 1)]).exceeded == [9], "that was another process of the number"


def test_whoever_was_frozen_is_out_when_the_lease_can_be_lost():
    frozen = [crash(1, 2, frozen=True)]
    assert held(*crowd(1), deed(ENTERED, 9, 9, 2 + LEASE / 2 - 1), crashes=frozen).exceeded == [9]
    assert held(*crowd(1), deed(ENTERED, 9, 9, 2 + LEASE / 2), crashes=frozen).exceeded == []
    back = [deed(LEFT, 1, 1, 100), deed(ENTERED, 9, 9, 50)]
    assert held(*crowd(1), *back, crashes=frozen).exceeded == []


def test_whose_end_nobody_saw_is_out_when_the_ledger_took_its_job():
    later = deed(ENTERED, 9, 9, 5)
    assert held(*crowd(1), later, taken={1: [4 * SECOND]}).exceeded == []
    assert held(*crowd(1), later, taken={1: [6 * SECOND]}).exceeded == [9]
    assert held(*crowd(1), deed(LEFT, 1, 1, 6), later, taken={1: [4 * SECOND]}).exceeded == [9], "it was seen"


@pytest.mark.parametrize("seconds", [0.0, 3.0, 60.0])
def test_a_burst_and_what_comes_in_the_time_may_begin_and_no_more(seconds):
    allowed = int(BURST + PER_SECOND * (seconds + SLACK_SECONDS))
    steady = [(100 + number / PER_SECOND, number) for number in range(int(seconds * PER_SECOND))]
    burst = [(100 + seconds, 1000 + number) for number in range(allowed - len(steady))]
    assert too_soon([*steady, *burst]) == []
    assert too_soon([*steady, *burst, (100 + seconds, 5000)]) == [5000]


def test_a_long_pause_saves_up_no_more_than_a_burst():
    at_once = [(1000.0, number) for number in range(2 * BURST + 2)]
    assert len(too_soon([(1.0, 99), *at_once])) == 2 * BURST + 2 - int(BURST + PER_SECOND * SLACK_SECONDS)
