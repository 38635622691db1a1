"""Owing work: with the transaction that makes it true, or not at all; and once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from shared import ids
from shared.db import Database, raw
from shared.errors import BadRequest, KeyReused
from shared.ledger.enqueue import Origin, enqueue, enqueue_many, publish, remember
from shared.ledger.messages import Lane
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do, ThingDone


class Abandoned(Exception):
    pass


def test_what_is_rolled_back_never_runs(toy: Toy) -> None:
    ran: list[UUID] = []
    tasks = tasks_of(lambda attempt, args: ran.append(attempt.job.id))
    owed: list[UUID] = []

    def abandon() -> None:
        with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
            owed.append(enqueue(session, Do()))
            publish(session, ThingDone(name="a"), subject=owed[0])
            raise Abandoned

    with pytest.raises(Abandoned):
        abandon()
    toy.run(tasks, *owed, kind=Do.kind)
    assert ran == []
    assert toy.execute("SELECT id FROM job UNION ALL SELECT id FROM event") == []


def test_what_is_committed_carries_its_origin(toy: Toy) -> None:
    because = Origin.request(toy.workspace)
    with toy.database.transaction(origin=because) as session:
        job = enqueue(session, Do(name="a", value={"b": [1, None, "é"]}))
    row = toy.job(job)
    assert (row["workspace"], row["run"], row["cause"], row["cause_id"]) == (
        toy.workspace,
        because.run,
        "request",
        because.run,
    )
    assert (row["state"], row["attempt"], row["max_attempts"], row["priority"]) == ("queued", 0, 3, Lane.NORMAL)
    assert row["args"] == {"name": "a", "value": {"b": [1, None, "é"]}}


def test_a_job_is_due_by_the_clock_of_the_database(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server whose clock is ahead must not keep work waiting."""
    import shared.ledger.enqueue as module

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Ahead":
            return cls.fromtimestamp(datetime.now(tz).timestamp() + 600, tz)

    monkeypatch.setattr(module, "datetime", Ahead)
    job = toy.enqueue()
    assert len(toy.claim(job)) == 1


def test_a_derived_id_adds_its_job_once(toy: Toy) -> None:
    id = ids.derive(ids.draw(), "toy.thing.do")
    assert [toy.enqueue(Do(name=name), id=id) for name in ("first", "second")] == [id, id]
    [row] = toy.execute("SELECT args FROM job")
    assert row["args"]["name"] == "first"


def test_a_derived_id_adds_its_job_once_from_transactions_at_once(toy: Toy) -> None:
    id = ids.derive(ids.draw(), "toy.thing.do")
    barrier = threading.Barrier(4)

    def add(number: int) -> UUID:
        with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
            barrier.wait(10)
            return enqueue(session, Do(name=str(number)), id=id)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(add, range(4))) == {id}
    assert len(toy.execute("SELECT 1 FROM job")) == 1


def test_a_job_that_has_ended_is_not_added_again(toy: Toy) -> None:
    id = ids.derive(ids.draw(), "toy.thing.do")
    toy.enqueue(id=id)
    toy.run(tasks_of(lambda attempt, args: 1), id)
    toy.enqueue(id=id)
    assert (toy.job(id)["state"], toy.job(id)["attempt"]) == ("succeeded", 1)


def test_many_are_owed_in_the_order_of_their_arguments(toy: Toy) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        jobs = enqueue_many(session, [Do(name=str(n)) for n in range(50)])
        assert enqueue_many(session, []) == []
    assert [toy.job(job)["args"]["name"] for job in jobs] == [str(n) for n in range(50)]


def test_a_job_with_an_id_of_another_age_is_lost_to_nobody(toy: Toy) -> None:
    """Outside all weekly partitions there is the default one."""
    now = datetime.now(UTC)
    jobs = [toy.enqueue(id=ids.draw(now + timedelta(days=days))) for days in (-4000, 4000)]
    toy.run(tasks_of(lambda attempt, args: "done"), *jobs)
    assert [(toy.job(job)["state"], toy.outcomes(job)) for job in jobs] == [("succeeded", ["succeeded"])] * 2


