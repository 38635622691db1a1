"""From whatever a body raises to the job's next state, with the reason kept."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from shared import ids
from shared.db import raw
from shared.errors import RetryLater, Snooze, Unavailable
from shared.ledger.attempts import Attempt
from shared.ledger.enqueue import enqueue, publish
from shared.ledger.messages import Retry
from shared.ledger.tasks import Tasks
from shared.testing.waiting import until
from tests.integration.toy.harness import Broken, Toy, effects, tasks_of
from tests.integration.toy.jobs import Do, Other, ThingDone


def raising(make: Callable[[], BaseException]) -> Tasks:
    def body(attempt: Attempt, args: Do) -> NoReturn:
        raise make()

    return tasks_of(body)


def waits(toy: Toy, job: Any) -> float:
    """Seconds until the job is due."""
    return float((toy.job(job)["not_before"] - datetime.now(UTC)).total_seconds())


# Again, or for good


def test_a_passing_failure_is_tried_again_after_its_back_off(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run(raising(lambda: RuntimeError("away")), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["worker"], row["finished_at"]) == ("queued", 1, None, None)
    assert row["error"] == {"code": "attempt.error", "detail": "RuntimeError: away", "type": "RuntimeError"}
    assert waits(toy, job) < 0.2
    [record] = toy.attempts(job)
    assert (record["outcome"], record["error"]["detail"]) == ("retried", "RuntimeError: away")
    assert "raise make()" in record["error"]["traceback"]


def test_attempts_are_used_up_and_then_the_job_has_failed(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run_out(raising(lambda: RuntimeError("away")), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"]) == ("failed", 3)
    assert (row["error"]["detail"], row["error"]["attempts"]) == ("RuntimeError: away", 3)
    assert row["finished_at"] is not None
    assert toy.outcomes(job) == ["retried", "retried", "failed"]


def test_a_named_failure_is_for_good(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run(raising(lambda: Broken("The file is empty.", object="a.csv", rows=0)), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"]) == ("failed", 1)
    expected = {"code": "thing.broken", "detail": "The file is empty.", "object": "a.csv", "rows": 0}
    assert row["error"].items() >= expected.items()


def test_what_is_unavailable_is_tried_again(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run(raising(lambda: Unavailable("The store is away.")), job)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("queued", "service.unavailable")


def test_the_other_side_names_the_time_of_the_next_try(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.run(raising(lambda: RetryLater("429", code="thing.throttled", after=90)), job)
    assert 80 < waits(toy, job) <= 90
    assert toy.job(job)["error"]["code"] == "thing.throttled"


@pytest.mark.parametrize("after", [1e300, float("inf"), -1e300, float("nan"), -5, 10**400])
@pytest.mark.parametrize("kind", [RetryLater, Snooze])
def test_a_time_out_of_reason_is_brought_back_to_reason(toy: Toy, kind: Any, after: float) -> None:
    """Retry-After is the other side's word: it may be anything."""
    job = toy.enqueue(Do())
    toy.run(raising(lambda: kind("429", after=after)), job)
    assert toy.job(job)["state"] == "queued"
    assert waits(toy, job) <= 24 * 3600


def test_a_snoozed_job_keeps_its_tries_and_its_back_off(toy: Toy) -> None:
    job = toy.enqueue(Do())
    for _ in range(10):
        toy.run(raising(lambda: Snooze("busy", after=0)), job)
    assert toy.outcomes(job) == ["snoozed"] * 10
    assert toy.job(job)["error"]["code"] == "attempt.snoozed"
    toy.run(raising(lambda: RuntimeError("away")), job)
    assert waits(toy, job) < 0.2, "the first failure waits as long as a first failure does"
    toy.run_out(raising(lambda: RuntimeError("away")), job)
    assert toy.outcomes(job)[10:] == ["retried", "retried", "failed"]


AWAY = (psycopg.errors.AdminShutdown, psycopg.errors.CannotConnectNow, psycopg.errors.TooManyConnections)
PERMANENT = (
    psycopg.errors.OutOfMemory,
    psycopg.errors.DiskFull,
    psycopg.errors.ConfigurationLimitExceeded,
    PoolTimeout,
)


