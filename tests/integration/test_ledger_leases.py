"""Workers that die, freeze or forget: their jobs are taken back, counted, and in the end put aside."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from shared.celery import Service
from shared.db import is_away, raw
from shared.ledger import leases, moves
from shared.ledger.attempts import Attempt
from shared.ledger.leases import Keeper
from shared.ledger.tasks import Tasks
from shared.settings import Settings
from shared.testing.waiting import until
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Do, Other

NOTHING = tasks_of(lambda attempt, args: None)


def reap(toy: Toy, tasks: Tasks = NOTHING, max_crashes: int = 3) -> int:
    with toy.connect() as connection:
        return leases.reap(toy.database, connection, tasks, max_crashes)


def keeper(toy: Toy, worker: UUID, in_hand: set[UUID], tasks: Tasks = NOTHING, max_crashes: int = 3) -> Keeper:
    return Keeper(
        toy.database,
        tasks,
        worker,
        "toy@test",
        lease_seconds=30,
        max_crashes=max_crashes,
        in_hand=lambda: in_hand,
    )


def look(toy: Toy, keeper: Keeper, rounds: int = 2) -> None:
    """Absent in one round alone, a job is not yet taken back."""
    with toy.connect() as connection:
        for _ in range(rounds):
            keeper.round(connection)


# Leases that ran out


def test_a_lost_lease_requeues_the_jobs_at_once(toy: Toy) -> None:
    worker, alive = toy.worker(), toy.worker()
    lost, kept = toy.enqueue(), toy.enqueue()
    toy.claim(lost, worker=worker)
    toy.claim(kept, worker=alive)
    assert reap(toy) == 0
    toy.lose(worker)
    assert reap(toy) == 1
    row = toy.job(lost)
    assert (row["state"], row["attempt"], row["crashes"], row["worker"]) == ("queued", 1, 1, None)
    assert row["error"]["code"] == "worker.lost"
    assert "toy@test" in row["error"]["detail"]
    assert toy.outcomes(lost) == ["lost"]
    assert toy.job(kept)["state"] == "running"
    assert len(toy.claim(lost)) == 1, "due at once, without back-off"


def test_crashes_use_up_no_attempts(toy: Toy) -> None:
    job = toy.enqueue()
    for _ in range(5):
        worker = toy.worker()
        toy.claim(job, worker=worker)
        toy.lose(worker)
        reap(toy, max_crashes=100)
    assert (toy.job(job)["state"], toy.job(job)["crashes"]) == ("queued", 5)
    toy.run_out(tasks_of(lambda attempt, args: 1 / 0), job)
    assert toy.outcomes(job) == ["lost"] * 5 + ["retried", "retried", "failed"]


def test_a_job_that_kills_its_worker_is_quarantined(toy: Toy) -> None:
    tasks = tasks_of(lambda attempt, args: None)
    told: list[dict[str, Any]] = []
    tasks.failed(Do)(lambda session, args, reason: told.append(reason))
    job = toy.enqueue()
    for _ in range(3):
        assert toy.job(job)["state"] == "queued"
        worker = toy.worker()
        toy.claim(job, worker=worker)
        toy.lose(worker)
        reap(toy, tasks)
    row = toy.job(job)
    assert (row["state"], row["error"]["code"], row["crashes"]) == ("failed", "job.quarantined", 3)
    assert "3 times" in row["error"]["detail"]
    assert [reason["code"] for reason in told] == ["job.quarantined"]
    assert len(toy.attempts(job)) == 3
    assert toy.claim(job) == []


def test_a_job_whose_worker_nobody_knows_is_taken_back(toy: Toy) -> None:
    """Its row may have been removed, or never been there."""
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    toy.execute("DELETE FROM worker")
    assert reap(toy) == 1
    assert toy.job(job)["state"] == "queued"


def test_one_job_that_cannot_be_taken_back_does_not_hold_up_the_others(toy: Toy) -> None:
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(3)]
    toy.claim(*jobs, worker=worker)
    # The record of an attempt that has not ended: taking this job back breaks the table's key.
    toy.execute(
        "INSERT INTO attempt (job, number, outcome, started_at, finished_at) VALUES (%s, 1, 'lost', now(), now())",
        jobs[0],
    )
    toy.lose(worker)
    reap(toy)
    assert [toy.job(job)["state"] for job in jobs] == ["running", "queued", "queued"]


def test_a_hook_that_fails_does_not_keep_a_job_from_quarantine(toy: Toy) -> None:
    tasks = tasks_of(lambda attempt, args: None)

    @tasks.failed(Do)
    def on_failed(session: Session, args: Do, reason: dict[str, Any]) -> None:
        raise Broken("nul \x00")

    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    toy.lose(worker)
    reap(toy, tasks, max_crashes=1)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "job.quarantined")


def test_the_work_of_a_worker_that_came_back_is_left_alone(toy: Toy) -> None:
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    toy.lose(worker)
    with toy.connect() as connection:
        leases.renew(connection, worker, "toy@test", 30)
    assert reap(toy) == 0


def test_a_worker_that_stops_in_good_order_is_forgotten_later(toy: Toy) -> None:
    worker, busy = toy.worker(), toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=busy)
    with toy.connect() as connection:
        leases.end(connection, worker)
        leases.forget(connection)
        assert len(toy.execute("SELECT 1 FROM worker")) == 2
        toy.execute("UPDATE worker SET lease_until = now() - interval '2 days'")
        leases.forget(connection)
    assert [row["id"] for row in toy.execute("SELECT id FROM worker")] == [busy], "it still holds a job"


def test_a_worker_that_was_stopped_gives_its_job_back_uncounted(toy: Toy) -> None:
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    before = toy.job(job)
    with toy.connect() as connection:
        leases.end(connection, worker)
    assert reap(toy, max_crashes=1) == 1
    row = toy.job(job)
    assert (row["state"], row["crashes"], row["error"]["code"]) == ("queued", 0, "worker.stopped")
    assert row["max_attempts"] - row["attempt"] == before["max_attempts"]
    assert toy.outcomes(job) == ["snoozed"]


@pytest.mark.parametrize("ended", [False, True], ids=["lost", "stopped"])
@pytest.mark.parametrize("max_crashes", [3, 1], ids=["again", "quarantined"])
def test_a_job_whose_row_is_held_waits_for_the_next_round_alone(toy: Toy, ended: bool, max_crashes: int) -> None:
    """A frozen worker holds it: in the middle of `noting()`, or just before the commit of `finishing()`."""
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(3)]
    toy.claim(*jobs, worker=worker)
    with toy.connect() as connection:
        leases.end(connection, worker)
    if not ended:
        toy.execute("UPDATE worker SET ended_at = NULL")
    with held(toy, jobs[0]):
        assert reap(toy, max_crashes=max_crashes) == 3
        assert toy.job(jobs[0])["state"] == "running"
        assert "running" not in {toy.job(job)["state"] for job in jobs[1:]}
    assert reap(toy, max_crashes=max_crashes) == 1
    assert toy.job(jobs[0])["state"] == toy.job(jobs[1])["state"]


def test_a_row_that_a_failure_hook_waits_for_is_no_outage(toy: Toy) -> None:
    tasks = tasks_of(lambda attempt, args: None)
    row = toy.enqueue()

    @tasks.failed(Do)
    def on_failed(session: Session, args: Do, reason: dict[str, Any]) -> None:
        session.execute(text("UPDATE job SET progress = '{}' WHERE id = :id"), {"id": row})

    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(row, job, worker=worker)
    toy.execute("UPDATE job SET worker = %s WHERE id = %s", toy.worker(), row)
    toy.lose(worker)
    with held(toy, row):
        assert reap(toy, tasks, max_crashes=1) == 1
        assert toy.job(job)["state"] == "running"
    reap(toy, tasks, max_crashes=1)
    assert toy.job(job)["state"] == "failed"


def test_a_keeper_does_not_wait_for_a_row_that_is_held(toy: Toy) -> None:
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(2)]
    toy.claim(*jobs, worker=worker)
    kept = keeper(toy, worker, set())
    with held(toy, jobs[0]):
        look(toy, kept)
        assert [toy.job(job)["state"] for job in jobs] == ["running", "queued"]
    look(toy, kept, rounds=1)
    assert toy.job(jobs[0])["state"] == "queued"


@contextmanager
def held(toy: Toy, job: UUID) -> Iterator[None]:
    """The job's row, in an open transaction; whoever waits for it without limit waits for as long as the test may."""
    with toy.database.transaction() as session:
        raw(session).execute("SET LOCAL idle_in_transaction_session_timeout = '20s'")
        assert moves.fence(raw(session), job, 1)
        yield


