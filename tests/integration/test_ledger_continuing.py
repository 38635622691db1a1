"""A job that goes on as another kind stays the job that it was: whoever waits for it waits for all of it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from shared.db import raw
from shared.errors import LeaseLost
from shared.ledger import batches, leases, moves, redrive, steps, why
from shared.ledger.attempts import Attempt
from shared.ledger.batches import CLOSED_AT, enqueue_batch
from shared.ledger.enqueue import Origin
from shared.ledger.messages import Lane
from shared.ledger.moves import Finished, Next
from shared.ledger.schedules import job_id
from shared.ledger.tasks import Tasks
from shared.ledger.unique import Unique, enqueue_unique
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Asked, Brief, Do, Other
from tests.integration.toy.scheduled import MINUTE, NOON, Schedules


def go_on(attempt: Attempt, args: Any) -> None:
    with attempt.finishing() as session:
        raw(session).execute("INSERT INTO effect (key, job) VALUES ('begun', %s)", (attempt.job.id,))
        attempt.continue_as(Other(name="later"))


def fan_out(attempt: Attempt, args: Do) -> None:
    """Owe a batch of jobs of these names, and go on after it."""
    if not isinstance(args.value, list):
        if args.name == "fail":
            raise Broken("No.")
        return
    with attempt.finishing() as session:
        owed = enqueue_batch(session, [[Do(name=name)] for name in args.value], name="parts", on_failure="continue")
        attempt.continue_as(Other(name=str(owed.id)), after=owed.id)


def make(body: Callable[[Attempt, Any], Any], later: Callable[[Attempt, Other], Any] | None = None) -> Tasks:
    """`body` for what is owed, and `later` for what it goes on as."""
    tasks = tasks_of(body)
    tasks.job(Other)(later or (lambda attempt, args: args.name))
    return tasks


TASKS = make(go_on)
FANS_OUT = make(fan_out)


def look(toy: Toy, tasks: Tasks = FANS_OUT) -> None:
    """All that a leading Beat does for batches now."""
    with toy.connect() as connection:
        while steps.Stepper(toy.database, tasks).go_on(connection):
            pass


def parts(toy: Toy, job: UUID) -> list[UUID]:
    statement = "SELECT job.id FROM job JOIN batch ON batch.id = batch WHERE opens = %s ORDER BY job.step, job.id"
    return [row["id"] for row in toy.execute(statement, job)]


# At once


def test_it_stays_one_job_with_one_result(toy: Toy) -> None:
    job = toy.enqueue(Do(name="a"))
    toy.run(TASKS, job)
    row = toy.job(job)
    assert (row["state"], row["kind"], row["began_as"], row["args"]["name"]) == ("queued", Other.kind, Do.kind, "later")
    assert (row["max_attempts"], row["result"], row["error"]) == (1 + Other.retry.max_attempts, None, None)
    assert toy.execute("SELECT job FROM effect") == [{"job": job}]
    toy.run(TASKS, job)
    row = toy.job(job)
    assert (row["state"], row["result"], row["attempt"]) == ("succeeded", "later", 2)
    [first, second] = toy.attempts(job)
    assert (first["outcome"], second["outcome"]) == ("continued", "succeeded")
    assert first["error"] == {"code": "attempt.continued", "detail": f"It went on as {Other.kind}."}
    assert first["seconds"] is not None
    assert len(toy.execute("SELECT id FROM job")) == 1


def test_a_body_without_a_transaction_of_its_own_goes_on_as_well(toy: Toy) -> None:
    tasks = make(lambda attempt, args: attempt.continue_as(Other(name="b")))
    job = toy.enqueue()
    toy.run(tasks, job)
    toy.run(tasks, job)
    assert (toy.job(job)["result"], toy.outcomes(job)) == ("b", ["continued", "succeeded"])


def test_it_may_go_on_more_than_once(toy: Toy) -> None:
    tasks = make(go_on, lambda attempt, args: attempt.continue_as(Brief()))
    tasks.job(Brief)(lambda attempt, args: 3)
    job = toy.enqueue()
    for _ in range(3):
        toy.run(tasks, job)
    row = toy.job(job)
    assert (row["state"], row["kind"], row["began_as"], row["result"]) == ("succeeded", Brief.kind, Do.kind, 3)


def test_tries_and_crashes_are_counted_afresh(toy: Toy) -> None:
    def fail(attempt: Attempt, args: Other) -> None:
        raise RuntimeError("passing")

    tasks = make(go_on, fail)
    job = toy.enqueue()
    lost = toy.worker()
    toy.claim(job, worker=lost)
    toy.lose(lost)
    with toy.connect() as connection:
        leases.reap(toy.database, connection, tasks, 3)
    assert toy.job(job)["crashes"] == 1
    toy.run(tasks, job)
    assert toy.job(job)["crashes"] == 0
    toy.run_out(tasks, job)
    assert toy.outcomes(job) == ["lost", "continued", *["retried"] * (Other.retry.max_attempts - 1), "failed"]


def test_an_attempt_that_lost_its_lease_does_not_go_on(toy: Toy) -> None:
    def late(attempt: Attempt, args: Do) -> None:
        redrive.cancel_one(toy.database, TASKS, toy.workspace, attempt.job.id, "somebody")
        with pytest.raises(LeaseLost):
            go_on(attempt, args)
        raise LeaseLost

    job = toy.enqueue()
    toy.run(make(late), job)
    row = toy.job(job)
    assert (row["state"], row["kind"], toy.execute("SELECT job FROM effect")) == ("cancelled", Do.kind, [])


def test_lane_deadline_and_run_are_kept(toy: Toy) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    job = toy.enqueue(deadline=deadline)
    toy.execute("UPDATE job SET priority = %s WHERE id = %s", int(Lane.URGENT), job)
    before = toy.job(job)
    toy.run(TASKS, job)
    after = toy.job(job)
    for name in ("run", "cause", "cause_id", "priority", "deadline", "created_at", "traceparent"):
        assert after[name] == before[name], name


def test_its_failure_and_its_redrive_are_those_of_what_it_is_by_then(toy: Toy) -> None:
    tasks, heard = make(go_on), []
    tasks.failed(Do)(lambda session, args, reason: heard.append(("failed", args.kind)))
    tasks.failed(Other)(lambda session, args, reason: heard.append(("failed", args.kind)))
    tasks.redriven(Other)(lambda session, args: heard.append(("redriven", args.kind)))
    job = toy.enqueue()
    toy.run(tasks, job)
    redrive.cancel_one(toy.database, tasks, toy.workspace, job, "somebody")
    redrive.redrive_one(toy.database, tasks, toy.workspace, job, "somebody")
    assert heard == [("failed", Other.kind), ("redriven", Other.kind)]
    toy.run(tasks, job)
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("succeeded", ["continued", "succeeded"])


def test_a_message_of_the_kind_that_it_was_does_not_begin_it(toy: Toy) -> None:
    """It would run under that kind's time limit."""
    job = toy.enqueue()
    toy.run(TASKS, job)
    toy.run(TASKS, job, kind=Do.kind)
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("queued", ["continued"])


