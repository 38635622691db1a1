"""Which moves of a job the database allows, whoever asks for them."""

from itertools import product
from uuid import UUID

import psycopg
import pytest

from shared import ids
from shared.db import Connection
from shared.ledger import moves
from shared.ledger.moves import Finished
from tests.integration.toy.harness import Toy

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
LEGAL = {
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "queued"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}
REASON = {"code": "thing.broken", "detail": "It broke."}


def move(connection: Connection, job: UUID, state: str, attempts: int | None = None) -> None:
    more = int(state == "running") if attempts is None else attempts
    connection.execute("UPDATE job SET state = %s, attempt = attempt + %s WHERE id = %s", (state, more, job))


def bring(connection: Connection, job: UUID, state: str) -> None:
    """Move a fresh job to a state by legal moves."""
    if state != "queued":
        move(connection, job, "running")
    if state not in ("queued", "running"):
        move(connection, job, state)


@pytest.mark.parametrize(("old", "new"), [pair for pair in product(STATES, STATES) if pair[0] != pair[1]])
def test_only_the_legal_moves_are_possible(toy: Toy, old: str, new: str) -> None:
    job = toy.enqueue()
    with toy.connect() as connection:
        bring(connection, job, old)
        if (old, new) in LEGAL:
            move(connection, job, new)
        else:
            with pytest.raises(psycopg.errors.CheckViolation, match=f"illegal move {old} -> {new}"):
                move(connection, job, new)
    assert toy.job(job)["state"] == (new if (old, new) in LEGAL else old)
    assert (toy.job(job)["finished_at"] is None) == (toy.job(job)["state"] in ("queued", "running"))


@pytest.mark.parametrize(("old", "new"), sorted(LEGAL))
@pytest.mark.parametrize("step", [-1, 0, 1, 2])
def test_the_attempt_goes_up_by_one_with_a_claim_and_never_otherwise(toy: Toy, old: str, new: str, step: int) -> None:
    job = toy.enqueue()
    with toy.connect() as connection:
        bring(connection, job, old)
        before = toy.job(job)["attempt"]
        if step == int(new == "running"):
            move(connection, job, new, step)
        else:
            with pytest.raises(psycopg.errors.CheckViolation, match="attempt"):
                move(connection, job, new, step)
            assert toy.job(job)["attempt"] == before


@pytest.mark.parametrize("state", STATES)
def test_the_attempt_cannot_be_changed_in_place(toy: Toy, state: str) -> None:
    job = toy.enqueue()
    with toy.connect() as connection:
        bring(connection, job, state)
        with pytest.raises(psycopg.errors.CheckViolation, match="moves only with a claim"):
            connection.execute("UPDATE job SET attempt = attempt + 1 WHERE id = %s", (job,))


def test_an_unknown_state_is_refused(toy: Toy) -> None:
    job = toy.enqueue()
    with toy.connect() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE job SET state = 'lost' WHERE id = %s", (job,))


@pytest.mark.parametrize(("state", "attempt"), [("running", 0), ("succeeded", 0), ("queued", 1)])
def test_a_job_enters_queued_at_attempt_zero(toy: Toy, state: str, attempt: int) -> None:
    with toy.connect() as connection, pytest.raises(psycopg.errors.CheckViolation, match="enters the ledger queued"):
        connection.execute(
            """INSERT INTO job (id, kind, queue, priority, args, workspace, run, cause, cause_id, state, attempt,
                                max_attempts, not_before, created_at)
               VALUES (%s, 'k', 'q', 5, '{}', %s, %s, 'request', %s, %s, %s, 1, now(), now())""",
            (ids.draw(), ids.draw(), ids.draw(), ids.draw(), state, attempt),
        )


def test_an_attempt_has_one_record(toy: Toy) -> None:
    job = toy.enqueue()
    [claimed] = toy.claim(job)
    with toy.connect() as connection:
        assert moves.fail(connection, job, claimed.attempt, REASON)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                """INSERT INTO attempt (job, number, outcome, started_at, finished_at)
                   VALUES (%s, %s, 'succeeded', now(), now())""",
                (job, claimed.attempt),
            )


# The claim


def test_a_claim_takes_what_is_due_in_the_order_asked_for(toy: Toy) -> None:
    jobs = [toy.enqueue() for _ in range(5)]
    asked = [jobs[3], jobs[0], jobs[4]]
    claimed = toy.claim(*asked)
    assert [job.id for job in claimed] == asked
    assert {job.attempt for job in claimed} == {1}
    assert [toy.job(job)["state"] for job in jobs] == ["running", "queued", "queued", "running", "running"]


def test_a_second_wake_up_finds_nothing(toy: Toy) -> None:
    job = toy.enqueue()
    assert len(toy.claim(job)) == 1
    assert toy.claim(job) == []
    assert toy.job(job)["attempt"] == 1


