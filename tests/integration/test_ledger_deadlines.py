"""Jobs that are given up: at their deadline, whether they wait or run; or because they were not started in time."""

from datetime import UTC, datetime, timedelta

from shared.db import raw
from shared.ledger import leases
from shared.ledger.attempts import Attempt
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do

NOTHING = tasks_of(lambda attempt, args: None)


def test_a_job_whose_deadline_passes_before_it_is_done_has_failed(toy: Toy) -> None:
    tasks = tasks_of(lambda attempt, args: None)
    told: list[str] = []
    tasks.failed(Do)(lambda session, args, reason: told.append(reason["code"]))
    late, running, open_ = (toy.enqueue() for _ in range(3))
    toy.claim(running)
    toy.execute("UPDATE job SET deadline = now() - interval '1 second' WHERE id = ANY(%s)", [late, running])
    toy.execute("UPDATE job SET deadline = now() + interval '1 hour' WHERE id = %s", open_)
    with toy.connect() as connection:
        assert leases.expire(toy.database, connection, tasks) == 2
        assert leases.expire(toy.database, connection, tasks) == 0
    for job, attempt, detail in ((late, 0, "before it was started."), (running, 1, "before it was done.")):
        row = toy.job(job)
        assert (row["state"], row["error"]["code"], row["attempt"]) == ("failed", "job.deadline", attempt)
        assert row["error"]["detail"] == f"Its deadline passed {detail}"
        assert row["finished_at"] is not None
    assert toy.outcomes(running) == ["failed"]
    assert told == ["job.deadline", "job.deadline"]
    assert toy.job(open_)["state"] == "queued"


def test_a_commit_after_the_deadline_is_refused_once_the_job_has_failed(toy: Toy) -> None:
    job = toy.enqueue(deadline=datetime.now(UTC) + timedelta(hours=1))

    def body(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            raw(session).execute("INSERT INTO effect (key, job) VALUES ('late', %s)", (job,))
            toy.execute("UPDATE job SET deadline = now() - interval '1 second'")
            with toy.connect() as connection:
                leases.expire(toy.database, connection, NOTHING)

    toy.run(tasks_of(body), job)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "job.deadline")
    assert toy.execute("SELECT 1 FROM effect") == []


def test_a_retry_does_not_outlive_the_deadline(toy: Toy) -> None:
    job = toy.enqueue()

    def body(attempt: Attempt, args: Do) -> None:
        toy.execute("UPDATE job SET deadline = now() - interval '1 second'")
        raise RuntimeError("away")

    toy.run(tasks_of(body), job)
    assert toy.job(job)["state"] == "queued"
    with toy.connect() as connection:
        leases.expire(toy.database, connection, NOTHING)
    assert (toy.job(job)["state"], toy.job(job)["error"]["code"]) == ("failed", "job.deadline")


# Started in time


def test_a_job_that_has_not_begun_in_time_has_failed(toy: Toy) -> None:
    tasks = tasks_of(lambda attempt, args: None)
    told: list[str] = []
    tasks.failed(Do)(lambda session, args, reason: told.append(reason["code"]))
    late, both, open_ = (toy.enqueue() for _ in range(3))
    toy.execute("UPDATE job SET start_by = now() - interval '1 second' WHERE id = ANY(%s)", [late, both])
    toy.execute("UPDATE job SET deadline = now() - interval '1 second' WHERE id = %s", both)
    toy.execute("UPDATE job SET start_by = now() + interval '1 hour' WHERE id = %s", open_)
    with toy.connect() as connection:
        assert leases.expire(toy.database, connection, tasks) == 2
        assert leases.expire(toy.database, connection, tasks) == 0
    assert [toy.job(job)["state"] for job in (late, both, open_)] == ["failed", "failed", "queued"]
    assert toy.job(late)["error"] == {"code": "job.start_by", "detail": "Its start_by passed before it was started."}
    assert sorted(told) == ["job.deadline", "job.start_by"]


def test_a_job_that_has_begun_once_has_begun(toy: Toy) -> None:
    """Whatever became of the attempt: it runs, or waits for the next one."""
    running, again = toy.enqueue(), toy.enqueue()
    toy.claim(running)

    def body(attempt: Attempt, args: Do) -> None:
        raise RuntimeError("away")

    toy.run(tasks_of(body), again)
    toy.execute("UPDATE job SET start_by = now() - interval '1 second'")
    with toy.connect() as connection:
        assert leases.expire(toy.database, connection, NOTHING) == 0
    toy.run_out(NOTHING, again)
    assert [toy.job(job)["state"] for job in (running, again)] == ["running", "succeeded"]
