"""Unique jobs: one under a key, for as long as the scope says, however many ask at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared import ids
from shared.db import Database, raw
from shared.ledger import redrive, retention
from shared.ledger.enqueue import Origin
from shared.ledger.retention import UNIQUE_DAYS, delete_step
from shared.ledger.unique import Kept, Unique, enqueue_unique
from shared.testing.waiting import until
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Asked, Do, Other

NOTHING = tasks_of(lambda attempt, args: None)


def ask(toy: Toy, unique: Unique, args: Any = None, workspace: UUID | None = None) -> Kept:
    with toy.database.transaction(origin=Origin.request(workspace or toy.workspace)) as session:
        return enqueue_unique(session, args or Do(), unique)


def broken(attempt: Any, args: Do) -> None:
    raise Broken("No.")


def test_while_it_waits_a_key_stands_for_its_job_and_no_longer(toy: Toy) -> None:
    unique = Unique(key="a", scope="queued")
    first = ask(toy, unique, Do(name="first"))
    again = ask(toy, unique, Do(name="another"))
    assert (first.existing, again) == (False, Kept(first.job, first.run, existing=True))
    assert toy.job(first.job)["args"]["name"] == "first"
    toy.claim(first.job)
    second = ask(toy, unique)
    assert (second.existing, second.job != first.job) == (False, True)
    assert ask(toy, unique).job == second.job


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_until_it_has_ended_a_key_stands_for_its_job(toy: Toy, end: str) -> None:
    unique = Unique(key="a")
    first = ask(toy, unique)

    def body(attempt: Any, args: Do) -> None:
        assert ask(toy, unique) == Kept(first.job, first.run, existing=True), "while it runs"
        if end == "fail":
            raise Broken("No.")

    if end == "cancel":
        redrive.cancel_one(toy.database, NOTHING, toy.workspace, first.job, "somebody")
    else:
        toy.run(tasks_of(body), first.job)
    assert ask(toy, unique).existing is False


def test_a_job_that_waits_for_its_next_try_has_not_ended(toy: Toy) -> None:
    for scope in ("queued", "unfinished"):
        unique = Unique(key=scope, scope=scope)
        first = ask(toy, unique)
        toy.run(tasks_of(lambda attempt, args: 1 / 0), first.job)
        assert ask(toy, unique) == Kept(first.job, first.run, existing=True)


def test_for_a_period_a_key_stands_for_its_job_whatever_becomes_of_it(toy: Toy) -> None:
    unique = Unique(key="a", scope="period", period_seconds=60)
    first = ask(toy, unique)
    toy.run(tasks_of(broken), first.job)
    assert ask(toy, unique).job == first.job
    toy.execute("UPDATE unique_key SET created_at = created_at - interval '59 seconds'")
    assert ask(toy, unique).job == first.job
    toy.execute("UPDATE unique_key SET created_at = created_at - interval '1 second'")
    second = ask(toy, unique)
    assert second.existing is False
    assert ask(toy, unique).job == second.job


def test_a_key_is_of_a_workspace_and_a_kind(toy: Toy) -> None:
    unique = Unique(key="a")
    kept = [ask(toy, unique), ask(toy, unique, Other()), ask(toy, unique, workspace=ids.draw())]
    assert [each.existing for each in kept] == [False, False, False]


def test_what_is_rolled_back_holds_no_key(toy: Toy) -> None:
    unique = Unique(key="a")
    with suppress(Broken), toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        enqueue_unique(session, Do(), unique)
        raise Broken("No.")
    assert ask(toy, unique).existing is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": ""},
        {"key": "k" * 256},
        {"key": "a\nb"},
        {"key": "a", "scope": "ever"},
        {"key": "a", "scope": "period"},
        {"key": "a", "scope": "period", "period_seconds": 0},
        {"key": "a", "scope": "period", "period_seconds": 7 * 86400 + 1},
        {"key": "a", "scope": "queued", "period_seconds": 60},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Unique.model_validate(wrong)


# Many at once


@pytest.mark.parametrize("scope", ["queued", "unfinished", "period"])
def test_of_many_who_ask_at_once_one_owes(toy: Toy, open_toy: Callable[[], Database], scope: Any) -> None:
    period = 60 if scope == "period" else None
    databases = [open_toy() for _ in range(4)]
    for round_ in range(10):
        unique = Unique(key=f"{round_}", scope=scope, period_seconds=period)
        together = threading.Barrier(16)

        def one(number: int, unique: Unique = unique, together: threading.Barrier = together) -> Kept:
            together.wait()
            with databases[number % 4].transaction(origin=Origin.request(toy.workspace)) as session:
                return enqueue_unique(session, Do(), unique)

        with ThreadPoolExecutor(16) as pool:
            kept = list(pool.map(one, range(16)))
        assert len({each.job for each in kept}) == 1
        assert sum(not each.existing for each in kept) == 1
    assert len(toy.execute("SELECT 1 FROM job")) == 10


@pytest.mark.parametrize("scope", ["queued", "unfinished"])
def test_while_jobs_begin_and_end_there_are_never_two_under_a_key(
    toy: Toy, open_toy: Callable[[], Database], scope: Any
) -> None:
    """Told by the ledger's own times: none was owed before the one before it had begun, or ended."""
    unique, asked = Unique(key="a", scope=scope), threading.Event()

    def askers(database: Database) -> None:
        for _ in range(60):
            with database.transaction(origin=Origin.request(toy.workspace)) as session:
                enqueue_unique(session, Do(), unique)

    def worker(database: Database) -> None:
        mine = Toy(database)
        id = mine.worker()
        while not asked.is_set() or mine.execute("SELECT 1 FROM job WHERE finished_at IS NULL"):
            due = [row["id"] for row in mine.execute("SELECT id FROM job WHERE state = 'queued'")]
            if due:
                mine.run(NOTHING, *due, worker=id)
        mine.close()

    databases = [open_toy() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(worker, database) for database in databases[:2]]
        asking = [pool.submit(askers, database) for database in databases[2:]]
        for each in asking:
            each.result()
        asked.set()
        for each in working:
            each.result()
    jobs = toy.execute("SELECT id, created_at, started_at, finished_at FROM job ORDER BY created_at")
    assert 1 < len(jobs) <= 240
    freed = "started_at" if scope == "queued" else "finished_at"
    for before, after in pairwise(jobs):
        assert before[freed] <= after["created_at"]