def test_a_claim_does_not_wait_for_another_claim(toy: Toy) -> None:
    jobs = [toy.enqueue() for _ in range(2)]
    worker = toy.worker()
    with toy.connect() as first, first.transaction():
        assert [job.id for job in moves.claim(first, worker, jobs[:1])] == jobs[:1]
        assert [job.id for job in toy.claim(*jobs)] == jobs[1:], "the one held by the open transaction is left"


def test_a_job_is_not_claimed_before_it_is_due(toy: Toy) -> None:
    job = toy.enqueue()
    toy.execute("UPDATE job SET not_before = now() + interval '1 hour'")
    assert toy.claim(job) == []


def test_a_worker_without_a_lease_claims_nothing(toy: Toy) -> None:
    """Nobody would ever take the job back from it."""
    job = toy.enqueue()
    assert toy.claim(job, worker=ids.draw()) == []
    lost = toy.worker()
    toy.lose(lost)
    assert toy.claim(job, worker=lost) == []
    assert toy.job(job)["state"] == "queued"


def test_a_job_past_its_deadline_is_not_begun(toy: Toy) -> None:
    job = toy.enqueue()
    toy.execute("UPDATE job SET deadline = now() - interval '1 second'")
    assert toy.claim(job) == []


def test_a_job_that_was_to_be_started_earlier_is_not_begun(toy: Toy) -> None:
    job, begun = toy.enqueue(), toy.enqueue()
    [held] = toy.claim(begun)
    toy.execute("UPDATE job SET start_by = now() - interval '1 second'")
    assert toy.claim(job) == []
    with toy.connect() as connection:
        assert moves.retry(connection, begun, held.attempt, REASON, 0.0)
    assert [each.attempt for each in toy.claim(begun)] == [2]


# The end of an attempt


def test_only_the_attempt_that_holds_the_job_ends_it(toy: Toy) -> None:
    job = toy.enqueue()
    [old] = toy.claim(job)
    with toy.connect() as connection:
        assert moves.release(connection, job, old.attempt, REASON, crashed=True)
        [new] = toy.claim(job)
        for refused in (
            moves.succeed(connection, [Finished(job, old.attempt, 1)]) == set(),
            not moves.retry(connection, job, old.attempt, REASON, 0),
            not moves.snooze(connection, job, old.attempt, REASON, 0),
            not moves.fail(connection, job, old.attempt, REASON),
            not moves.release(connection, job, old.attempt, REASON, crashed=True),
            not moves.fence(connection, job, old.attempt),
            not moves.report_progress(connection, job, old.attempt, {}),
            not moves.give_up(connection, job, 1, REASON),
        ):
            assert refused
        assert toy.job(job)["state"] == "running"
        assert moves.fence(connection, job, new.attempt)
        assert moves.succeed(connection, [Finished(job, new.attempt, {"n": 2})]) == {job}
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["crashes"], row["result"]) == ("succeeded", 2, 1, {"n": 2})
    assert row["error"] is None, "the reason of the lost attempt stays on the attempt alone"
    assert toy.outcomes(job) == ["lost", "succeeded"]


def test_results_of_a_group_are_saved_for_those_that_still_hold_their_job(toy: Toy) -> None:
    jobs = [toy.enqueue() for _ in range(3)]
    claimed = toy.claim(*jobs)
    with toy.connect() as connection:
        moves.release(connection, jobs[1], 1, REASON, crashed=False)
        held = moves.succeed(connection, [Finished(job.id, job.attempt, n) for n, job in enumerate(claimed)])
    assert held == {jobs[0], jobs[2]}
    assert [toy.job(job)["result"] for job in jobs] == [0, None, 2]


def test_two_that_end_the_same_attempt_at_once_end_it_once(toy: Toy) -> None:
    """The reaper and the attempt itself: the second waits for the first, and then finds nothing to move."""
    job = toy.enqueue()
    [claimed] = toy.claim(job)
    with toy.connect() as first, toy.connect() as second:
        with first.transaction():
            assert moves.release(first, job, 1, REASON, crashed=True)
            assert second.execute("SET lock_timeout = '100ms'") is not None
            with pytest.raises(psycopg.errors.LockNotAvailable):
                moves.succeed(second, [Finished(job, claimed.attempt, "late")])
        assert moves.succeed(second, [Finished(job, claimed.attempt, "late")]) == set()
    assert toy.outcomes(job) == ["lost"]


def test_a_snoozed_try_does_not_count(toy: Toy) -> None:
    job = toy.enqueue()
    toy.claim(job)
    with toy.connect() as connection:
        assert moves.snooze(connection, job, 1, REASON, 60)
    row = toy.job(job)
    assert row["max_attempts"] - row["attempt"] == 3
    assert 50 < (row["not_before"] - row["created_at"]).total_seconds() < 70
