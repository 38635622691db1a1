"""Running jobs: effects, events and the end commit together, and only for the attempt that holds the job."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import event

from shared.db import Database, raw
from shared.errors import LeaseLost
from shared.ledger import attempts as attempts_module
from shared.ledger import moves, queries
from shared.ledger.attempts import Attempt
from shared.ledger.enqueue import enqueue, publish
from tests.integration.toy.harness import Broken, Toy, effects, tasks_of
from tests.integration.toy.jobs import Do, Other, ThingDone

REASON = {"code": "worker.lost", "detail": "Its worker died."}


def write_effect(session: Any, key: str, job: UUID) -> None:
    raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (key, job))


def take_away(toy: Toy, attempt: Attempt) -> None:
    """What the reaper does to a worker that was frozen past its lease."""
    with toy.connect() as connection:
        assert moves.release(connection, attempt.job.id, attempt.job.attempt, REASON, crashed=True)


def test_a_returned_result_is_the_jobs(toy: Toy) -> None:
    job = toy.enqueue(Do(name="a"))
    toy.run(tasks_of(lambda attempt, args: {"said": args.name}), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["result"], row["error"]) == ("succeeded", 1, {"said": "a"}, None)
    assert row["started_at"] <= row["finished_at"]
    [record] = toy.attempts(job)
    assert (record["outcome"], record["number"], record["error"]) == ("succeeded", 1, None)


def test_effects_events_jobs_and_the_end_commit_together(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing({"rows": 2}) as session:
            write_effect(session, "a", attempt.job.id)
            publish(session, ThingDone(name="a"), subject=attempt.job.id)
            enqueue(session, Other(name="next"))
            assert toy.job(attempt.job.id)["state"] == "running", "nothing shows before the commit"
            assert effects(toy) == []

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.job(job)["result"]) == ("succeeded", {"rows": 2})
    assert effects(toy) == ["a"]
    [stated] = toy.execute("SELECT * FROM event")
    [following] = toy.execute("SELECT * FROM job WHERE kind = 'toy.other.do'")
    run = toy.job(job)["run"]
    assert (stated["run"], stated["causation"], stated["workspace"]) == (run, job, toy.workspace)
    assert (following["run"], following["cause"], following["cause_id"]) == (run, "job", job)


@pytest.mark.parametrize(("owes", "waits"), [(False, ["off", "off", "on"]), (True, ["on", "on", "on"])])
def test_only_the_last_commit_of_a_message_waits_for_the_disk(toy: Toy, owes: bool, waits: list[str]) -> None:
    seen: list[str] = []

    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            if owes:
                enqueue(session, Other())
            session.connection()  # of a session that is not used SQLAlchemy sees no commit
            event.listen(session, "before_commit", look)

    def look(session: Any) -> None:
        [row] = raw(session).execute("SHOW synchronous_commit").fetchall()
        seen.append(row["synchronous_commit"])

    jobs = [toy.enqueue() for _ in range(3)]
    toy.run(tasks_of(body), *jobs)
    assert seen == waits
    assert {toy.job(job)["state"] for job in jobs} == {"succeeded"}


def test_a_body_that_raises_in_its_last_transaction_leaves_nothing(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            write_effect(session, "a", attempt.job.id)
            publish(session, ThingDone(name="a"), subject=attempt.job.id)
            raise Broken("It broke.")

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert toy.job(job)["state"] == "failed"
    assert effects(toy) == []
    assert toy.execute("SELECT 1 FROM event") == []


def test_a_zombie_is_refused_and_none_of_its_effects_stay(toy: Toy) -> None:
    """The first attempt is frozen past its lease, the second finishes, the first one thaws and tries."""
    frozen, thaw = threading.Event(), threading.Event()
    refused: list[type[BaseException]] = []

    def body(attempt: Attempt, args: Do) -> None:
        if attempt.job.attempt == 1:
            frozen.set()
            assert thaw.wait(20)
        try:
            with attempt.finishing(attempt.job.attempt) as session:
                write_effect(session, f"attempt {attempt.job.attempt}", attempt.job.id)
                publish(session, ThingDone(name="a"), subject=attempt.job.id)
        except LeaseLost as error:
            refused.append(type(error))
            raise

    job = toy.enqueue()
    tasks = tasks_of(body)
    with ThreadPoolExecutor(1) as first:
        running = first.submit(toy.run, tasks, job)
        assert frozen.wait(20)
        with toy.connect() as connection:
            moves.release(connection, job, 1, REASON, crashed=True)
        toy.run(tasks, job)
        after_second = toy.job(job)
        thaw.set()
        running.result(20)
    assert refused == [LeaseLost]
    assert effects(toy) == ["attempt 2"]
    assert len(toy.execute("SELECT 1 FROM event")) == 1
    assert toy.job(job) == after_second, "the zombie moved nothing"
    assert toy.outcomes(job) == ["lost", "succeeded"]


@pytest.mark.parametrize("how", ["returns", "raises", "swallows"])
def test_a_zombie_changes_nothing_however_it_ends(toy: Toy, how: str) -> None:
    def body(attempt: Attempt, args: Do) -> str:
        take_away(toy, attempt)
        if how == "raises":
            raise Broken("It broke.")
        if how == "swallows":
            with pytest.raises(LeaseLost), attempt.finishing() as session:
                write_effect(session, "zombie", attempt.job.id)
        return "zombie"

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["result"], row["crashes"]) == ("queued", 1, None, 1)
    assert (toy.outcomes(job), effects(toy)) == (["lost"], [])


def test_a_job_taken_away_while_it_finishes_keeps_nothing(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            write_effect(session, "a", attempt.job.id)
            take_away(toy, attempt)

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.outcomes(job), effects(toy)) == ("queued", ["lost"], [])


def test_an_attempt_ends_its_job_once(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing(1) as session:
            write_effect(session, "a", attempt.job.id)
        with attempt.finishing(2) as session:
            write_effect(session, "b", attempt.job.id)

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.job(job)["result"], effects(toy)) == ("succeeded", 1, ["a"])


def test_what_is_raised_after_the_end_changes_nothing(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing("done"):
            pass
        raise Broken("Too late.")

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.outcomes(job)) == ("succeeded", ["succeeded"])


def test_what_is_noted_stays_when_the_attempt_fails(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.noting() as session:
            write_effect(session, f"try {attempt.job.attempt}", attempt.job.id)
        raise Broken("It broke.")

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], effects(toy)) == ("failed", ["try 1"])


def test_a_zombie_notes_nothing(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        take_away(toy, attempt)
        with attempt.noting() as session:
            write_effect(session, "zombie", attempt.job.id)

    toy.run(tasks_of(body), toy.enqueue())
    assert effects(toy) == []


def test_reading_cannot_write(toy: Toy) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        with attempt.reading() as session, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            write_effect(session, "a", attempt.job.id)

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert toy.job(job)["state"] == "succeeded"


# Effects outside the database


def test_an_effect_happens_once_and_later_attempts_get_its_result(toy: Toy) -> None:
    sent: list[int] = []
    got: list[Any] = []

    def send() -> dict[str, int]:
        sent.append(1)
        return {"number": len(sent)}

    def body(attempt: Attempt, args: Do) -> None:
        got.append(attempt.effect_once("mail", send))
        if attempt.job.attempt < 3:
            raise RuntimeError("after the mail")

    job = toy.enqueue()
    toy.run_out(tasks_of(body), job)
    assert toy.job(job)["state"] == "succeeded"
    assert (sent, got) == ([1], [{"number": 1}] * 3)


@pytest.mark.parametrize("answer", [b"bytes", object, {1, 2}, float("nan"), "nul\x00", {"\ud800": 10**5000}, None])
def test_an_effect_is_not_repeated_because_of_what_it_answers(toy: Toy, answer: Any) -> None:
    sent: list[int] = []
    got: list[Any] = []

    def send() -> Any:
        sent.append(1)
        return answer

    def body(attempt: Attempt, args: Do) -> None:
        got.append(attempt.effect_once("mail", send))
        if attempt.job.attempt == 1:
            raise RuntimeError("after the mail")

    job = toy.enqueue()
    toy.run_out(tasks_of(body), job)
    assert (toy.job(job)["state"], sent) == ("succeeded", [1])
    assert got[0] == got[1], "both attempts see the same answer"


def test_an_effect_that_fails_may_be_tried_again(toy: Toy) -> None:
    tried: list[int] = []

    def send() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError("refused")
        return "sent"

    job = toy.enqueue()
    toy.run_out(tasks_of(lambda attempt, args: attempt.effect_once("mail", send)), job)
    assert (toy.job(job)["result"], tried) == ("sent", [1, 1])


def test_a_zombie_begins_no_effect(toy: Toy) -> None:
    """The attempt that took over may be at the same effect this moment."""
    sent: list[int] = []

    def body(attempt: Attempt, args: Do) -> None:
        take_away(toy, attempt)
        attempt.effect_once("mail", lambda: sent.append(1))

    toy.run(tasks_of(body), toy.enqueue())
    assert sent == []


# Progress


def test_progress_is_seen_while_the_job_runs(toy: Toy) -> None:
    seen: list[Any] = []

    def body(attempt: Attempt, args: Do) -> None:
        attempt.progress(1, 10, "rows", "reading")
        seen.append(toy.job(attempt.job.id)["progress"])
        attempt.progress(2, 10, "rows")  # too soon: not written
        seen.append(toy.job(attempt.job.id)["progress"])

    toy.run(tasks_of(body), toy.enqueue())
    assert seen[0] == seen[1]
    assert seen[0].items() >= {"done": 1, "total": 10, "unit": "rows", "message": "reading"}.items()


@pytest.mark.parametrize("finishes", [True, False])
def test_the_last_progress_is_kept_however_soon_it_comes(toy: Toy, finishes: bool) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        attempt.progress(1, 10, "rows")
        attempt.progress(10, 10, "rows")
        if finishes:
            with attempt.finishing():
                pass

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.job(job)["progress"]["done"]) == ("succeeded", 10)


def test_progress_is_told_with_its_rate(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_module, "PROGRESS_SECONDS", 0.0)

    def body(attempt: Attempt, args: Do) -> None:
        for done in range(3):
            attempt.progress(done, 10, "rows")

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    with toy.connect() as connection:
        shown = queries.show_job(connection, "toy", toy.workspace, job)["progress"]
    assert shown["rate"] > 0
    assert shown["remaining_seconds"] == pytest.approx(8 / shown["rate"])


def test_a_new_attempt_begins_without_progress(toy: Toy) -> None:
    seen: list[Any] = []

    def body(attempt: Attempt, args: Do) -> None:
        seen.append(toy.job(attempt.job.id)["progress"])
        attempt.progress(5)
        if attempt.job.attempt == 1:
            raise RuntimeError

    toy.run_out(tasks_of(body), toy.enqueue())
    assert seen == [None, None]


def test_progress_tells_a_zombie_that_its_work_is_in_vain(toy: Toy) -> None:
    went_on: list[int] = []

    def body(attempt: Attempt, args: Do) -> None:
        take_away(toy, attempt)
        attempt.progress(1)
        went_on.append(1)

    toy.run(tasks_of(body), toy.enqueue())
    assert went_on == []


def test_work_goes_on_when_the_database_was_away_for_a_moment(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of PostgreSQL in the middle of long work costs a report of progress, not the work."""
    monkeypatch.setattr(attempts_module, "PROGRESS_SECONDS", 0.0)
    sent: list[int] = []

    def body(attempt: Attempt, args: Do) -> str:
        attempt.progress(1)
        toy.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
        )
        attempt.progress(2)
        attempt.progress(3)
        attempt.effect_once("mail", lambda: sent.append(1))
        return "done"

    job = toy.enqueue()
    toy.run(tasks_of(body), job)
    row = toy.job(job)
    assert (row["state"], row["attempt"], row["progress"]["done"]) == ("succeeded", 1, 3)
    assert sent == [1]


def test_a_service_sees_its_own_schema_alone(toy: Toy, open_toy: Any) -> None:
    database: Database = open_toy()
    with database.transaction() as session:
        [row] = raw(session).execute("SELECT current_schema() AS schema, current_user AS role").fetchall()
    assert row == {"schema": "toy", "role": "toy"}
