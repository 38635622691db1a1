"""Finished work ages out by the week, what has not ended stays, and nothing forgotten comes back as new."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import psycopg
import pytest
import structlog

from shared import ids
from shared.db import raw
from shared.ledger import feed, moves, partitions, redrive, retention
from shared.ledger import intake as intake_module
from shared.ledger.batches import insert_batch
from shared.ledger.enqueue import Origin, job_row, origin, remember
from shared.ledger.intake import Intake
from shared.ledger.retention import Aged, Retention
from tests.integration.toy.events import SUBSCRIPTIONS, envelope_of, noted
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do, ThingDone
from tests.integration.toy.web import application, served

DAYS = 30.0
WEEK = partitions.week_of(datetime(2020, 3, 4, tzinfo=UTC))
"""Long ago: the partitions of these days are other tests'."""
LATER = WEEK + timedelta(weeks=1, days=DAYS)
"""When the week may go."""
FINE = tasks_of(lambda attempt, args: "fine")
NAME = partitions.name("job", WEEK)


@pytest.fixture(autouse=True)
def week(toy: Toy) -> Iterator[None]:
    """The week's partitions, and none of it left in the end."""
    with toy.connect() as connection:
        partitions.ensure(connection, WEEK)
        yield
        for table in ("job", "attempt", "intervention", "event", "slot"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM horizon")
        retention.drop_weeks(connection, datetime(2021, 1, 1, tzinfo=UTC), DAYS)


def enqueue(toy: Toy, at: datetime = WEEK + timedelta(days=1)) -> UUID:
    return toy.enqueue(Do(), id=ids.draw(at))


def finish(toy: Toy, *jobs: UUID, at: datetime = WEEK + timedelta(days=2)) -> None:
    toy.run(FINE, *jobs)
    toy.execute("UPDATE job SET finished_at = %s WHERE id = ANY(%s)", at, list(jobs))


def drop(toy: Toy, now: datetime = LATER, followed: tuple[str, ...] = ()) -> list[str]:
    with toy.connect() as connection:
        return retention.drop_weeks(connection, now, DAYS, followed)


def home(toy: Toy, id: UUID, table: str = "job", key: str = "id") -> str:
    [row] = toy.execute(f"SELECT tableoid::regclass::text AS name FROM {table} WHERE {key} = %s", id)
    return str(row["name"])


def tables(toy: Toy) -> set[str]:
    rows = toy.execute("SELECT relname FROM pg_class WHERE relname LIKE '%%20200302%%' AND relkind = 'r'")
    return {row["relname"] for row in rows}


# Weeks


def test_a_week_goes_with_its_jobs_attempts_and_interventions_when_it_is_old_enough(toy: Toy) -> None:
    old = enqueue(toy)
    redrive.cancel_one(toy.database, FINE, toy.workspace, old, "test")
    redrive.redrive_one(toy.database, FINE, toy.workspace, old, "test")
    finish(toy, old)
    new = toy.enqueue()
    assert NAME not in drop(toy, LATER - timedelta(seconds=1))
    assert toy.job(old)
    assert NAME in drop(toy)
    for table, key in (("job", "id"), ("attempt", "job"), ("intervention", "job")):
        assert toy.execute(f"SELECT 1 FROM {table} WHERE {key} = %s", old) == []
    assert tables(toy) == set()
    assert toy.job(new)["state"] == "queued"
    assert drop(toy) == []


@pytest.mark.parametrize("state", ["queued", "running", "failed lately", "redriven"])
def test_a_job_that_has_not_ended_or_ended_lately_survives_with_its_history(toy: Toy, state: str) -> None:
    old, survivor = enqueue(toy), enqueue(toy)
    finish(toy, old)
    [claimed] = toy.claim(survivor)
    with toy.connect() as connection:
        if state == "queued":
            moves.retry(connection, survivor, 1, {"code": "x", "detail": "y"}, 0)
        elif state != "running":
            moves.fail(connection, survivor, 1, {"code": "x", "detail": "y"})
    if state == "redriven":
        toy.execute("UPDATE job SET finished_at = %s WHERE id = %s", WEEK, survivor)
        redrive.redrive_one(toy.database, FINE, toy.workspace, survivor, "test")
    before = (toy.job(survivor), toy.attempts(survivor))
    drop(toy)
    assert toy.execute("SELECT 1 FROM job WHERE id = %s", old) == []
    assert (toy.job(survivor), toy.attempts(survivor)) == before
    assert home(toy, survivor) == f"{NAME}_kept"
    assert drop(toy) == []
    # It goes on as it was: guarded, claimed, finished.
    with pytest.raises(psycopg.errors.CheckViolation, match="moves only with a claim"):
        toy.execute("UPDATE job SET attempt = attempt + 1 WHERE id = %s", survivor)
    if state == "running":
        with toy.connect() as connection:
            assert moves.succeed(connection, [moves.Finished(survivor, claimed.attempt)]) == {survivor}
    elif state != "failed lately":
        toy.run_out(FINE, survivor)
        assert toy.job(survivor)["state"] == "succeeded"
    toy.execute("UPDATE job SET finished_at = %s WHERE id = %s", WEEK, survivor)
    assert f"{NAME}_kept" in drop(toy)
    assert tables(toy) == set()


def test_a_week_with_too_many_survivors_stays_whole(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_SURVIVORS", 2)
    jobs = [enqueue(toy) for _ in range(3)]
    assert NAME not in drop(toy)
    finish(toy, jobs[0])
    assert NAME in drop(toy)
    assert {home(toy, job) for job in jobs[1:]} == {f"{NAME}_kept"}


def test_a_long_reader_is_not_waited_for_and_holds_nobody_up(toy: Toy) -> None:
    finish(toy, enqueue(toy))
    with toy.connect() as reader, reader.transaction():
        reader.execute("SELECT 1 FROM job LIMIT 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            drop(toy)
        assert toy.enqueue()
    assert NAME in drop(toy)


def test_dying_between_taking_off_and_dropping_leaves_nothing_behind(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(toy, enqueue(toy))
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_drop_what_was_taken_off", lambda connection: None)
        drop(toy)
    assert f"{NAME}_gone" in tables(toy)
    assert toy.execute("SELECT 1 FROM job") == []
    drop(toy)
    assert tables(toy) == set()


def test_two_leaders_at_once_do_it_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked at a week before either takes it off."""
    finish(toy, enqueue(toy))
    both, lock = threading.Barrier(2, timeout=30), retention._lock

    def lock_together(connection: Any, tables: Any) -> None:
        both.wait()
        lock(connection, tables)

    monkeypatch.setattr(retention, "_lock", lock_together)
    with ThreadPoolExecutor(2) as leaders:
        first, second = leaders.map(lambda _: drop(toy), range(2))
    assert sorted([*first, *second]).count(NAME) == 1
    assert len({*first, *second}) == len(first) + len(second)
    assert tables(toy) == set()


def test_a_job_that_is_redriven_and_ends_while_its_week_is_looked_at_survives(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, look = enqueue(toy), retention._survivors
    redrive.cancel_one(toy.database, FINE, toy.workspace, job, "test")
    toy.execute("UPDATE job SET finished_at = %s WHERE id = %s", WEEK + timedelta(days=2), job)

    def look_early(connection: Any, week: retention.Week, cutoff: datetime) -> set[UUID]:
        found = look(connection, week, cutoff)
        if week.name == NAME:
            redrive.redrive_one(toy.database, FINE, toy.workspace, job, "test")
            toy.run(FINE, job)
        return found

    monkeypatch.setattr(retention, "_survivors", look_early)
    assert NAME in drop(toy)
    assert (toy.job(job)["state"], home(toy, job)) == ("succeeded", f"{NAME}_kept")


def test_slots_that_wait_keep_their_week(toy: Toy) -> None:
    """A schedule may be paused for longer than anything is kept."""
    at = WEEK + timedelta(days=1)
    toy.execute(
        """INSERT INTO slot (id, schedule, at, due_at, outcome, decided_at) VALUES (%s, %s, %s, %s, 'waiting', %s)""",
        ids.draw(at), ids.draw(), at, at, at,
    )  # fmt: skip
    assert partitions.name("slot", WEEK) not in drop(toy)
    toy.execute("UPDATE slot SET outcome = 'skipped'")
    assert partitions.name("slot", WEEK) in drop(toy)


def test_a_week_of_which_something_survived_is_not_made_again(toy: Toy) -> None:
    survivor = enqueue(toy)
    assert NAME in drop(toy)
    with toy.connect() as connection:
        partitions.ensure(connection, WEEK)
    assert home(toy, survivor) == f"{NAME}_kept"
    assert home(toy, enqueue(toy)) == f"{NAME}_kept"


# Events


def state(toy: Toy, name: str, at: datetime = WEEK + timedelta(days=1), position: int | None = None) -> UUID:
    id = ids.draw(at)
    toy.execute(
        """INSERT INTO event (id, position, type, subject, time, workspace, run, causation, data)
           VALUES (%s, %s, 'toy.thing.done.v1', 's', %s, %s, %s, %s, jsonb_build_object('name', %s::text))""",
        id, position, at, toy.workspace, id, id, name,
    )  # fmt: skip
    return id


def publish_up_to(toy: Toy, position: int) -> None:
    toy.execute("INSERT INTO cursor (name, position) VALUES ('published', %s)", position)


def read(toy: Toy, after: int) -> feed.Page:
    with toy.connect() as connection:
        return feed.read(connection, "toy", after, [])


def test_events_that_were_not_given_to_the_broker_keep_their_week(toy: Toy) -> None:
    state(toy, "unplaced")
    assert partitions.name("event", WEEK) not in drop(toy)
    toy.execute("UPDATE event SET position = 7")
    assert partitions.name("event", WEEK) not in drop(toy)
    publish_up_to(toy, 7)
    assert partitions.name("event", WEEK) in drop(toy)
    assert toy.execute("SELECT 1 FROM event") == []


def test_a_reader_that_is_behind_is_told_what_it_missed(toy: Toy) -> None:
    for position in (3, 4):
        state(toy, "old", position=position)
    state(toy, "new", datetime.now(UTC), position=5)
    publish_up_to(toy, 5)
    assert read(toy, 3).missed == 0
    drop(toy)
    page = read(toy, 3)
    assert ([event.data["name"] for event in page.events], page.next, page.missed) == (["new"], 5, 4)
    assert read(toy, 4).missed == 0
    assert read(toy, 0).missed == 4, "it may be about to begin, or have been away since the first event"


# What comes again


def test_an_event_that_comes_again_after_the_drop_is_not_taken_in_twice(toy: Toy) -> None:
    intake = Intake(toy.database, SUBSCRIPTIONS)
    event = envelope_of("old", id=ids.draw(WEEK + timedelta(days=1)))
    intake.take([event])
    toy.run(FINE, *[row["id"] for row in toy.execute("SELECT id FROM job")], kind="toy.thing.note")
    toy.execute("UPDATE job SET finished_at = %s", WEEK)
    drop(toy)
    assert noted(toy) == []
    intake.take([event, envelope_of("new")])
    assert noted(toy) == ["new"]


def test_no_job_is_forgotten_before_the_feeds_were_read(toy: Toy) -> None:
    """A consumer that was away for longer than it remembers takes in first what it missed."""
    finish(toy, enqueue(toy))
    assert NAME not in drop(toy, followed=("ingest", "reports"))
    toy.execute("INSERT INTO cursor (name, position) VALUES ('feed:ingest', 5), ('feed:reports', 0)")
    toy.execute("UPDATE cursor SET moved_at = now() - interval '2 days' WHERE name = 'feed:reports'")
    assert NAME not in drop(toy, followed=("ingest", "reports"))
    toy.execute("UPDATE cursor SET moved_at = now()")
    assert NAME in drop(toy, followed=("ingest", "reports"))


def test_what_is_behind_the_first_page_of_an_old_backlog_is_taken_in_before_jobs_are_forgotten(
    toy: Toy, toy_url: str, tmp_path: Path
) -> None:
    finish(toy, enqueue(toy))
    for number in (1, 2, 3):
        state(toy, str(number), position=number)
    app = application(toy_url, tmp_path)
    seen: list[int] = []

    class DropBetween(Intake):
        def take(self, events: Any) -> int:
            """Somebody drops what is old after the first page's jobs and cursor were committed."""
            if len(seen) == 1:
                assert NAME not in drop(toy, followed=("toy",))
            seen.append(len(events))
            return super().take(events)

    with served(app) as url, httpx.Client(params={"limit": 2}) as client:
        follower = feed.Follower("toy", url, "events-key", [ThingDone.type])
        assert follower.catch_up(toy.database, DropBetween(toy.database, SUBSCRIPTIONS), client) == 3
    app.state.database.dispose()
    assert seen == [2, 1, 0]
    assert noted(toy) == ["1", "2", "3"]
    assert NAME in drop(toy, followed=("toy",)), "the end was reached"


@contextmanager
def logged_by(module: Any) -> Iterator[list[Any]]:
    """What the module logs inside the block, however logging was set up before."""
    capture = structlog.testing.LogCapture()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[capture]))
        yield capture.entries


def test_what_is_passed_over_for_its_age_is_said(toy: Toy) -> None:
    old, event = enqueue(toy), envelope_of("old", id=ids.draw(WEEK + timedelta(days=1)))
    finish(toy, old)
    assert NAME in drop(toy)
    with logged_by(intake_module) as logs:
        Intake(toy.database, SUBSCRIPTIONS).take([event, envelope_of("new")])
    [said] = [entry for entry in logs if entry["event"] == "old events passed over"]
    assert (said["events"], said["first"]) == (1, [str(event.id)])


# Rows


def step(toy: Toy, table: str, rows: int = 2) -> bool:
    [aged] = [aged for aged in retention.ledgers(DAYS) if aged.table == table]
    with toy.connect() as connection:
        return retention.delete_step(connection, datetime.now(UTC), aged, rows)


def test_idempotency_keys_go_in_steps_after_a_week(toy: Toy) -> None:
    for number in range(5):
        with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
            remember(session, toy.workspace, f"k{number}", "f", {})
            raw(session).execute(
                "UPDATE idempotency SET created_at = now() - %s * interval '1 day' WHERE key = %s",
                (8 if number < 3 else 6, f"k{number}"),
            )
    assert (step(toy, "idempotency"), step(toy, "idempotency")) == (True, False)
    assert [row["key"] for row in toy.execute("SELECT key FROM idempotency ORDER BY 1")] == ["k3", "k4"]


def test_an_effect_is_remembered_as_long_as_its_job(toy: Toy) -> None:
    job = toy.enqueue()
    for key, owner in (("kept", job), ("gone", ids.draw())):
        toy.execute("INSERT INTO effect (key, job, created_at) VALUES (%s, %s, now() - interval '1 year')", key, owner)
    toy.execute("INSERT INTO effect (key, job) VALUES ('new', %s)", ids.draw())
    step(toy, "effect")
    assert [row["key"] for row in toy.execute("SELECT key FROM effect ORDER BY 1")] == ["kept", "new"]


def test_what_strayed_into_default_partitions_goes_in_steps(toy: Toy) -> None:
    stray, waiting = (enqueue(toy, datetime(2012, 1, 1, tzinfo=UTC)) for _ in range(2))
    finish(toy, stray)
    toy.execute("UPDATE attempt SET finished_at = %s", WEEK)
    unpublished = state(toy, "x", datetime(2012, 1, 1, tzinfo=UTC))
    assert home(toy, stray) == "job_default"
    for table in ("job_default", "attempt_default", "event_default"):
        step(toy, table)
    assert [row["id"] for row in toy.execute("SELECT id FROM job")] == [waiting]
    assert toy.execute("SELECT 1 FROM attempt") == []
    assert [row["id"] for row in toy.execute("SELECT id FROM event")] == [unpublished]


def test_jobs_of_a_batch_stay_until_it_has_ended_and_it_stays_until_they_are_gone(toy: Toy) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        because = origin(session)
        rows = [[job_row(Do(), because, ids.draw(WEEK + timedelta(days=1)))] for _ in range(2)]
        owed = insert_batch(session, because, rows, name=None, on_failure="stop")
    [first], [second] = owed.jobs
    finish(toy, first)
    drop(toy)
    assert toy.job(first)["state"] == "succeeded", "the batch looks at it when it ends"
    toy.execute("UPDATE job SET not_before = now() WHERE id = %s", second)
    finish(toy, second)
    toy.execute("UPDATE batch SET state = 'succeeded', finished_at = %s", WEEK + timedelta(days=2))
    aged = next(each for each in retention.ledgers(DAYS) if each.table == "batch")
    with toy.connect() as connection:
        retention.delete_step(connection, LATER, aged)
        assert len(toy.execute("SELECT id FROM batch")) == 1, "its jobs are there"
        drop(toy)
        assert toy.execute("SELECT id FROM job") == []
        retention.delete_step(connection, LATER, aged)
    assert toy.execute("SELECT id FROM batch") == []


def test_a_services_own_tables_age_by_its_own_days(toy: Toy) -> None:
    toy.execute("CREATE TABLE IF NOT EXISTS aged (at timestamptz)")
    toy.execute("INSERT INTO aged SELECT now() - n * interval '1 day' FROM generate_series(1, 4) AS n")
    with toy.connect() as connection:
        retention.delete_step(connection, datetime.now(UTC), Aged("aged", "at", 2.5))
    assert toy.execute("SELECT count(*) AS n FROM aged") == [{"n": 2}]
    toy.execute("DROP TABLE aged")


# Rounds


def test_a_round_says_when_the_next_one_is_due(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    rounds = Retention(DAYS, (), (), lambda: clock[0])
    finish(toy, enqueue(toy))
    for _ in range(3):
        toy.execute(
            "INSERT INTO effect (key, job, created_at) VALUES (%s, %s, now() - interval '1 year')",
            str(ids.draw()),
            ids.draw(),
        )
    with toy.connect() as connection, logged_by(retention) as logs:
        monkeypatch.setattr(retention.delete_step, "__defaults__", (2,))
        assert rounds.round(connection, LATER) == retention.WEEKS_SECONDS
        assert rounds.round(connection, datetime.now(UTC)) == retention.STEP_SECONDS
        assert rounds.round(connection, datetime.now(UTC)) == retention.WEEKS_SECONDS
    assert [NAME in entry["partitions"] for entry in logs if entry["event"] == "weeks dropped"] == [True]
    assert toy.execute("SELECT 1 FROM effect") == []