def test_the_server_ends_a_transaction_that_is_silent_for_as_long_as_a_lease(toy: Toy, toy_url: str) -> None:
    settings = Settings(
        database_url=SecretStr(toy_url), broker_url=SecretStr(""), objects_url="file:///nowhere", lease_seconds=1
    )
    service = Service("toy", lambda: settings, NOTHING, {}, queues=("toy.jobs",), pool="solo", concurrency=1)
    worker = toy.worker()
    job = toy.enqueue()
    [claimed] = toy.claim(job, worker=worker)

    def body(attempt: Attempt, args: Do) -> None:
        with attempt.noting() as session:
            [row] = raw(session).execute("SELECT pg_backend_pid() AS pid").fetchall()
            until(lambda: not toy.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", row["pid"]))
            toy.lose(worker)
            assert reap(toy) == 1, "nobody holds the job's row any more"

    with closing(service.database.connect()) as connection, pytest.raises((DBAPIError, psycopg.Error)) as refused:
        body(Attempt(service.database, claimed, connection), Do())
    service.database.dispose()
    assert not is_away(refused.value), "the attempt has a part in it"
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("queued", ["lost"])


# Jobs that a living worker no longer runs


def test_a_job_that_is_out_of_hand_for_a_moment_is_not_taken_back(toy: Toy) -> None:
    worker, hand = toy.worker(), set()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    here = keeper(toy, worker, hand)
    look(toy, here, rounds=1)
    hand.add(job)
    look(toy, here, rounds=1)
    hand.clear()
    look(toy, here, rounds=1)
    assert toy.job(job)["state"] == "running"


def test_a_worker_keeps_what_it_has_in_hand(toy: Toy) -> None:
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(2)]
    toy.claim(*jobs, worker=worker)
    look(toy, keeper(toy, worker, set(jobs)))
    assert [toy.job(job)["state"] for job in jobs] == ["running", "running"]