def test_a_job_that_is_just_being_claimed_does_not_wait_any_more(toy: Toy) -> None:
    unique = Unique(key="a", scope="queued")
    first, worker, answers = ask(toy, unique), toy.worker(), list[Kept]()
    with toy.connect() as connection:
        with connection.transaction():
            connection.execute("SELECT 1 FROM job WHERE id = %s FOR UPDATE", (first.job,))
            connection.execute(
                "UPDATE job SET state = 'running', attempt = 1, worker = %s WHERE id = %s", (worker, first.job)
            )
            asking = threading.Thread(target=lambda: answers.append(ask(toy, unique)))
            asking.start()
            until(lambda: toy.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        asking.join()
    assert answers[0].existing is False


def test_one_that_waited_begins_only_after_the_asker_has_committed(toy: Toy) -> None:
    """So its body sees what the asker wrote."""
    unique = Unique(key="a", scope="queued")
    first = ask(toy, unique)
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        assert enqueue_unique(session, Do(), unique).existing is True
        assert toy.claim(first.job) == []
        raw(session).execute("SELECT 1")
    assert len(toy.claim(first.job)) == 1


# What is kept


def test_keys_age_out_when_no_period_can_ask_for_them_and_their_job_has_ended(toy: Toy) -> None:
    done, waiting = ask(toy, Unique(key="done")), ask(toy, Unique(key="waiting"))
    toy.run(NOTHING, done.job)
    later = datetime.now(UTC) + timedelta(days=UNIQUE_DAYS + 1)
    [aged] = [each for each in retention.ledgers(90) if each.table == "unique_key"]
    with toy.connect() as connection:
        delete_step(connection, datetime.now(UTC), aged)
        assert len(toy.execute("SELECT 1 FROM unique_key")) == 2
        delete_step(connection, later, aged)
    assert [row["job"] for row in toy.execute("SELECT job FROM unique_key")] == [waiting.job]


def test_a_key_whose_job_was_dropped_is_free(toy: Toy) -> None:
    unique = Unique(key="a", scope="period", period_seconds=60)
    first = ask(toy, unique, Asked(count=1))
    toy.execute("DELETE FROM job WHERE id = %s", first.job)
    assert ask(toy, unique, Asked(count=1)).existing is False
