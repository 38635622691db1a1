"""Dead letters driven again, and work called off."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlmodel import Session

from shared import ids
from shared.db import raw
from shared.errors import LeaseLost, NotFound
from shared.ledger import moves, redrive
from shared.ledger.attempts import Attempt
from shared.ledger.enqueue import publish
from shared.ledger.execute import ArgumentsInvalid
from shared.ledger.filters import JobFilter
from shared.ledger.redrive import WrongState
from shared.ledger.requests import KindPrivate
from shared.ledger.tasks import Tasks
from shared.testing.waiting import until
from tests.integration.toy.harness import Broken, Toy, effects, tasks_of
from tests.integration.toy.jobs import Asked, Do, Other, ThingDone

BY = "key:mr_abc"


def break_(attempt: Attempt, args: Do) -> None:
    raise Broken("It broke.")


def fine(attempt: Attempt, args: Do) -> str:
    return "fine"


BREAKING, FINE = tasks_of(break_), tasks_of(fine)


def again(toy: Toy, job: UUID, tasks: Tasks = FINE, **options: Any) -> None:
    redrive.redrive_one(toy.database, tasks, toy.workspace, job, BY, **options)


def cancel(toy: Toy, job: UUID, tasks: Tasks = FINE) -> None:
    redrive.cancel_one(toy.database, tasks, toy.workspace, job, BY)


def dead(toy: Toy, args: Any = None) -> UUID:
    """A job that failed for good at its first attempt."""
    job = toy.enqueue(args or Do())
    toy.run(BREAKING, job)
    assert toy.job(job)["state"] == "failed"
    return job


# Redrive


def test_a_redriven_job_keeps_its_run_and_history_and_gets_fresh_tries(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run_out(tasks_of(lambda attempt, args: 1 / 0), job)
    before = toy.job(job)
    again(toy, job)
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["crashes"], row["error"]) == ("queued", 3, 0, None)
    assert (row["run"], row["traceparent"], row["finished_at"]) == (before["run"], before["traceparent"], None)
    toy.run_out(tasks_of(lambda attempt, args: 1 / 0), job)
    assert toy.outcomes(job) == ["retried", "retried", "failed"] * 2
    assert [record["number"] for record in toy.attempts(job)] == [1, 2, 3, 4, 5, 6]
    again(toy, job)
    toy.run(FINE, job)
    assert (toy.job(job)["state"], toy.job(job)["result"], toy.job(job)["attempt"]) == ("succeeded", "fine", 7)


def test_its_crashes_are_counted_afresh(toy: Toy) -> None:
    job = toy.enqueue()
    [claimed] = toy.claim(job)
    with toy.connect() as connection:
        moves.fail(connection, job, claimed.attempt, {"code": "job.quarantined", "detail": "It crashed."}, crashed=True)
    assert toy.job(job)["crashes"] == 1
    again(toy, job)
    assert (toy.job(job)["crashes"], toy.job(job)["max_attempts"]) == (0, 1 + Do.retry.max_attempts)


def test_what_it_was_is_kept(toy: Toy) -> None:
    job = dead(toy)
    error = toy.job(job)["error"]
    again(toy, job)
    cancel(toy, job)
    again(toy, job)
    acts = toy.execute("SELECT * FROM intervention WHERE job = %s ORDER BY at", job)
    assert [(act["act"], act["by"], act["state"], act["attempt"]) for act in acts] == [
        ("redriven", BY, "failed", 1),
        ("cancelled", BY, "queued", 1),
        ("redriven", BY, "cancelled", 1),
    ]
    assert (acts[0]["error"], acts[0]["args"]) == (error, None)


def test_an_attempt_of_its_former_life_commits_nothing(toy: Toy) -> None:
    job = toy.enqueue()
    [frozen] = toy.claim(job)
    cancel(toy, job)
    again(toy, job)
    [fresh] = toy.claim(job)
    with toy.connect() as connection:
        assert not moves.holds(connection, job, frozen.attempt)
        assert moves.holds(connection, job, fresh.attempt)


class Call(Asked):
    """Names the host that it calls."""

    kind: ClassVar[str] = "toy.host.call"

    def limit_key(self) -> str | None:
        return f"host:{self.name}"


def test_a_job_is_limited_by_what_its_edited_arguments_name(toy: Toy) -> None:
    tasks = tasks_of(fine)
    tasks.job(Call)(fine)
    job = toy.enqueue(Call(count=1, name="a"))
    for args, key in (({"count": 1, "name": "b"}, "host:b"), (None, "host:b")):
        cancel(toy, job, tasks)
        again(toy, job, tasks, args=args)
        assert toy.job(job)["limit_key"] == key


def test_a_key_that_a_request_named_outlives_edited_arguments(toy: Toy) -> None:
    tasks = tasks_of(fine)
    tasks.job(Asked)(fine)
    job = toy.enqueue(Asked(count=1))
    toy.execute("UPDATE job SET limit_key = 'asked.host:w:a'")
    cancel(toy, job, tasks)
    again(toy, job, tasks, args={"count": 2})
    assert (toy.job(job)["args"]["count"], toy.job(job)["limit_key"]) == (2, "asked.host:w:a")


def test_arguments_of_a_public_kind_may_be_edited_once(toy: Toy) -> None:
    job = toy.enqueue(Asked(count=1))
    cancel(toy, job)
    tasks = tasks_of(fine)
    tasks.job(Asked)(lambda attempt, args: args.count)
    for wrong in ({"count": "x"}, {"count": 1, "nmae": ""}, {}):
        with pytest.raises(ArgumentsInvalid):
            again(toy, job, tasks, args=wrong)
    again(toy, job, tasks, args={"count": 5})
    toy.run(tasks, job)
    assert (toy.job(job)["args"], toy.job(job)["result"]) == ({"count": 5, "name": ""}, 5)
    [act] = toy.execute("SELECT args FROM intervention WHERE act = 'redriven'")
    assert act["args"] == {"count": 1, "name": ""}


def test_arguments_of_a_private_kind_are_not_the_callers(toy: Toy) -> None:
    job = dead(toy)
    with pytest.raises(KindPrivate):
        again(toy, job, args={"name": "another workspace's"})
    assert toy.job(job)["state"] == "failed"


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_only_what_failed_or_was_cancelled_is_driven_again(toy: Toy, state: str) -> None:
    job = toy.enqueue()
    if state == "succeeded":
        toy.run(FINE, job)
    elif state == "running":
        toy.claim(job)
    with pytest.raises(WrongState, match=f"The job is {state}: only failed and cancelled jobs"):
        again(toy, job)
    assert toy.execute("SELECT 1 FROM intervention") == []


def test_a_deadline_that_has_passed_is_no_more(toy: Toy) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    late, early = (toy.enqueue(start_by=soon, deadline=soon) for _ in range(2))
    for job in (late, early):
        cancel(toy, job)
    passed = "UPDATE job SET start_by = now() - interval '1 s', deadline = now() - interval '1 s' WHERE id = %s"
    toy.execute(passed, late)
    again(toy, late)
    again(toy, early)
    times = [toy.job(job)[name] for job in (late, early) for name in ("start_by", "deadline")]
    assert times == [None, None, soon, soon]


# Cancel


def test_a_cancelled_job_that_waited_never_starts(toy: Toy) -> None:
    job = toy.enqueue()
    cancel(toy, job)
    assert toy.claim(job) == []
    row = toy.job(job)
    assert (row["state"], row["attempt"]) == ("cancelled", 0)
    assert row["error"] == {"code": "job.cancelled", "detail": f"Cancelled by {BY}."}
    assert row["finished_at"]
    assert toy.attempts(job) == []


def test_claims_and_cancellations_at_once_leave_each_job_to_one_of_them(toy: Toy) -> None:
    jobs = [toy.enqueue() for _ in range(60)]
    start = threading.Barrier(2)

    def call_off() -> None:
        start.wait()
        for job in jobs:
            cancel(toy, job)

    def take() -> set[UUID]:
        start.wait()
        return {job.id for job in toy.claim(*reversed(jobs))}

    with ThreadPoolExecutor(2) as pool:
        off, taken = pool.submit(call_off), pool.submit(take)
        off.result()
    for job in jobs:
        assert toy.job(job)["state"] == "cancelled"
        assert toy.outcomes(job) == (["cancelled"] if job in taken.result() else [])


@pytest.mark.parametrize("checkpoint", ["progress", "noting", "finishing", "effect_once"])
def test_a_running_body_learns_at_its_next_checkpoint_and_commits_nothing(toy: Toy, checkpoint: str) -> None:
    told: list[bool] = []

    def body(attempt: Attempt, args: Do) -> None:
        cancel(toy, attempt.job.id)
        try:
            if checkpoint == "progress":
                attempt.progress(1, 2)
            elif checkpoint == "effect_once":
                attempt.effect_once("e", lambda: None)
            else:
                with getattr(attempt, checkpoint)() as session:
                    raw(session).execute("INSERT INTO effect (key, job) VALUES ('e', %s)", (attempt.job.id,))
                    publish(session, ThingDone(name="e"), subject=attempt.job.id)
        except LeaseLost:
            told.append(True)
            raise

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert told == [True]
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("cancelled", ["cancelled"])
    assert effects(toy) == []
    assert toy.execute("SELECT 1 FROM event") == []


def test_a_body_without_effects_that_was_cancelled_saves_no_result(toy: Toy) -> None:
    job = toy.enqueue()

    def body(attempt: Attempt, args: Do) -> str:
        cancel(toy, attempt.job.id)
        return "late"

    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.job(job)["result"]) == ("cancelled", None)


def test_a_cancellation_waits_for_a_commit_under_way_and_comes_too_late(toy: Toy) -> None:
    job, asked = toy.enqueue(), threading.Event()

    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            raw(session).execute("SELECT 1 FROM job WHERE id = %s FOR NO KEY UPDATE", (job,))
            asked.set()
            until(lambda: toy.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(toy.run, tasks_of(body), job)
        assert asked.wait(10)
        with pytest.raises(WrongState, match="The job is succeeded"):
            cancel(toy, job)
        run.result()
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("succeeded", ["succeeded"])


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_what_has_ended_is_not_cancelled(toy: Toy, state: str) -> None:
    job = dead(toy) if state == "failed" else toy.enqueue()
    if state == "cancelled":
        cancel(toy, job)
    elif state == "succeeded":
        toy.run(FINE, job)
    with pytest.raises(WrongState, match=f"The job is {state}"):
        cancel(toy, job)


@pytest.mark.parametrize("move", [again, cancel])
def test_another_workspaces_job_is_not_there(toy: Toy, move: Any) -> None:
    job = dead(toy) if move is again else toy.enqueue()
    toy.workspace = ids.draw()
    with pytest.raises(NotFound):
        move(toy, job)


# What it means to the service


def heard(*, fails: bool = False) -> tuple[Tasks, list[Any]]:
    """Tasks whose hooks write down what they are told, in the transaction that they are called in, or fail after."""
    tasks, told = tasks_of(break_), []

    @tasks.failed(Do)
    def failed(session: Session, args: Do, reason: dict[str, Any]) -> None:
        told.append(("failed", args.name, reason["code"]))
        publish(session, ThingDone(name=args.name), subject=ids.draw())
        if fails:
            raise RuntimeError("the hook broke")

    @tasks.redriven(Do)
    def redriven(session: Session, args: Do) -> None:
        told.append(("redriven", args.name))
        raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (f"again {args.name}", ids.draw()))
        if fails:
            raise RuntimeError("the hook broke")

    return tasks, told


def test_hooks_are_told_in_the_transaction_of_the_move(toy: Toy) -> None:
    tasks, told = heard()
    job = toy.enqueue(Do(name="a"))
    cancel(toy, job, tasks)
    again(toy, job, tasks)
    assert told == [("failed", "a", "job.cancelled"), ("redriven", "a")]
    assert effects(toy) == ["again a"]
    [event] = toy.execute("SELECT * FROM event")
    assert (event["run"], event["causation"]) == (toy.job(job)["run"], job)


def test_a_hook_that_fails_is_left_out_and_said(toy: Toy) -> None:
    tasks, told = heard(fails=True)
    job = toy.enqueue()
    cancel(toy, job, tasks)
    assert toy.job(job)["state"] == "cancelled"
    assert "the hook broke" in toy.job(job)["error"]["hook"]
    again(toy, job, tasks)
    assert toy.job(job)["state"] == "queued"
    assert "the hook broke" in toy.job(job)["error"]["hook"]
    assert len(told) == 2
    assert (effects(toy), toy.execute("SELECT 1 FROM event")) == ([], [])


# All that a filter matches


def move_all(toy: Toy, move: redrive.Move, limit: int = redrive.MOST_JOBS, **wanted: Any) -> redrive.Moved:
    return redrive.move_all(toy.database, toy.workspace, JobFilter(**wanted), move, limit)


def redriving(toy: Toy, **options: Any) -> redrive.Move:
    return redrive.redriving(FINE, toy.workspace, BY, **options)


def cancelling(toy: Toy) -> redrive.Move:
    return redrive.cancelling(FINE, toy.workspace, BY)


def test_a_filter_says_which(toy: Toy) -> None:
    old, new = ids.draw(datetime.now(UTC) - timedelta(hours=2)), ids.draw()
    first, second = toy.enqueue(Do(), id=old), toy.enqueue(Do(), id=new)
    toy.run(BREAKING, first, second)
    other = toy.enqueue(Other())
    cancel(toy, other)
    hour = datetime.now(UTC) - timedelta(hours=1)
    move = redriving(toy)

    def found(**wanted: Any) -> int:
        with toy.connect() as connection:
            return sum(redrive.count(connection, toy.workspace, JobFilter(**wanted), move).values())

    assert found() == 3
    assert (found(state="failed"), found(state="cancelled")) == (2, 1)
    assert (found(kind=Other.kind), found(kind="no.such.kind")) == (1, 0)
    assert (found(run=toy.job(first)["run"]), found(run=ids.draw())) == (1, 0)
    assert (found(created_until=hour), found(created_from=hour)) == (1, 2)
    assert (found(error="IT BROKE"), found(error="thing.broken"), found(error="job.cancelled")) == (2, 2, 1)
    assert (found(error="%"), found(error="x' OR 1=1 --")) == (0, 0)


def test_all_that_match_are_moved_in_chunks_and_the_rest_stays(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redrive, "CHUNK_JOBS", 3)
    jobs = [toy.enqueue() for _ in range(8)]
    others = toy.enqueue(Other())
    toy.claim(jobs[0])
    moved = move_all(toy, cancelling(toy), kind=Do.kind)
    assert (moved.jobs, moved.more, moved.runs) == (8, False, {toy.job(job)["run"] for job in jobs})
    assert {toy.job(job)["state"] for job in jobs} == {"cancelled"}
    assert toy.job(others)["state"] == "queued"
    moved = move_all(toy, redriving(toy), limit=5)
    assert (moved.jobs, moved.more) == (5, True)
    moved = move_all(toy, redriving(toy), limit=5)
    assert (moved.jobs, moved.more) == (3, False)
    assert {toy.job(job)["state"] for job in jobs} == {"queued"}


def test_a_redrive_of_many_is_spread_over_time(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redrive, "CHUNK_JOBS", 2)
    jobs = [toy.enqueue() for _ in range(5)]
    move_all(toy, cancelling(toy))
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    move_all(toy, redriving(toy, first=first, per_second=4))
    due = [toy.job(job)["not_before"] for job in jobs]
    assert due == [first + timedelta(seconds=n / 4) for n in range(5)]


def test_nothing_of_another_workspace_matches(toy: Toy) -> None:
    job = dead(toy)
    toy.workspace = ids.draw()
    assert move_all(toy, redriving(toy)).jobs == 0
    assert move_all(toy, cancelling(toy)).jobs == 0
    assert toy.job(job)["state"] == "failed"