def test_an_attempt_whose_end_was_not_recorded_is_taken_back_after_its_back_off(toy: Toy) -> None:
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    look(toy, keeper(toy, worker, set()))
    row = toy.job(job)
    assert (row["state"], row["crashes"], row["error"]["code"]) == ("queued", 0, "attempt.unrecorded")
    assert row["not_before"] > row["started_at"]
    assert toy.outcomes(job) == ["lost"]


def test_attempts_whose_end_was_never_recorded_are_used_up(toy: Toy) -> None:
    job = toy.enqueue()
    for _ in range(3):
        worker = toy.worker()
        toy.hurry()
        toy.claim(job, worker=worker)
        look(toy, keeper(toy, worker, set()))
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "attempt.unrecorded")


def test_the_jobs_of_a_pool_process_that_died_are_taken_back_as_crashed(toy: Toy) -> None:
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    kept = keeper(toy, worker, set())
    kept.lost([job], "worker.lost", "Its worker process died: SIGKILL")
    look(toy, kept)
    row = toy.job(job)
    assert (row["state"], row["crashes"], row["error"]["code"]) == ("queued", 1, "worker.lost")
    assert len(toy.claim(job)) == 1, "due at once"


def test_a_pool_process_that_keeps_dying_over_a_job_puts_it_in_quarantine(toy: Toy) -> None:
    job = toy.enqueue()
    for _ in range(2):
        worker = toy.worker()
        toy.claim(job, worker=worker)
        kept = keeper(toy, worker, set(), max_crashes=2)
        kept.lost([job], "worker.lost", "SIGSEGV")
        look(toy, kept)
    assert toy.job(job)["error"] == {
        "code": "job.quarantined",
        "detail": "Its worker died 2 times while running it. Last: SIGSEGV",
    }