@pytest.mark.parametrize("error", [*AWAY, psycopg.OperationalError], ids=lambda error: error.__name__)
def test_absences_of_the_database_do_not_count_unless_there_are_too_many_in_a_row(toy: Toy, error: Any) -> None:
    tasks = raising(lambda: error("away"))
    job = toy.enqueue(Do())
    toy.run_out(tasks, job)
    assert toy.outcomes(job) == ["snoozed"] * 5 + ["retried", "retried", "failed"]
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "database.away")


def test_only_absences_in_a_row_come_to_count_and_their_back_off_grows(toy: Toy) -> None:
    away = raising(lambda: psycopg.OperationalError("away"))
    job = toy.enqueue(Do())
    policy = Do.retry
    for absences in range(5):
        toy.hurry()
        toy.run(away, job)
        [record] = toy.attempts(job)[absences:]
        waited = (toy.job(job)["not_before"] - record["finished_at"]).total_seconds()
        ceiling = min(policy.cap, policy.base * 2**absences)
        assert ceiling / 2 <= waited <= ceiling
    toy.hurry()
    toy.run(raising(lambda: Snooze("busy", after=0)), job)
    toy.run(away, job)
    assert toy.outcomes(job) == ["snoozed"] * 7


@pytest.mark.parametrize("error", PERMANENT, ids=lambda error: error.__name__)
def test_what_the_database_says_each_time_uses_up_the_attempts(toy: Toy, error: Any) -> None:
    job = toy.enqueue(Do())
    toy.run_out(raising(lambda: error("no more")), job)
    assert toy.outcomes(job) == ["retried", "retried", "failed"]