def test_a_body_that_has_done_its_part_may_put_something_away(toy: Toy) -> None:
    """Nobody takes it for one that goes on after its end."""
    job = toy.enqueue()
    [claimed] = toy.claim(job)
    with toy.connect() as connection:
        moves.continue_as(connection, Finished(job, claimed.attempt), Next(Other()))
        connection.execute("UPDATE attempt SET finished_at = now() - interval '1 hour'")
        assert connection.execute(leases._ENDED, ([job],)).fetchall() == []


def test_an_attempt_that_has_ended_its_job_does_not_go_on(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing():
            pass
        with pytest.raises(RuntimeError, match="has ended the job"):
            attempt.continue_as(Other())

    job = toy.enqueue()
    toy.run(make(body), job)
    assert (toy.job(job)["state"], toy.job(job)["kind"]) == ("succeeded", Do.kind)


@pytest.mark.parametrize(("named", "kept"), [("asked.host:x:y", "asked.host:x:y"), ("host:y", None)])
def test_it_keeps_the_limit_key_that_a_request_named(toy: Toy, named: str, kept: str | None) -> None:
    job = toy.enqueue()
    toy.execute("UPDATE job SET limit_key = %s WHERE id = %s", named, job)
    toy.run(TASKS, job)
    assert toy.job(job)["limit_key"] == kept


def test_edited_arguments_are_of_the_kind_that_was_looked_at(toy: Toy) -> None:
    """It has gone on as another meanwhile."""
    job = toy.enqueue()
    toy.run(TASKS, job)
    redrive.cancel_one(toy.database, TASKS, toy.workspace, job, "somebody")
    move = redrive.redriving(TASKS, toy.workspace, "somebody", args=Do(name="edited"))
    with toy.database.transaction() as session:
        assert move.make(session, [job], 0) == []
    assert (toy.job(job)["state"], toy.job(job)["args"]["name"]) == ("cancelled", "later")


# Whoever waits for it


def test_the_step_of_its_batch_waits_for_all_of_it(toy: Toy) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        batch = enqueue_batch(session, [[Do()], [Other()]])
    [[first], [second]] = batch.jobs
    toy.run(TASKS, first)
    look(toy, TASKS)
    assert toy.job(second)["not_before"] == CLOSED_AT
    toy.run(TASKS, first)
    look(toy, TASKS)
    assert toy.job(second)["not_before"] < CLOSED_AT


def test_its_schedule_waits_for_all_of_it(toy: Toy) -> None:
    tasks = make(go_on)
    tasks.job(Asked)(go_on)
    beat = Schedules(toy, tasks)
    id = beat.make(overlap="skip")
    beat.fire(NOON)
    toy.hurry()
    toy.run(tasks, job_id(id, NOON))
    beat.fire(NOON + MINUTE)
    assert beat.outcomes(id) == ["fired", "skipped"]
    toy.run(tasks, job_id(id, NOON))
    beat.fire(NOON + 2 * MINUTE)
    assert beat.outcomes(id) == ["fired", "skipped", "fired"]


@pytest.mark.parametrize(("scope", "existing"), [("queued", False), ("unfinished", True)])
def test_its_key_stands_for_all_of_it_but_it_has_begun(toy: Toy, scope: str, existing: bool) -> None:
    unique = Unique.model_validate({"key": "a", "scope": scope})

    def ask() -> Any:
        with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
            return enqueue_unique(session, Do(), unique)

    first = ask()
    toy.run(TASKS, first.job)
    again = ask()
    assert (again.existing, again.job == first.job) == (existing, existing)
    toy.run(TASKS, first.job)
    assert ask().job != first.job, "it has ended"


# After a batch


def test_it_goes_on_when_its_batch_has_ended_however_that_was(toy: Toy) -> None:
    seen: list[Any] = []

    def join(attempt: Attempt, args: Other) -> None:
        with attempt.reading() as session:
            seen.extend(row["state"] for row in batches.results_of(session, UUID(args.name), 1))

    tasks = make(fan_out, join)
    job = toy.enqueue(Do(value=["fail", "b"]))
    toy.run(tasks, job)
    look(toy, tasks)
    assert toy.job(job)["not_before"] == CLOSED_AT
    assert toy.claim(job) == []
    [failing, last] = parts(toy, job)
    for part in (failing, last):
        toy.run(tasks, part)
        assert toy.job(job)["not_before"] == CLOSED_AT
        look(toy, tasks)
    toy.run(tasks, job)
    assert (toy.job(job)["state"], seen) == ("succeeded", ["failed"])


def test_it_goes_on_when_its_batch_was_called_off(toy: Toy) -> None:
    job = toy.enqueue(Do(value=["a", "b"]))
    toy.run(FANS_OUT, job)
    [batch] = toy.execute("SELECT id FROM batch")
    steps.cancel_batch(toy.database, FANS_OUT, toy.workspace, batch["id"], "somebody")
    toy.run(FANS_OUT, job)
    assert (toy.job(job)["state"], toy.job(job)["result"]) == ("succeeded", str(batch["id"]))


def test_a_step_that_stops_the_batch_does_not_open_it_yet(toy: Toy) -> None:
    """What is left of the batch is called off first."""

    def body(attempt: Attempt, args: Do) -> None:
        if args.name == "fail":
            raise Broken("No.")
        with attempt.finishing() as session:
            owed = enqueue_batch(session, [[Do(name="fail")], [Do(name="b")]])
            attempt.continue_as(Other(name=str(owed.id)), after=owed.id)

    tasks = make(body)
    job = toy.enqueue(Do(name="fan out"))
    toy.run(tasks, job)
    [failing, left] = parts(toy, job)
    toy.run(tasks, failing)
    [batch] = toy.execute("SELECT id FROM batch")
    with toy.connect() as connection:
        assert steps.advance(connection, [batch["id"]]) == 1
    assert (toy.job(job)["not_before"], toy.job(left)["state"]) == (CLOSED_AT, "queued")
    look(toy, tasks)
    assert toy.job(left)["state"] == "cancelled"
    toy.run(tasks, job)
    assert toy.job(job)["state"] == "succeeded"


def test_the_batch_of_a_former_life_does_not_open_it(toy: Toy) -> None:
    """Driven again it owes another: it waits for that one alone."""
    job = toy.enqueue(Do(value=["a"]))
    toy.run(FANS_OUT, job)
    [first] = toy.execute("SELECT id FROM batch")
    redrive.cancel_one(toy.database, FANS_OUT, toy.workspace, job, "somebody")
    redrive.redrive_one(toy.database, FANS_OUT, toy.workspace, job, "somebody")
    again = make(fan_out, lambda attempt, args: fan_out(attempt, Do(value=["b"])))
    toy.run(again, job)
    [former, _] = parts(toy, job)
    toy.run(FANS_OUT, former)
    look(toy)
    assert toy.execute("SELECT id FROM batch WHERE finished_at IS NOT NULL") == [first]
    assert toy.job(job)["not_before"] == CLOSED_AT


def test_what_it_waits_for_is_called_off_with_it(toy: Toy) -> None:
    job = toy.enqueue(Do(value=["a", "b"]))
    toy.run(FANS_OUT, job)
    redrive.cancel_one(toy.database, FANS_OUT, toy.workspace, job, "somebody")
    look(toy)
    assert [toy.job(part)["state"] for part in parts(toy, job)] == ["cancelled", "cancelled"]
    [batch] = toy.execute("SELECT state, reason FROM batch")
    assert (batch["state"], batch["reason"]["detail"]) == ("cancelled", "The job that was to go on after it has ended.")


def test_what_it_waits_for_is_called_off_when_its_deadline_passes(toy: Toy) -> None:
    job = toy.enqueue(Do(value=["a"]), deadline=datetime.now(UTC) + timedelta(hours=1))
    toy.run(FANS_OUT, job)
    toy.execute("UPDATE job SET deadline = now() - interval '1 second' WHERE id = %s", job)
    with toy.connect() as connection:
        leases.expire(toy.database, connection, FANS_OUT)
    look(toy)
    assert (toy.job(job)["state"], toy.job(parts(toy, job)[0])["state"]) == ("failed", "cancelled")


def test_why_it_waits_names_the_batch_and_its_jobs(toy: Toy) -> None:
    job = toy.enqueue(Do(value=["a", "b"]))
    toy.run(FANS_OUT, job)
    with toy.database.transaction() as session:
        reasons = why.explain(why.gather(raw(session), "toy", toy.workspace, job))
    [reason] = [each for each in reasons if each.code == "wait.batch"]
    assert "It goes on when the batch parts has ended, of which step 1 is open" in reason.detail
    assert reason.facts["jobs"] == parts(toy, job)[:1]


@pytest.mark.parametrize("whose", ["another's", "its own"])
def test_it_waits_for_no_batch_that_it_did_not_owe(toy: Toy, whose: str) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        batch = enqueue_batch(session, [[Do()]])
    job = toy.enqueue() if whose == "another's" else batch.jobs[0][0]
    toy.run(make(lambda attempt, args: attempt.continue_as(Other(), after=batch.id)), job)
    row = toy.job(job)
    assert (row["state"], row["kind"]) == ("queued", Do.kind)
    assert "was not owed by this job" in row["error"]["detail"]