def test_a_job_killed_at_its_time_limit_is_tried_again_as_any_other_failure(toy: Toy) -> None:
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    kept = keeper(toy, worker, set())
    kept.lost([job], "attempt.time_limit", "It ran past its time limit.")
    look(toy, kept)
    row = toy.job(job)
    assert (row["state"], row["crashes"], row["error"]["code"]) == ("queued", 0, "attempt.time_limit")


def test_a_job_that_ended_before_its_process_died_is_left_alone(toy: Toy) -> None:
    worker = toy.worker()
    done, again = toy.enqueue(), toy.enqueue()
    toy.run(tasks_of(lambda attempt, args: "done"), done, worker=worker)
    toy.run(tasks_of(lambda attempt, args: 1 / 0), again, worker=worker)
    kept = keeper(toy, worker, set())
    kept.lost([done, again], "worker.lost", "SIGKILL")
    look(toy, kept)
    assert [(row["state"], row["crashes"]) for row in map(toy.job, (done, again))] == [("succeeded", 0), ("queued", 0)]


def test_one_job_that_cannot_be_taken_back_does_not_hold_up_the_workers_others(toy: Toy) -> None:
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(3)]
    toy.claim(*jobs, worker=worker)
    toy.execute(
        "INSERT INTO attempt (job, number, outcome, started_at, finished_at) VALUES (%s, 1, 'lost', now(), now())",
        jobs[0],
    )
    look(toy, keeper(toy, worker, set()))
    assert [toy.job(job)["state"] for job in jobs] == ["running", "queued", "queued"]


def test_a_thread_past_its_time_limit_loses_its_job(toy: Toy) -> None:
    """Threads cannot be killed; but their work need not wait for them for ever."""
    worker = toy.worker()
    job = toy.enqueue()
    toy.claim(job, worker=worker)
    tasks = tasks_of(lambda attempt, args: None, time_limit=60)
    look(toy, keeper(toy, worker, {job}, tasks))
    assert toy.job(job)["state"] == "running"
    toy.execute("UPDATE job SET started_at = now() - interval '2 minutes'")
    look(toy, keeper(toy, worker, {job}, tasks))
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("queued", "attempt.time_limit")


def test_a_kind_that_no_code_knows_is_taken_back_and_expired_all_the_same(toy: Toy) -> None:
    worker = toy.worker()
    held, late = toy.enqueue(Other()), toy.enqueue(Other())
    toy.claim(held, worker=worker)
    toy.lose(worker)
    toy.execute("UPDATE job SET deadline = now() - interval '1 second' WHERE id = %s", late)
    reap(toy, Tasks())
    with toy.connect() as connection:
        leases.expire(toy.database, connection, Tasks())
    assert [toy.job(job)["state"] for job in (held, late)] == ["queued", "failed"]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_all_lost_jobs_of_a_worker_are_taken_back(toy: Toy, count: int) -> None:
    worker = toy.worker()
    jobs = [toy.enqueue() for _ in range(count)]
    toy.claim(*jobs, worker=worker)
    toy.lose(worker)
    assert reap(toy) == count
    assert {toy.job(job)["state"] for job in jobs} <= {"queued"}