def test_the_same_instant_in_another_zone_derives_the_same_id() -> None:
    schedule = ids.draw()
    at = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert ids.derive(at, schedule) == ids.derive(at.astimezone(timezone(timedelta(hours=2))), schedule)


def test_committed_work_is_announced_and_rolled_back_work_is_not(toy: Toy) -> None:
    with toy.connect() as ears:
        ears.execute("LISTEN millrace_toy")
        with suppress(Abandoned), toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
            enqueue(session, Do())
            raise Abandoned
        assert list(ears.notifies(timeout=0.3, stop_after=1)) == []
        toy.enqueue()
        assert len(list(ears.notifies(timeout=5, stop_after=1))) == 1


def test_announcing_survives_the_loss_of_its_connection(toy: Toy) -> None:
    with toy.connect() as ears:
        ears.execute("LISTEN millrace_toy")
        toy.enqueue()
        assert len(list(ears.notifies(timeout=5, stop_after=1))) == 1
        toy.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE query LIKE 'SELECT pg_notify%%' AND usename = user"""
        )

        def heard() -> bool:
            toy.enqueue()
            return bool(list(ears.notifies(timeout=0.5, stop_after=1)))

        until(heard, 10)


# Idempotency keys


def test_a_key_gives_the_same_request_its_first_answer(toy: Toy) -> None:
    with toy.database.transaction() as session:
        assert remember(session, toy.workspace, "key", "print", {"job": 1}) is None
    with toy.database.transaction() as session:
        assert remember(session, toy.workspace, "key", "print", {"job": 2}) == {"job": 1}


def test_a_key_of_another_request_is_refused(toy: Toy) -> None:
    with toy.database.transaction() as session:
        remember(session, toy.workspace, "key", "print", {})
    with pytest.raises(KeyReused), toy.database.transaction() as session:
        remember(session, toy.workspace, "key", "other", {})


def test_keys_are_a_workspaces_own(toy: Toy) -> None:
    for workspace in (ids.draw(), ids.draw()):
        with toy.database.transaction() as session:
            assert remember(session, workspace, "key", "print", {}) is None


def test_a_key_whose_request_failed_is_free(toy: Toy) -> None:
    with suppress(Abandoned), toy.database.transaction() as session:
        remember(session, toy.workspace, "key", "print", {})
        raise Abandoned
    with toy.database.transaction() as session:
        assert remember(session, toy.workspace, "key", "other", {}) is None


@pytest.mark.parametrize("key", ["", "k" * 256, "nul\x00", "ké" * 200])
def test_a_key_that_cannot_be_kept_is_a_bad_request(toy: Toy, key: str) -> None:
    with pytest.raises(BadRequest), toy.database.transaction() as session:
        remember(session, toy.workspace, key, "print", {})


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_of_two_requests_at_once_waits_for_the_first(toy: Toy, commits: bool) -> None:
    """It gets the first one's answer if that was committed, and does the work itself if not."""

    def second(database: Database) -> dict[str, Any] | None:
        with database.transaction() as session:
            raw(session).execute("SET LOCAL application_name = 'second'")
            return remember(session, toy.workspace, "key", "print", {"by": "second"})

    def waits() -> bool:
        return bool(
            toy.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'second' AND wait_event_type = 'Lock'")
        )

    with ThreadPoolExecutor(1) as pool:
        with suppress(Abandoned), toy.database.transaction() as session:
            assert remember(session, toy.workspace, "key", "print", {"by": "first"}) is None
            later = pool.submit(second, toy.database)
            until(waits)
            if not commits:
                raise Abandoned
        assert later.result(10) == ({"by": "first"} if commits else None)


def test_what_was_owed_just_before_the_end_is_announced(toy: Toy, open_toy: Callable[[], Database]) -> None:
    with toy.connect() as listening:
        listening.execute("LISTEN millrace_toy")
        for _ in range(20):
            database = open_toy()
            with database.transaction(origin=Origin.request(toy.workspace)) as session:
                enqueue(session, Do())
            database.dispose()
            assert next(listening.notifies(timeout=5, stop_after=1), None) is not None
