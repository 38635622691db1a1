"""The judge of schedules sees what was missed, what fired twice, what nobody asked for, and how late each slot was."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from infra.chaos.schedules import TIMINGS, Made, find
from shared import ids
from shared.schedules.request import Timing
from tests.unit.chaos_told import Told, keep, report

BEGIN = 1_800_000_000
END = BEGIN + 9
THIRD = Made(7, "id", TIMINGS["each third second"], BEGIN)
DUE = [BEGIN, BEGIN + 3, BEGIN + 6, BEGIN + 9]


def fire(second, late=0.1, number=7):
    job = ids.derive(datetime.fromtimestamp(second, UTC), uuid4(), "slot")
    return {"job": str(job), "number": number, "at": second + late}


def found(*fires):
    return find([THIRD], fires, END)


def test_each_slot_once_is_right():
    seen = found(*(fire(second, late) for second, late in zip(DUE, (0, 0.5, 4, 1), strict=True)))
    assert seen.due == [(7, second) for second in DUE]
    assert (seen.missed, seen.twice, seen.unasked) == ([], [], [])
    assert [late for _, late in seen.late] == pytest.approx([0, 0.5, 4, 1])


def test_a_slot_without_a_job_is_missed_and_one_of_two_fired_twice():
    seen = found(fire(DUE[0]), fire(DUE[0], late=20), fire(DUE[2]), fire(DUE[3]))
    assert (seen.missed, seen.twice) == ([(7, DUE[1])], [(7, DUE[0])])
    assert max(late for _, late in seen.late) == pytest.approx(0.1), "the first of them was in time"


def test_what_is_of_no_slot_or_before_its_time_was_not_asked_for():
    wrong = [fire(DUE[0] + 1), fire(DUE[1] + 0.5), fire(DUE[1], late=-0.2), fire(DUE[0], number=8), fire(BEGIN - 3)]
    assert found(*wrong).unasked == [each["job"] for each in wrong]


def test_what_fell_due_after_the_end_does_not_count():
    assert found(*map(fire, DUE), fire(END + 3), fire(END + 3)) == found(*map(fire, DUE))


@pytest.mark.parametrize("name", TIMINGS)
def test_what_is_asked_for_is_what_is_computed(name):
    """Here alone they meet: the definition that the API gets, and the seconds that the harness expects."""
    timing, slots = TIMINGS[name], []
    made = Made(1, "id", timing, BEGIN)
    first = datetime.fromtimestamp(timing.first(BEGIN), UTC)
    timetable = Timing(**timing.asked, start=first).timetable(first)
    slot = timetable.after(datetime.fromtimestamp(BEGIN - 1, UTC))
    while slot.at.timestamp() <= BEGIN + 120:
        slots.append(slot.at.timestamp())
        slot = timetable.after(slot.at)
    assert slots == list(made.due(BEGIN + 120))


@pytest.fixture
def kept(tmp_path):
    return keep(Told(tmp_path))


def test_slots_count_and_their_jobs_are_owed_like_others(kept):
    kept.schedule(30)
    found = report(kept)
    assert (found["broken"], found["schedule_slots"], found["accepted"]) == ([], 11, 12)
    assert (found["fire_late_p99_s"], found["faults"][0]["fire_late_max_s"]) == (0.5, 0.5)


def miss(told, number):
    told.fired.pop(0)


def fire_twice(told, number):
    told.fire(number, 3)


def fire_unasked(told, number):
    told.fire(number, 4)


def lose_a_fire(told, number):
    told.had.pop()


def repeat_a_fire(told, number):
    told.had.append(told.had[-1])


def fire_late(told, number):
    told.fired[0]["at"] = 15.1


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (miss, "slots_missed is 1"),
        (fire_twice, "slots_fired_twice is 1"),
        (fire_unasked, "slots_unasked is 1"),
        (lose_a_fire, "lost is 1"),
        (repeat_a_fire, "duplicated_effects is 1"),
        (fire_late, "part: a schedule fired 15.1 s late, more than 15 s"),
    ],
)
def test_what_a_schedule_does_wrong_breaks_the_run(kept, act, said):
    act(kept, kept.schedule(30))
    assert report(kept)["broken"] == [said]


def test_where_no_beat_was_alive_schedules_fire_later(kept):
    fire_late(kept, kept.schedule(30))
    assert report(kept, beatless_seconds=12.0)["broken"] == []


def test_schedules_of_which_no_slot_fell_due_were_none(kept):
    kept.schedules = True
    assert report(kept)["broken"] == ["no schedule's slot fell due"]
