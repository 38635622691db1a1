"""Firing schedules on a real database, at the times of a clock that the test sets."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from shared import ids, telemetry
from shared.db import Database, raw
from shared.ledger import firing, schedules
from shared.ledger.requests import KindPrivate
from shared.ledger.schedules import NeverFires, NotRunnable, job_id
from shared.ledger.tasks import Tasks
from shared.schedules.policies import SLOTS_A_LOOK
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Asked
from tests.integration.toy.scheduled import HOUR, MINUTE, NOON, SECOND, Schedules


@pytest.fixture
def beat(toy: Toy) -> Schedules:
    return Schedules(toy)


# One slot, one job


def test_a_due_schedule_fires_a_job_of_its_workspace_in_a_run_of_its_own(toy: Toy, beat: Schedules) -> None:
    id = beat.make(args={"count": 7})
    assert beat.fire(NOON + SECOND) == 1
    [job] = beat.jobs(id)
    assert job["id"] == job_id(id, NOON)
    assert (job["kind"], job["args"]["count"], job["workspace"]) == (Asked.kind, 7, toy.workspace)
    assert (job["cause"], job["cause_id"], job["state"]) == ("schedule", id, "queued")
    [slot] = beat.slots(id)
    assert (slot["id"], slot["at"], slot["outcome"], slot["run"]) == (job["id"], NOON, "fired", job["run"])
    row = beat.row(id)
    assert (row["fired"], row["last_job"], row["next_slot"]) == (1, job["id"], NOON + MINUTE)


def test_its_jobs_go_in_the_lane_that_it_says(toy: Toy, beat: Schedules) -> None:
    """When they are due, when they have waited for another, and when somebody asks."""
    made = {lane: beat.make(lane=lane, overlap="queue") for lane in ("urgent", "bulk", None)}
    for minute in (0, 1):
        beat.fire(NOON + minute * MINUTE)
    for id in made.values():
        beat.run(beat.jobs(id)[0]["id"])
    beat.fire(NOON + MINUTE)
    for id in made.values():
        with toy.database.transaction() as session:
            schedules.run_now(raw(session), beat.tasks, toy.workspace, id, ids.draw(), ids.draw())
    found = {lane: [job["priority"] for job in beat.jobs(id)] for lane, id in made.items()}
    assert found == {"urgent": [0] * 3, "bulk": [9] * 3, None: [5] * 3}


def test_it_fires_once_and_then_waits(beat: Schedules) -> None:
    id = beat.make()
    assert [beat.fire(NOON - SECOND), beat.fire(NOON), beat.fire(NOON), beat.fire(NOON + 59 * SECOND)] == [0, 1, 0, 0]
    assert len(beat.jobs(id)) == 1


def test_each_fire_has_a_trace_of_its_own(beat: Schedules) -> None:
    telemetry.start("toy")
    try:
        id = beat.make()
        beat.fire(NOON)
        beat.fire(NOON + MINUTE)
    finally:
        telemetry.stop()
    first, second = (telemetry.trace_of(job["traceparent"]) for job in beat.jobs(id))
    assert first
    assert second
    assert first != second


def test_a_one_off_fires_and_has_ended(beat: Schedules) -> None:
    id = beat.make(at="2026-06-01T14:30:00", zone="Europe/Berlin")
    beat.fire(NOON)
    assert beat.jobs(id) == []
    beat.fire(NOON + 30 * MINUTE)
    assert beat.minutes(id) == [30]
    assert (beat.row(id)["state"], beat.row(id)["next_at"]) == ("ended", None)


def test_an_interval_counts_from_its_start(beat: Schedules) -> None:
    id = beat.make(every_seconds=90, start="2026-06-01T12:01:00Z", end="2026-06-01T12:05:00Z")
    for seconds in range(0, 600, 10):
        beat.fire(NOON + seconds * SECOND)
    assert beat.minutes(id) == [1, 2.5, 4]
    assert beat.row(id)["state"] == "ended"


def test_times_are_those_of_the_zone_also_when_the_clock_is_changed(beat: Schedules) -> None:
    id = beat.make(datetime(2026, 3, 28, tzinfo=UTC), cron="30 2 * * *", zone="Europe/Berlin")
    for day in range(3):
        beat.fire(datetime(2026, 3, 28 + day, 4, tzinfo=UTC))
    assert [f"{row['at'].astimezone(UTC):%d %H:%M}" for row in beat.slots(id) if row["outcome"] == "fired"] == [
        "28 01:30",
        "29 01:00",  # 02:30 does not exist
        "30 00:30",
    ]


def test_jitter_is_kept_and_is_the_same_for_every_beat(beat: Schedules) -> None:
    id = beat.make(cron="0 * * * *", jitter_seconds=600)
    due = beat.row(id)["next_at"]
    assert NOON < due < NOON + 10 * MINUTE
    assert beat.fire(due - timedelta(milliseconds=1)) == 0
    assert beat.fire(due) == 1
    [slot] = beat.slots(id)
    assert (slot["at"], slot["due_at"]) == (NOON, due)


def test_one_transaction_takes_a_bounded_time(beat: Schedules, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [beat.make() for _ in range(5)]
    monkeypatch.setattr(firing, "ROUND_SECONDS", -1.0)
    with toy.connect() as connection:
        assert [firing.fire_due(connection, beat.tasks, NOON) for _ in range(6)] == [1, 1, 1, 1, 1, 0]
    assert [beat.minutes(id) for id in made] == [[0]] * 5


# Two at once, and what dies


def test_two_leaders_at_once_fire_each_slot_once(beat: Schedules, toy: Toy) -> None:
    """As a frozen leader and its successor would, were it not for the lock on the lead."""
    made = [beat.make(every_seconds=60) for _ in range(120)]
    moments = [NOON + n * 20 * SECOND for n in range(10)]
    failed: list[BaseException] = []

    def lead() -> None:
        try:
            with toy.connect() as connection:
                for now in moments:
                    while firing.fire_due(connection, beat.tasks, now, limit=7):
                        pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=lead) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    beat.fire(moments[-1])
    assert {id: beat.minutes(id) for id in made} == {id: [0, 1, 2, 3] for id in made}
    assert len(toy.execute("SELECT id FROM job")) == 4 * len(made)


def test_dying_before_the_commit_fires_nothing_and_the_next_leader_does(
    beat: Schedules, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = beat.make()
    real = firing.write_slots

    def die(connection: psycopg.Connection, rows: list) -> set[UUID]:
        found = real(connection, rows)
        toy.execute("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        return found

    monkeypatch.setattr(firing, "write_slots", die)
    with pytest.raises(psycopg.OperationalError):
        beat.fire(NOON)
    monkeypatch.undo()
    assert (beat.jobs(id), beat.slots(id)) == ([], [])
    beat.fire(NOON + SECOND)
    assert beat.minutes(id) == [0]


def test_a_slot_that_fired_does_not_fire_again_wherever_the_schedule_stands(beat: Schedules, toy: Toy) -> None:
    id = beat.make()
    beat.fire(NOON)
    toy.execute("UPDATE schedule SET next_slot = %s, next_at = %s", NOON, NOON)
    beat.fire(NOON + SECOND)
    assert len(beat.jobs(id)) == 1
    assert beat.row(id)["fired"] == 1


def test_a_row_that_somebody_changes_is_passed_over(beat: Schedules, open_toy: Callable[[], Database]) -> None:
    held, free = beat.make(), beat.make()
    with open_toy().connect() as other, other.transaction():
        other.execute("SELECT 1 FROM schedule WHERE id = %s FOR UPDATE", (held,))
        beat.fire(NOON)
        assert (len(beat.jobs(held)), len(beat.jobs(free))) == (0, 1)
    beat.fire(NOON)
    assert len(beat.jobs(held)) == 1


# A clock that is set


def test_a_clock_set_back_a_little_fires_nothing_twice_and_misses_nothing(beat: Schedules) -> None:
    id = beat.make()
    for seconds in (0, 60, 120, 90, 60, 100, 119, 120, 180):
        beat.fire(NOON + seconds * SECOND)
    assert beat.minutes(id) == [0, 1, 2, 3]


def test_a_clock_that_was_a_year_ahead_does_not_silence_schedules(beat: Schedules, toy: Toy) -> None:
    id, once = beat.make(misfire="skip"), beat.make(at="2026-06-01T12:02:00Z", misfire="skip")
    beat.fire(NOON)
    beat.fire(NOON + timedelta(days=365, seconds=1))
    assert beat.row(id)["next_slot"] > NOON + timedelta(days=364)
    assert beat.row(once)["state"] == "ended"
    with toy.connect() as connection:
        assert firing.rearm(connection, NOON + SECOND) == 2
        assert firing.rearm(connection, NOON + SECOND) == 0
    for minutes in (1, 2, 3):
        beat.fire(NOON + minutes * MINUTE)
    assert beat.minutes(id) == [0, 1, 2, 3, 365 * 24 * 60]
    assert beat.minutes(once) == [2], "it was skipped for being a year late, and is not late any more"


def test_a_paused_one_goes_back_with_the_clock_and_stays_paused(beat: Schedules, toy: Toy) -> None:
    id = beat.make()
    beat.fire(NOON + timedelta(days=365))
    beat.change(schedules.pause, id, NOON + timedelta(days=365))
    with toy.connect() as connection:
        firing.rearm(connection, NOON + 30 * SECOND)
    assert (beat.row(id)["state"], beat.row(id)["next_slot"]) == ("paused", NOON + MINUTE)
    beat.change(schedules.resume, id, NOON + 90 * SECOND)
    beat.fire(NOON + 2 * MINUTE)
    assert 2 in beat.minutes(id)


def test_what_fired_while_the_clock_was_ahead_does_not_fire_again(beat: Schedules, toy: Toy) -> None:
    id = beat.make()
    for minutes in range(5):
        beat.fire(NOON + minutes * MINUTE)
    with toy.connect() as connection:
        firing.rearm(connection, NOON)
    for minutes in range(7):
        beat.fire(NOON + minutes * MINUTE)
    assert beat.minutes(id) == [0, 1, 2, 3, 4, 5, 6]
    assert beat.row(id)["fired"] == 7


# Misfires


def test_what_was_missed_is_skipped_and_said(beat: Schedules) -> None:
    id = beat.make(misfire="skip")
    beat.fire(NOON + 10 * MINUTE + SECOND)
    assert beat.minutes(id) == [9 + 1]
    [missed, _] = beat.slots(id)
    assert (missed["outcome"], missed["at"], missed["through"]) == ("skipped", NOON, NOON + 9 * MINUTE)
    assert (missed["slots"], missed["reason"]["code"]) == (10, "schedule.missed")


def test_once_stands_for_all_that_was_missed(beat: Schedules) -> None:
    id = beat.make(cron="0 * * * *", misfire="once")
    beat.fire(NOON + 3 * HOUR + 30 * MINUTE)
    assert beat.minutes(id) == [180]
    assert beat.outcomes(id) == ["skipped", "fired"]


def test_all_within_the_window_fire(beat: Schedules) -> None:
    id = beat.make(misfire="all", window_seconds=300)
    beat.fire(NOON + HOUR)
    assert beat.minutes(id) == [55, 56, 57, 58, 59, 60]


def test_a_backlog_of_slots_is_worked_off_in_parts(beat: Schedules) -> None:
    id = beat.make(cron="* * * * * *", misfire="all", window_seconds=3600)
    beat.fire(NOON + 20 * MINUTE)
    assert len(beat.jobs(id)) == 1201 > 2 * SLOTS_A_LOOK


# Rows that cannot be fired


def test_a_row_that_is_broken_stops_itself_alone_and_says_why(beat: Schedules, toy: Toy) -> None:
    bad = {beat.make(): statement for statement in (
        "cron = 'nonsense'", "zone = 'Mars/Olympus'", "kind = 'toy.gone.do'", "kind = 'toy.thing.do'",
        "args = '{\"count\": \"x\"}'")}  # fmt: skip
    good = [beat.make() for _ in range(3)]
    for id, statement in bad.items():
        toy.execute(f"UPDATE schedule SET {statement} WHERE id = %s", id)
    beat.fire(NOON)
    assert [beat.minutes(id) for id in good] == [[0]] * 3
    assert [beat.row(id)["state"] for id in bad] == ["broken"] * 5
    codes = [beat.row(id)["reason"]["code"] for id in bad]
    assert codes == [
        "schedule.broken",
        "schedule.broken",
        "job.kind_unknown",
        "job.kind_private",
        "job.arguments_invalid",
    ]
    assert "5 fields are needed" in beat.row(next(iter(bad)))["reason"]["detail"]


def test_a_row_that_cannot_be_written_stops_itself_alone(
    beat: Schedules, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = beat.make(), beat.make()
    real = firing.fired_job

    def spoil(row, args, job, run):
        owed = real(row, args, job, run)
        return owed | {"queue": None} if row["id"] == bad else owed

    monkeypatch.setattr(firing, "fired_job", spoil)
    beat.fire(NOON)
    assert beat.minutes(good) == [0]
    assert beat.row(bad)["state"] == "broken"
    assert beat.jobs(bad) == []


def test_a_kind_that_an_older_beat_does_not_know_goes_on_with_the_newer_one(beat: Schedules, toy: Toy) -> None:
    id = beat.make()
    Schedules(toy, Tasks()).fire(NOON)
    assert beat.row(id)["state"] == "broken"
    with toy.connect() as connection:
        firing.Firer(toy.database, beat.tasks).fire(connection)  # what a leader does first
    assert beat.row(id)["state"] == "active"


# Paused, resumed, changed


def test_a_paused_schedule_fires_nothing_and_says_what_it_left_out(beat: Schedules) -> None:
    id = beat.make()
    beat.fire(NOON)
    beat.change(schedules.pause, id, NOON + SECOND)
    assert beat.fire(NOON + 10 * MINUTE) == 0
    beat.change(schedules.resume, id, NOON + 10 * MINUTE + SECOND)
    beat.fire(NOON + 11 * MINUTE)
    assert beat.minutes(id) == [0, 11]
    skipped = beat.slots(id)[1]
    assert (skipped["at"], skipped["through"]) == (NOON + MINUTE, NOON + 10 * MINUTE)
    assert (skipped["slots"], skipped["reason"]["code"]) == (10, "schedule.paused")


def test_pausing_and_resuming_between_two_slots_leaves_nothing_out(beat: Schedules) -> None:
    id = beat.make()
    beat.fire(NOON)
    for act in (schedules.pause, schedules.pause, schedules.resume, schedules.resume):
        beat.change(act, id, NOON + SECOND)
    beat.fire(NOON + MINUTE)
    assert beat.minutes(id) == [0, 1]


def test_a_one_off_whose_time_passed_while_it_was_paused_has_ended(beat: Schedules) -> None:
    id = beat.make(at="2026-06-01T12:10:00Z")
    beat.change(schedules.pause, id, NOON)
    assert beat.change(schedules.resume, id, NOON + HOUR)["state"] == "ended"
    assert beat.outcomes(id) == ["skipped"]
    with pytest.raises(NotRunnable):
        beat.change(schedules.resume, id, NOON + HOUR)
    with pytest.raises(NotRunnable):
        beat.change(schedules.pause, id, NOON + HOUR)


def test_a_time_that_is_over_is_refused(beat: Schedules) -> None:
    with pytest.raises(NeverFires):
        beat.make(at="2026-06-01T11:59:59Z")
    with pytest.raises(NeverFires):
        beat.make(end="2026-06-01T12:00:00Z", cron="0 13 * * *")
    with pytest.raises(KindPrivate):
        beat.make(kind="toy.thing.do", args={})


def test_run_now_fires_besides_the_slots(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="skip")
    job, run = ids.draw(), ids.draw()
    with toy.database.transaction() as session:
        schedules.run_now(raw(session), beat.tasks, toy.workspace, id, job, run)
    assert (toy.job(job)["run"], toy.job(job)["cause_id"]) == (run, id)
    assert beat.row(id)["next_slot"] == NOON
    beat.fire(NOON)
    assert Counter(beat.outcomes(id)) == {"fired": 1, "skipped": 1}, "the job that was asked for is unfinished"
