"""Batches: steps open one after the other, the last end is never missed, and every end has its reason."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import ids
from shared.db import Database
from shared.errors import NotFound
from shared.ledger import batches, leases, moves, redrive, steps
from shared.ledger.batches import CLOSED_AT, MOST_JOBS, enqueue_batch
from shared.ledger.enqueue import Origin
from shared.ledger.filters import JobFilter
from shared.ledger.moves import Finished
from shared.ledger.redrive import WrongState
from shared.testing.waiting import until
from tests.integration.toy.batches import Batches
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do

WAITING_FOR_LOCKS = "SELECT 1 FROM pg_stat_activity WHERE usename = user AND wait_event_type = 'Lock'"


@pytest.fixture
def made(toy: Toy) -> Batches:
    return Batches(toy)


# Steps


def test_a_step_opens_when_all_jobs_of_the_one_before_have_ended(made: Batches) -> None:
    batch = made.owe(["a", "b"], ["c"], ["d", "e"])
    [first, second], [third], last = batch.jobs
    assert made.due(batch) == [first, second]
    made.toy.run(made.tasks, first)
    assert made.go_on() == 0
    made.toy.run(made.tasks, second)
    assert made.due(batch) == []
    assert made.go_on() == 1
    assert made.due(batch) == [third]
    assert made.row(batch)["step"] == 2
    made.run_out(batch)
    assert made.states(batch) == [["succeeded"] * 2, ["succeeded"], ["succeeded"] * 2]
    row = made.row(batch)
    assert (row["state"], row["step"], row["reason"]) == ("succeeded", 3, None)
    assert row["finished_at"] is not None
    assert row["counts"] == [{"succeeded": 2}, {"succeeded": 1}, {"succeeded": 2}]
    assert last == batch.jobs[-1]


def test_a_chain_runs_in_its_order(made: Batches) -> None:
    batch = made.owe(*([name] for name in "abcdefghij"))
    order = []
    while due := made.due(batch):
        order += due
        made.run_due(batch)
        made.go_on()
    assert order == [job for [job] in batch.jobs]
    assert made.row(batch)["state"] == "succeeded"


def test_all_of_a_batch_is_owed_or_nothing(made: Batches) -> None:
    with made.toy.database.transaction(origin=Origin.request(made.toy.workspace)) as session:
        enqueue_batch(session, [[Do()], [Do()]])
        session.rollback()
    assert made.toy.execute("SELECT id FROM batch UNION ALL SELECT id FROM job") == []


def test_a_batch_with_an_id_that_is_there_is_owed_once(made: Batches) -> None:
    id = ids.draw()
    first, again = made.owe(["a"], ["b"], id=id), made.owe(["a"], ["b"], id=id)
    assert first.id == again.id == id
    assert again.jobs == []
    assert len(made.toy.execute("SELECT id FROM job")) == 2


def test_a_job_owes_a_batch_in_the_transaction_that_ends_it(made: Batches) -> None:
    def body(attempt: Any, args: Do) -> None:
        if args.name == "parent":
            with attempt.finishing() as session:
                enqueue_batch(session, [[Do(name="child")]], name="children")

    made.tasks.by_kind[Do.kind].body = body
    parent = made.toy.enqueue(Do(name="parent"))
    made.toy.run(made.tasks, parent)
    [row] = made.toy.execute("SELECT * FROM batch")
    [child] = made.toy.execute("SELECT * FROM job WHERE batch = %s", row["id"])
    assert (row["cause"], row["cause_id"], row["run"]) == ("job", parent, made.toy.job(parent)["run"])
    assert (child["cause"], child["cause_id"], child["run"]) == ("job", parent, row["run"])


def test_a_job_of_a_later_step_keeps_its_own_time(made: Batches) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    batch = made.owe(["a"], ["b", "c"])
    made.toy.execute("UPDATE job SET open_at = %s WHERE id = %s", later, batch.jobs[1][0])
    made.toy.run(made.tasks, *batch.jobs[0])
    made.go_on()
    assert made.due(batch) == [batch.jobs[1][1]]
    assert made.toy.job(batch.jobs[1][0])["not_before"] == later


def test_ten_thousand_jobs_are_owed_at_once(made: Batches) -> None:
    batch = made.owe(["a"] * (MOST_JOBS - 1), ["b"])
    assert len(made.due(batch)) == MOST_JOBS - 1


# What a completion learns


def test_a_completion_learns_how_the_steps_before_it_ended(made: Batches) -> None:
    batch = made.owe(["a", "fail", "b", "fail"], ["c"], ["look"], on_failure="continue")
    made.run_out(batch)
    [seen] = made.seen
    assert seen.counts == {"succeeded": 3, "failed": 2}
    assert seen.unsuccessful == [batch.jobs[0][1], batch.jobs[0][3]]


def test_a_later_step_reads_the_results_of_an_earlier_one(made: Batches) -> None:
    batch = made.owe(["a", "fail", "b"], ["c"], on_failure="continue")
    made.run_out(batch)
    with made.toy.database.transaction() as session:
        found = batches.results_of(session, batch.id, 1)
    assert [(row["state"], row["result"]) for row in found] == [
        ("succeeded", "a"),
        ("failed", None),
        ("succeeded", "b"),
    ]


# When a job does not succeed


def test_stop_calls_later_steps_off_and_says_why(made: Batches) -> None:
    batch = made.owe(["a", "fail", "b"], ["c", "d"], ["e"], name="monthly")
    made.run_out(batch)
    assert made.states(batch) == [["succeeded", "failed", "succeeded"], ["cancelled"] * 2, ["cancelled"]]
    row = made.row(batch)
    assert (row["state"], row["step"], row["reason"]["code"]) == ("failed", 1, "batch.stopped")
    assert row["reason"]["detail"] == "Step 1 of 3 ended and later ones are called off: 1 of 3 jobs did not succeed."
    assert row["reason"]["jobs"] == [str(batch.jobs[0][1])]
    error = made.toy.job(batch.jobs[2][0])["error"]
    assert error == {
        "code": "batch.stopped",
        "detail": f"Called off with its batch monthly. {row['reason']['detail']}",
        "batch": str(batch.id),
    }
    assert sorted(made.heard) == [("c", "batch.stopped"), ("d", "batch.stopped"), ("e", "batch.stopped"),
                                  ("fail", "thing.broken")]  # fmt: skip


def test_continue_opens_later_steps_all_the_same(made: Batches) -> None:
    batch = made.owe(["fail"], ["a"], on_failure="continue")
    made.run_out(batch)
    row = made.row(batch)
    assert made.states(batch) == [["failed"], ["succeeded"]]
    assert (row["state"], row["reason"]["code"]) == ("failed", "batch.failures")
    assert row["reason"]["detail"] == "It ended: 1 of 2 jobs did not succeed."


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_failure_in_the_last_step_fails_the_batch(made: Batches, on_failure: str) -> None:
    batch = made.owe(["a"], ["fail", "b"], on_failure=on_failure)
    made.run_out(batch)
    assert made.states(batch) == [["succeeded"], ["failed", "succeeded"]]
    assert made.row(batch)["reason"]["code"] == "batch.failures"


def test_a_job_whose_deadline_passes_while_it_waits_for_its_step_fails(made: Batches) -> None:
    batch = made.owe(["a"], ["late", "b"])
    made.toy.execute("UPDATE job SET deadline = now() - interval '1 s' WHERE id = %s", batch.jobs[1][0])
    with made.toy.connect() as connection:
        assert leases.expire(made.toy.database, connection, made.tasks) == 1
    made.run_out(batch)
    assert made.states(batch) == [["succeeded"], ["failed", "succeeded"]]
    assert made.row(batch)["state"] == "failed"


def test_a_step_of_which_nothing_is_left_is_passed_at_once(made: Batches) -> None:
    batch = made.owe(["a"], ["b"], ["c"], on_failure="continue")
    redrive.cancel_one(made.toy.database, made.tasks, made.toy.workspace, batch.jobs[1][0], "somebody")
    made.run_due(batch)
    assert made.go_on() == 2
    assert made.due(batch) == batch.jobs[2]


# The last one is never missed


def test_jobs_that_end_at_the_same_moment_open_the_next_step(made: Batches, open_toy: Callable[[], Database]) -> None:
    """Each in a transaction of its own, none of which sees the others; while somebody looks all the time."""
    for _ in range(10):
        batch = made.owe(["a"] * 8, ["b"])
        claimed = made.toy.claim(*batch.jobs[0])
        ready = threading.Barrier(len(claimed))

        def end(attempt: int, id: Any, connection: Any, ready: threading.Barrier = ready) -> None:
            with connection, connection.transaction():
                moves.succeed(connection, [Finished(id, attempt)])
                ready.wait(10)

        threads = [threading.Thread(target=end, args=(each.attempt, each.id, made.toy.connect())) for each in claimed]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            made.go_on()
        made.go_on()
        assert made.due(batch) == batch.jobs[1]


def test_two_who_look_at_the_same_moment_open_it_once(made: Batches) -> None:
    batch = made.owe(["a"], ["b"], ["c"])
    made.run_due(batch)
    with made.toy.connect() as first, made.toy.connect() as second, first.transaction():
        first.execute("SELECT 1 FROM batch WHERE id = %s FOR NO KEY UPDATE", (batch.id,))
        assert steps.advance(second, [batch.id]) == 0, "the other one decides about it"
    with made.toy.connect() as first, made.toy.connect() as second:
        assert steps.advance(first, [batch.id]) + steps.advance(second, [batch.id]) == 1
    assert made.row(batch)["step"] == 2


def test_a_beat_that_dies_before_its_commit_opens_nothing_and_the_next_one_does(made: Batches) -> None:
    batch = made.owe(["a"], ["b"])
    made.run_due(batch)
    dying = made.toy.connect()
    dying.execute("BEGIN")
    steps.advance(dying, [batch.id])
    dying.close()
    assert made.row(batch)["step"] == 1
    assert made.go_on() == 1
    assert made.due(batch) == batch.jobs[1]


def test_a_beat_that_dies_while_it_calls_jobs_off_leaves_the_rest_to_the_next(
    made: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CHUNK_JOBS", 2)
    batch = made.owe(["fail"], ["a"] * 5)
    made.run_due(batch)
    with made.toy.connect() as connection:
        steps.advance(connection, [batch.id])
    steps.call_off(made.toy.database, made.tasks, batch.id, 0.0)
    assert sorted(made.states(batch)[1]) == ["cancelled"] * 2 + ["queued"] * 3
    assert made.row(batch)["state"] == "ending"
    made.go_on()
    assert made.states(batch)[1] == ["cancelled"] * 5
    assert made.row(batch)["state"] == "failed"


def test_a_job_that_crashed_its_worker_is_waited_for(made: Batches) -> None:
    batch = made.owe(["a", "b"], ["c"])
    worker = made.toy.worker()
    made.toy.claim(batch.jobs[0][0], worker=worker)
    made.toy.run(made.tasks, batch.jobs[0][1])
    made.toy.lose(worker)
    assert made.go_on() == 0
    with made.toy.connect() as connection:
        leases.reap(made.toy.database, connection, made.tasks, 3)
    assert made.go_on() == 0
    made.run_out(batch)
    assert made.row(batch)["state"] == "succeeded"


def test_more_batches_than_one_look_takes_all_go_on(made: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "BATCHES_A_LOOK", 3)
    monkeypatch.setattr(steps, "BATCHES_A_ROUND", 2)
    monkeypatch.setattr(steps, "JOBS_A_ROUND", 3)
    owed = [made.owe(["a"], ["b", "c"]) for _ in range(8)]
    for batch in owed[1::2]:
        made.run_due(batch)
    now = [0.0]
    stepper = steps.Stepper(made.toy.database, made.tasks, lambda: now[0])
    with made.toy.connect() as connection:
        for _ in range(12):
            stepper.go_on(connection)
            now[0] += steps.AGAIN_SECONDS
    assert [made.row(batch)["step"] for batch in owed] == [1, 2] * 4


# Cancelling


def test_a_cancelled_batch_takes_all_its_jobs_with_it(made: Batches) -> None:
    batch = made.owe(["a", "b", "c"], ["d"], name="monthly")
    made.toy.run(made.tasks, batch.jobs[0][0])
    [running] = made.toy.claim(batch.jobs[0][1])
    made.cancel(batch)
    assert made.states(batch) == [["succeeded", "cancelled", "cancelled"], ["cancelled"]]
    row = made.row(batch)
    assert (row["state"], row["reason"]) == (
        "cancelled",
        {"code": "batch.cancelled", "detail": "Cancelled by somebody."},
    )
    assert not moves.holds(made.toy._eyes, running.id, running.attempt), "it is told so at its next checkpoint"
    error = made.toy.job(batch.jobs[1][0])["error"]
    assert error["detail"] == "Called off with its batch monthly. Cancelled by somebody."
    assert made.heard == [(name, "batch.cancelled") for name in "bcd"]


def test_what_is_just_being_committed_is_left_to_the_leading_beat(made: Batches) -> None:
    batch = made.owe(["a", "b"])
    [claimed] = made.toy.claim(batch.jobs[0][0])
    with made.toy.connect() as committing, committing.transaction():
        moves.succeed(committing, [Finished(claimed.id, claimed.attempt)])
        made.cancel(batch)
        assert made.states(batch) == [["running", "cancelled"]]
        assert made.row(batch)["state"] == "ending"
    made.go_on()
    assert made.states(batch) == [["succeeded", "cancelled"]], "it was too late for that one"
    assert made.row(batch)["state"] == "cancelled"


def test_a_job_that_is_just_being_claimed_does_not_begin_after_the_answer(made: Batches) -> None:
    batch = made.owe(["a", "b"])
    [[claimed, waiting]] = batch.jobs
    with made.toy.connect() as claimer, ThreadPoolExecutor() as pool:
        with claimer.transaction():
            [running] = moves.claim(claimer, made.toy.worker(), [claimed])
            cancelling = pool.submit(made.cancel, batch)
            until(lambda: made.toy.execute(WAITING_FOR_LOCKS) and made.states(batch) == [["queued", "cancelled"]], 10)
            assert not cancelling.done()
        cancelling.result(10)
    assert made.states(batch) == [["cancelled", "cancelled"]]
    assert not moves.holds(made.toy._eyes, running.id, running.attempt)
    assert made.toy.job(waiting)["attempt"] == 0


def test_only_what_has_not_ended_is_cancelled(made: Batches) -> None:
    batch = made.owe(["a"])
    made.run_out(batch)
    with pytest.raises(WrongState, match="The batch is succeeded"):
        made.cancel(batch)
    with pytest.raises(NotFound):
        steps.cancel_batch(made.toy.database, made.tasks, ids.draw(), batch.id, "a stranger")


def test_a_batch_that_is_cancelled_does_not_go_on(made: Batches) -> None:
    batch = made.owe(["a"], ["b"])
    made.run_due(batch)
    made.toy.execute('UPDATE batch SET state = \'ending\', reason = \'{"code": "batch.cancelled", "detail": "x"}\'')
    made.go_on()
    assert made.states(batch) == [["succeeded"], ["cancelled"]]
    assert made.row(batch)["state"] == "cancelled"


# Driving again


def redriven(made: Batches, job: Any) -> None:
    redrive.redrive_one(made.toy.database, made.tasks, made.toy.workspace, job, "somebody")


def test_a_job_that_is_driven_again_while_its_step_is_open_counts(made: Batches) -> None:
    batch = made.owe(["b", "fail"], ["c"])
    failed = batch.jobs[0][1]
    made.toy.run(made.tasks, failed)
    redriven(made, failed)
    made.toy.execute("""UPDATE job SET args = '{"name": "mended"}' WHERE id = %s""", failed)
    made.run_out(batch)
    assert made.states(batch) == [["succeeded"] * 2, ["succeeded"]]
    assert made.row(batch)["state"] == "succeeded"


def test_a_job_of_a_later_step_that_is_driven_again_waits_for_its_step(made: Batches) -> None:
    batch = made.owe(["a"], ["b"])
    later = batch.jobs[1][0]
    redrive.cancel_one(made.toy.database, made.tasks, made.toy.workspace, later, "somebody")
    redriven(made, later)
    assert made.toy.job(later)["not_before"] == CLOSED_AT
    made.run_out(batch)
    assert made.row(batch)["state"] == "succeeded"


def test_a_step_is_not_passed_while_one_of_its_jobs_is_being_driven_again(made: Batches) -> None:
    batch = made.owe(["fail"], ["b"])
    made.run_due(batch)
    move = redrive.redriving(made.tasks, made.toy.workspace, "somebody")
    with made.toy.database.transaction() as session:
        move.make(session, batch.jobs[0], 0)
        assert made.go_on() == 0, "whoever drives it again holds the batch"
    assert made.go_on() == 0
    assert made.row(batch)["state"] == "running"


def test_a_job_of_an_ended_batch_is_driven_again_alone(made: Batches) -> None:
    batch = made.owe(["fail"], ["a"])
    made.run_out(batch)
    before = made.row(batch)
    redrive.move_all(made.toy.database, made.toy.workspace, JobFilter(batch=batch.id),
                     redrive.redriving(made.tasks, made.toy.workspace, "somebody"))  # fmt: skip
    assert made.due(batch) == [*batch.jobs[0], *batch.jobs[1]], "also one that was called off: at once, by itself"
    made.run_out(batch)
    assert made.states(batch) == [["failed"], ["succeeded"]]
    after = made.row(batch)
    assert (after["state"], after["reason"], after["finished_at"]) == (
        before["state"], before["reason"], before["finished_at"],
    )  # fmt: skip


def test_a_job_of_a_passed_step_that_is_driven_again_counts_at_the_end(made: Batches) -> None:
    batch = made.owe(["fail"], ["a"], on_failure="continue")
    made.run_due(batch)
    made.go_on()
    redriven(made, batch.jobs[0][0])
    made.toy.execute("""UPDATE job SET args = '{"name": "mended"}' WHERE id = %s""", batch.jobs[0][0])
    made.run_out(batch)
    assert made.row(batch)["state"] == "succeeded"