def test_the_back_off_grows_to_its_cap_with_jitter_over_its_upper_half() -> None:
    policy = Retry(base=2.0, cap=60.0)
    rng = random.Random(7)
    for attempt, ceiling in ((1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (5000, 60)):
        delays = [policy.delay(attempt, rng) for _ in range(200)]
        assert ceiling / 2 <= min(delays) < ceiling * 0.6
        assert ceiling * 0.9 < max(delays) <= ceiling


# Whatever is raised


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot be pickled")


class Odd(BaseException):
    pass


def endless() -> list[Any]:
    round_: list[Any] = []
    round_.append(round_)
    return round_


def deep(levels: int = 5000) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "error",
    [
        Unspeakable(),
        Unpicklable("a"),
        RuntimeError("nul \x00 and \ud800 alone"),
        RuntimeError("x" * 1_000_000),
        RuntimeError(Unspeakable()),
        ExceptionGroup("many", [ValueError(1), Unspeakable()]),
        Odd("odd"),
        GeneratorExit(),
        asyncio.CancelledError(),
        RecursionError("deep"),
        MemoryError(),
        StopIteration(1),
        RetryLater("nul \x00"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_is_recorded_and_tried_again(toy: Toy, error: BaseException) -> None:
    jobs = [toy.enqueue(Do()) for _ in range(2)]
    toy.run(raising(lambda: error), *jobs)
    for job in jobs:
        row = toy.job(job)
        assert (row["state"], toy.outcomes(job)) == ("queued", ["retried"])
        assert len(row["error"]["detail"]) <= 8000


@pytest.mark.parametrize(
    "fact",
    [
        float("nan"),
        float("-inf"),
        "nul\x00",
        "\ud800",
        {1: {2}},
        Unspeakable(),
        10**5000,
        endless(),
        deep(),
        b"\xff",
        object,
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_a_named_failure_is_for_good_whatever_its_facts(toy: Toy, fact: Any) -> None:
    jobs = [toy.enqueue(Do()) for _ in range(2)]
    toy.run(raising(lambda: Broken("It broke.", fact=fact)), *jobs)
    for job in jobs:
        assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "thing.broken")


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_a_worker_that_is_told_to_stop_gives_back_what_it_has_not_begun(toy: Toy, stop: type[BaseException]) -> None:
    jobs = [toy.enqueue(Do(name=str(n))) for n in range(3)]

    def body(attempt: Attempt, args: Do) -> None:
        if args.name == "1":
            raise stop(3)

    with pytest.raises(stop):
        toy.run(tasks_of(body), *jobs)
    assert toy.job(jobs[0])["state"] == "succeeded", "what was done is kept"
    assert (toy.job(jobs[1])["state"], toy.outcomes(jobs[1])) == ("queued", ["retried"])
    unbegun = toy.job(jobs[2])
    assert (unbegun["state"], unbegun["crashes"]) == ("queued", 0)
    assert unbegun["max_attempts"] - unbegun["attempt"] == 3, "what was not begun does not count"


# Results


@pytest.mark.parametrize("finishes", [False, True], ids=["returned", "finishing"])
@pytest.mark.parametrize(
    "result",
    [b"bytes", object(), {1, 2}, float("nan"), "nul\x00", "\ud800", {"a": datetime.now(UTC)}, deep(100_000), 10**5000],
    ids=lambda result: type(result).__name__,
)
def test_a_result_that_is_not_json_fails_its_job_alone(toy: Toy, result: Any, finishes: bool) -> None:
    jobs = [toy.enqueue(Do(name=name)) for name in ("good", "bad", "good")]

    def body(attempt: Attempt, args: Do) -> Any:
        answer = result if args.name == "bad" else "fine"
        if not finishes:
            return answer
        with attempt.finishing(answer) as session:
            raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(attempt.job.id), attempt.job.id))
        return None

    toy.run(tasks_of(body), *jobs)
    assert [toy.job(job)["state"] for job in jobs] == ["succeeded", "failed", "succeeded"]
    assert toy.job(jobs[1])["error"]["code"] == "job.result_invalid"
    assert len(effects(toy)) == (2 if finishes else 0)


@pytest.mark.parametrize("result", [None, 0, "", "é", [1, "a", None], {"a": {"b": 1.5}}, True, 2**70])
def test_a_json_result_is_kept_as_it_is(toy: Toy, result: Any) -> None:
    job = toy.enqueue(Do())
    toy.run(tasks_of(lambda attempt, args: result), job)
    assert (toy.job(job)["state"], toy.job(job)["result"]) == ("succeeded", result)


# Jobs that no code runs


def test_arguments_of_another_shape_fail_the_job(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.execute("""UPDATE job SET args = '{"name": {"not": "a string"}}'""")
    toy.run(tasks_of(lambda attempt, args: None), job)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "job.arguments_invalid")


def test_a_kind_that_no_code_runs_fails_the_job(toy: Toy) -> None:
    job = toy.enqueue(Other())
    toy.run(tasks_of(lambda attempt, args: None), job, kind=Other.kind)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "job.kind_unknown")


def test_arguments_of_a_newer_release_are_read_as_far_as_known(toy: Toy) -> None:
    job = toy.enqueue(Do())
    toy.execute("""UPDATE job SET args = '{"name": "a", "newer": 1}'""")
    toy.run(tasks_of(lambda attempt, args: args.name), job)
    assert toy.job(job)["result"] == "a"


def test_one_failure_of_a_message_leaves_the_others_alone(toy: Toy) -> None:
    jobs = [toy.enqueue(Do(name=str(n))) for n in range(6)]

    def body(attempt: Attempt, args: Do) -> str:
        if args.name == "2":
            raise Broken("It broke.")
        if args.name == "4":
            raise RuntimeError("away")
        return args.name

    toy.run(tasks_of(body), *jobs)
    states = [toy.job(job)["state"] for job in jobs]
    assert states == ["succeeded", "succeeded", "failed", "succeeded", "queued", "succeeded"]
    assert {len(toy.attempts(job)) for job in jobs} == {1}


def test_jobs_behind_one_that_takes_long_are_given_back(toy: Toy) -> None:
    """Another process may be free; and Celery's time limit, which is the message's, would kill them with it."""
    jobs = [toy.enqueue(Do(name=str(n))) for n in range(4)]
    ran: list[str] = []

    def body(attempt: Attempt, args: Do) -> str:
        ran.append(args.name)
        if args.name == "1":
            until(lambda: toy.job(jobs[3])["state"] == "queued")
            until(lambda: toy.job(jobs[0])["state"] == "succeeded")  # what was done is saved meanwhile
        return args.name

    toy.run(tasks_of(body), *jobs)
    assert ran == ["0", "1"]
    assert [toy.job(job)["state"] for job in jobs] == ["succeeded", "succeeded", "queued", "queued"]
    assert [row["max_attempts"] - row["attempt"] for row in map(toy.job, jobs[2:])] == [3, 3], "and not charged"


# What else a failure means


def test_the_failure_hook_runs_in_the_transaction_of_the_failure(toy: Toy) -> None:
    tasks = raising(lambda: Broken("It broke.", rows=1))
    seen: list[dict[str, Any]] = []

    @tasks.failed(Do)
    def on_failed(session: Session, args: Do, reason: dict[str, Any]) -> None:
        seen.append({"args": args.name, **reason})
        publish(session, ThingDone(name="failed"), subject=job)
        enqueue(session, Other())
        assert toy.job(job)["state"] == "running", "nothing shows before the commit"

    job = toy.enqueue(Do(name="a"))
    toy.run(tasks, job)
    assert toy.job(job)["state"] == "failed"
    assert seen == [{"args": "a", "code": "thing.broken", "detail": "It broke.", "rows": 1, "attempts": 1}]
    [event] = toy.execute("SELECT * FROM event")
    [following] = toy.execute("SELECT * FROM job WHERE kind = 'toy.other.do'")
    assert event["causation"] == following["cause_id"] == job
    assert event["run"] == following["run"] == toy.job(job)["run"]


def test_the_failure_hook_runs_once_when_attempts_are_used_up(toy: Toy) -> None:
    tasks = raising(lambda: RuntimeError("away"))
    called: list[int] = []
    tasks.failed(Do)(lambda session, args, reason: called.append(reason["attempts"]))
    toy.run_out(tasks, toy.enqueue(Do()))
    assert called == [3]


def test_the_failure_hook_does_not_run_for_a_job_that_is_anothers(toy: Toy) -> None:
    called: list[int] = []

    def body(attempt: Attempt, args: Do) -> NoReturn:
        toy.execute("UPDATE job SET state = 'queued' WHERE id = %s", attempt.job.id)
        raise Broken("It broke.")

    tasks = tasks_of(body)
    tasks.failed(Do)(lambda session, args, reason: called.append(1))
    job = toy.enqueue(Do())
    toy.run(tasks, job)
    assert (toy.job(job)["state"], called) == ("queued", [])


@pytest.mark.parametrize(
    "fault",
    [
        lambda session: (_ for _ in ()).throw(RuntimeError("nul \x00")),
        lambda session: (_ for _ in ()).throw(Unspeakable()),
        lambda session: raw(session).execute("SELECT 1/0"),
        lambda session: raw(session).execute("INSERT INTO effect (key, job) VALUES ('taken', NULL)"),
        lambda session: publish(session, ThingDone(name="nul\x00"), subject=None),  # type: ignore[arg-type]
    ],
    ids=["raises", "unspeakable", "aborted", "refused", "unstorable"],
)
def test_a_hook_that_fails_leaves_the_job_ended_and_nothing_of_its_own(
    toy: Toy, fault: Callable[[Session], Any]
) -> None:
    tasks = raising(lambda: Broken("It broke."))

    @tasks.failed(Do)
    def on_failed(session: Session, args: Do, reason: dict[str, Any]) -> None:
        enqueue(session, Other())
        fault(session)

    job = toy.enqueue(Do())
    toy.run(tasks, job)
    row = toy.job(job)
    assert (row["state"], row["error"]["code"]) == ("failed", "thing.broken")
    assert row["error"]["hook"], "it is said that the hook failed"
    assert toy.execute("SELECT 1 FROM job WHERE kind = 'toy.other.do'") == []


def test_secrets_in_a_statement_are_not_kept_with_its_error(toy: Toy) -> None:
    """Whoever may read a job reads its reason."""
    secret = str(ids.draw())

    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            session.execute(text("SELECT 1 / (length(:secret) - length(:secret))"), {"secret": secret})

    job = toy.enqueue(Do())
    toy.run(tasks_of(body), job)
    assert "division by zero" in toy.job(job)["error"]["detail"]
    assert secret not in str(toy.attempts(job)) + str(toy.job(job))
