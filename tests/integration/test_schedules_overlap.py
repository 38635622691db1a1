"""What a schedule does while an earlier job of it is unfinished."""

import time
from collections import Counter

import pytest

from shared.ledger import firing, moves
from shared.ledger.firing import WAITING_SLOTS
from shared.ledger.schedules import job_id
from tests.integration.toy.harness import Toy
from tests.integration.toy.scheduled import MINUTE, NOON, SECOND, Schedules


@pytest.fixture
def beat(toy: Toy) -> Schedules:
    return Schedules(toy)


def test_allow_runs_them_beside_each_other(beat: Schedules) -> None:
    id = beat.make()
    beat.fire(NOON)
    beat.fire(NOON + MINUTE)
    assert [job["state"] for job in beat.jobs(id)] == ["queued", "queued"]


def test_skip_leaves_out_what_comes_while_a_job_is_unfinished(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="skip")
    beat.fire(NOON)
    beat.fire(NOON + MINUTE)
    [_, skipped] = beat.slots(id)
    assert (skipped["outcome"], skipped["reason"]["code"]) == ("skipped", "schedule.overlap")
    assert skipped["reason"]["jobs"] == [str(job_id(id, NOON))]
    beat.run(job_id(id, NOON))
    beat.fire(NOON + 2 * MINUTE)
    assert beat.minutes(id) == [0, 2]


def test_skip_fires_one_of_several_that_are_due_at_once(beat: Schedules) -> None:
    id = beat.make(cron="* * * * * *", overlap="skip")
    beat.fire(NOON + 5 * SECOND)
    assert beat.outcomes(id) == ["fired", *["skipped"] * 5]


def test_queue_fires_one_behind_the_other(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="queue")
    for minute in range(3):
        beat.fire(NOON + minute * MINUTE)
    assert beat.outcomes(id) == ["fired", "waiting", "waiting"]
    assert beat.row(id)["waiting"] == 2
    for minute in range(3):
        jobs = beat.jobs(id)
        assert [job["id"] for job in jobs][-1] == job_id(id, NOON + minute * MINUTE)
        beat.run(jobs[-1]["id"])
        beat.fire(NOON + 3 * MINUTE - SECOND)
    assert beat.minutes(id) == [0, 1, 2]
    assert (beat.row(id)["waiting"], beat.row(id)["fired"]) == (0, 3)


def test_the_queue_of_a_schedule_is_bounded(beat: Schedules) -> None:
    id = beat.make(cron="* * * * * *", overlap="queue")
    beat.fire(NOON + 59 * SECOND)
    beat.fire(NOON + 110 * SECOND)
    assert Counter(beat.outcomes(id)) == {"fired": 1, "waiting": WAITING_SLOTS, "skipped": 10}
    assert beat.slots(id)[-1]["reason"]["code"] == "schedule.queue_full"


def test_cancel_takes_the_place_of_a_job_that_waits(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="cancel")
    beat.fire(NOON)
    beat.fire(NOON + MINUTE)
    assert [job["state"] for job in beat.jobs(id)] == ["cancelled", "queued"]
    assert beat.outcomes(id) == ["fired", "fired"]
    assert "its schedule s1, whose next fire takes its place" in beat.jobs(id)[0]["error"]["detail"]


def test_cancel_takes_the_place_of_a_job_that_runs_and_nothing_of_that_commits(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="cancel")
    beat.fire(NOON)
    toy.hurry()
    [claimed] = toy.claim(job_id(id, NOON))
    beat.fire(NOON + MINUTE)
    assert [job["state"] for job in beat.jobs(id)] == ["cancelled", "queued"]
    with toy.connect() as connection:
        assert moves.succeed(connection, [moves.Finished(claimed.id, claimed.attempt)]) == set()


def test_cancel_fires_the_last_of_several_that_are_due_at_once(beat: Schedules) -> None:
    id = beat.make(cron="* * * * * *", overlap="cancel")
    beat.fire(NOON + 5 * SECOND)
    assert beat.outcomes(id) == [*["skipped"] * 5, "fired"]
    assert beat.slots(id)[0]["reason"]["code"] == "schedule.replaced"


def test_a_newer_fire_replaces_one_that_waits_for_the_job_to_end(
    beat: Schedules, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader may die between the two: what it had begun goes on with the next."""
    id = beat.make(overlap="cancel")
    beat.fire(NOON)
    with monkeypatch.context() as patched:
        patched.setattr(firing, "make_way", lambda *_: 0)
        beat.fire(NOON + MINUTE)
        beat.fire(NOON + 2 * MINUTE)
    assert beat.outcomes(id) == ["fired", "skipped", "waiting"]
    assert beat.row(id)["waiting"] == 1
    beat.fire(NOON + 2 * MINUTE + SECOND)
    assert beat.outcomes(id) == ["fired", "skipped", "fired"]
    assert [job["state"] for job in beat.jobs(id)] == ["cancelled", "queued"]


def test_what_waits_fires_also_when_the_schedule_has_ended(beat: Schedules, toy: Toy) -> None:
    id = beat.make(overlap="queue", end="2026-06-01T12:01:30Z")
    beat.fire(NOON)
    beat.fire(NOON + MINUTE)
    assert (beat.row(id)["state"], beat.row(id)["waiting"]) == ("ended", 1)
    beat.run(job_id(id, NOON))
    beat.fire(NOON + 5 * MINUTE)
    assert beat.minutes(id) == [0, 1]


def test_jobs_that_somebody_holds_are_not_waited_for_and_hold_up_no_other(beat: Schedules, toy: Toy) -> None:
    held = [beat.make(overlap="cancel") for _ in range(14)]
    beat.fire(NOON)
    with toy.connect() as holder, holder.transaction():
        holder.execute("SELECT 1 FROM job FOR UPDATE")
        free = beat.make(NOON, overlap="cancel")
        beat.fire(NOON)
        with toy.connect() as connection:
            firing.fire_due(connection, beat.tasks, NOON + MINUTE)
            began = time.monotonic()
            assert firing.make_way(toy.database, connection, beat.tasks) == 1
            assert time.monotonic() - began < 5, "14 locks were not waited for"
    assert [beat.jobs(id)[0]["state"] for id in (free, *held)] == ["cancelled", *["queued"] * 14]
    beat.fire(NOON + MINUTE)
    assert {tuple(beat.outcomes(id)) for id in (free, *held)} == {("fired", "fired")}


def test_making_way_takes_a_bounded_time_and_speaks_between_jobs(
    beat: Schedules, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [beat.make(overlap="cancel") for _ in range(3)]
    beat.fire(NOON)
    with toy.connect() as connection:
        firing.fire_due(connection, beat.tasks, NOON + MINUTE)
        monkeypatch.setattr(firing, "ROUND_SECONDS", -1.0)
        assert [firing.make_way(toy.database, connection, beat.tasks) for _ in range(4)] == [1, 1, 1, 0]
        assert [firing.release(connection, beat.tasks, NOON + MINUTE) for _ in range(4)] == [1, 1, 1, 0]
        firing.fire_due(connection, beat.tasks, NOON + 2 * MINUTE)
        firing.make_way(toy.database, connection, beat.tasks)
        [said] = toy.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", connection.info.backend_pid)
    assert said["query"] == "SELECT 1"
    assert {tuple(beat.outcomes(id))[:2] for id in made} == {("fired", "fired")}
