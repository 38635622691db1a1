"""Whatever the clock does and whoever leads: each slot has one outcome, and no job is fired twice."""

from datetime import datetime, timedelta
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from shared.ledger import firing
from shared.ledger.schedules import plan_of
from shared.schedules.policies import Misfire, Plan
from shared.schedules.timetable import Slot
from tests.integration.toy.harness import Toy
from tests.integration.toy.scheduled import MINUTE, NOON, SECOND, Schedules

MOVES = st.lists(st.sampled_from([1, 7, 29, 30, 31, 90, 400, -1, -20, -45, -300]), min_size=1, max_size=8)
"""Minutes by which the clock goes on, or is set back."""


def follow(toy: Toy, beat: Schedules, moves: list[int], step: timedelta) -> datetime:
    """A leader looks after each move, and goes back as one does that sees the clock set back; answers the latest time
    that the clock showed."""
    now = latest = NOON
    for minutes in moves:
        was, now = now, max(NOON, now + minutes * step)
        if now < was - SECOND:
            with toy.connect() as connection:
                firing.rearm(connection, now)
        beat.fire(now)
        latest = max(latest, now)
    return latest


def rename(toy: Toy, beat: Schedules, made: UUID, id: UUID) -> Plan:
    """Gives the schedule the id by which its jitter is drawn, the same in each run of an example."""
    toy.execute("UPDATE schedule SET id = %s WHERE id = %s", id, made)
    row = beat.row(id)
    plan, first = plan_of(row), Slot(row["next_slot"], row["next_slot"])
    toy.execute("UPDATE schedule SET next_at = %s WHERE id = %s", plan.due(first), id)
    return plan


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(moves=[1, 29, -1, 90], jitter=0, id=UUID(int=1))
@example(moves=[400, 30, -45, 400, 7, -300, -300, 1], jitter=0, id=UUID(int=1))
@given(moves=MOVES, jitter=st.sampled_from([0, 600]), id=st.uuids())
def test_each_slot_has_an_outcome_and_one_job_at_most(
    toy: Toy, misfire: Misfire, moves: list[int], jitter: int, id: UUID
) -> None:
    for table in ("schedule", "slot", "job"):
        toy.execute(f"DELETE FROM {table}")
    beat = Schedules(toy)
    made = beat.make(cron="*/30 * * * *", misfire=misfire, window_seconds=7 * 86_400, jitter_seconds=jitter)
    plan = rename(toy, beat, made, id)
    latest = follow(toy, beat, moves, MINUTE)
    beat.fire(latest)
    slots = beat.slots(id)
    fired = [slot["at"] for slot in slots if slot["outcome"] == "fired"]
    spans = [(slot["at"], slot["through"] or slot["at"]) for slot in slots if slot["outcome"] == "skipped"]
    slot = plan.after(NOON - SECOND)
    while slot is not None and plan.due(slot) <= latest:
        assert slot.at in fired or any(first <= slot.at <= last for first, last in spans), slot
        assert misfire != "all" or slot.at in fired
        slot = plan.after(slot.at)
    assert not [at for at in fired for first, last in spans if first <= at <= last], "a slot both fired and skipped"
    assert len(fired) == len(set(fired)) == len(beat.jobs(id)) == beat.row(id)["fired"]
    assert all(plan.due(each) <= latest for each in map(plan.after, (at - SECOND for at in fired)) if each)
