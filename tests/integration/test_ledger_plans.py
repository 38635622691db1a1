"""Every statement that the ledger sends all the time has an index, also in a table whose statistics know nothing of it,
and in the plan that is made for whatever values and kept. Retention reads whole weeks, and is not here."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from shared import ids
from shared.db import raw
from shared.errors import RetryLater
from shared.ledger import (
    batches,
    counts,
    feed,
    firing,
    fleet,
    leases,
    limit_rules,
    limits,
    outages,
    partitions,
    queries,
    redrive,
    schedules,
    why,
)
from shared.ledger.attempts import Attempt
from shared.ledger.batches import enqueue_batch
from shared.ledger.dispatch import Dispatcher, EventPublisher
from shared.ledger.enqueue import Origin, enqueue, enqueue_many, publish
from shared.ledger.filters import JobFilter
from shared.ledger.firing import Firer
from shared.ledger.intake import Intake
from shared.ledger.messages import Lane
from shared.ledger.unique import Unique, enqueue_unique
from tests.integration.toy.batches import Batches
from tests.integration.toy.events import SUBSCRIPTIONS, envelope_of
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Asked, Do, Other, ThingDone
from tests.integration.toy.scheduled import HOUR, MINUTE, NOON, Schedules
from tests.integration.toy.wire import Wire

GROWING = re.compile(r"^(job|attempt|event|slot|intervention|effect|idempotency|unique_key|batch)(_\d{8}|_default)?$")
"""Tables, and their partitions, that hold as many rows as there was work."""
WHOLE = {"job_due", "job_running", "job_schedule", "event_unplaced", "schedule_waiting", "slot_waiting", "batch_open"}
"""Partial indexes that may be read from one end to the other: they hold what is not done yet."""

Statement = tuple[str, Any]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Statement]]:
    """What was sent to PostgreSQL, each text once, with the values of its first time."""
    said: dict[str, Statement] = {}
    send = psycopg.Cursor.execute

    def execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        if isinstance(query, str):
            said.setdefault(query, (query, params))
        return send(self, query, params, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    yield said
    monkeypatch.undo()


def live(toy: Toy) -> None:
    """A little of everything that happens to jobs and events."""
    ends: dict[str, Callable[[Attempt], Any]] = {
        "go on": lambda attempt: attempt.continue_as(Other()),
        "fan out": fan_out,
        "return": lambda attempt: attempt.publish(ThingDone(name="a"), subject=attempt.job.id) and 1,
        "finish": finish,
        "retry": lambda attempt: throw(RetryLater("Later.")),
        "fail": lambda attempt: throw(Broken("No.")),
    }
    tasks = tasks_of(lambda attempt, args: ends[args.name](attempt))
    worker = toy.worker()
    with toy.connect() as connection:
        rule(connection)
    jobs = [toy.enqueue(Do(name=name)) for name in ends]
    toy.run(tasks, *jobs, worker=worker)
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        held, overdue, unbegun = enqueue_many(session, [Do(), Do(), Do()])
        publish(session, ThingDone(name="b"), subject=held)
        raw(session).execute("UPDATE job SET deadline = now() - interval '1 s' WHERE id = %s", (overdue,))
        raw(session).execute("UPDATE job SET start_by = now() - interval '1 s' WHERE id = %s", (unbegun,))
    toy.claim(held)
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        for scope in ("queued", "unfinished"):
            for _ in range(2):
                enqueue_unique(session, Other(), Unique.model_validate({"key": scope, "scope": scope}))
    with toy.connect() as connection:
        lead(toy, connection, tasks)
        look(toy, connection, jobs)
        fire(toy, connection)
        step(toy)
    for job in jobs:
        toy.execute("SELECT id FROM job WHERE id = %s", job)
    redrive.redrive_one(toy.database, tasks, toy.workspace, jobs[-1], "somebody")
    redrive.cancel_one(toy.database, tasks, toy.workspace, jobs[-1], "somebody")
    redrive.prioritise_one(toy.database, toy.workspace, toy.enqueue(), "somebody", Lane.URGENT)
    for move in (
        redrive.redriving(tasks, toy.workspace, "somebody"),
        redrive.prioritising(toy.workspace, "somebody", Lane.BULK),
        redrive.cancelling(tasks, toy.workspace, "me"),
    ):
        with toy.connect() as connection:
            redrive.count(connection, toy.workspace, JobFilter(), move)
        redrive.move_all(toy.database, toy.workspace, JobFilter(), move)


def finish(attempt: Attempt) -> None:
    attempt.progress(1, 2)
    attempt.effect_once("key", lambda: None)
    with attempt.noting():
        pass
    with attempt.finishing() as session:
        enqueue(session, Other())


def fan_out(attempt: Attempt) -> None:
    with attempt.finishing() as session:
        owed = enqueue_batch(session, [[Other()]])
        attempt.continue_as(Other(), after=owed.id)


def throw(error: Exception) -> None:
    raise error


def lead(toy: Toy, connection: Any, tasks: Any) -> None:
    wire = Wire()
    Dispatcher("toy", ("toy.jobs",), wire, window=10, redispatch_seconds=1, slots=1).dispatch(connection)
    publisher = EventPublisher("toy", wire)
    publisher.place(connection)
    publisher.publish(connection)
    Firer(toy.database, tasks).fire(connection)
    keeper = leases.Keeper(toy.database, tasks, toy.worker(), "toy", lease_seconds=30, max_crashes=3, in_hand=set)
    keeper.round(connection)
    leases.reap(toy.database, connection, tasks, 3)
    leases.expire(toy.database, connection, tasks)
    leases.forget(connection)
    limits.forget(connection)
    outages.note(connection, "broker", "away")
    outages.clear(connection, "broker")


def fire(toy: Toy, connection: Any) -> None:
    beat = Schedules(toy)
    [first, *_] = made = [beat.make(overlap=overlap) for overlap in ("allow", "skip", "queue", "cancel")]
    for minutes in range(3):
        beat.fire(NOON + minutes * MINUTE)
    toy.run(beat.tasks, schedules.job_id(made[2], NOON), kind=Asked.kind)
    beat.fire(NOON + 3 * MINUTE)
    beat.change(schedules.pause, first, NOON + HOUR)
    beat.change(schedules.resume, first, NOON + 2 * HOUR)
    firing.rearm(connection, NOON)
    schedules.list_schedules(connection, toy.workspace)
    schedules.history(connection, toy.workspace, first)
    with toy.database.transaction() as session:
        schedules.run_now(raw(session), beat.tasks, toy.workspace, first, ids.draw(), ids.draw())
        schedules.delete(raw(session), toy.workspace, first)


def step(toy: Toy) -> None:
    made = Batches(toy)
    failing, cancelled = made.owe(["a"], ["look", "fail"], ["b"], name="failing"), made.owe(["a"], ["b"])
    with toy.database.transaction() as session:
        why.gather(raw(session), "toy", toy.workspace, failing.jobs[1][0])
        batches.list_batches(raw(session), toy.workspace)
        batches.list_batches(raw(session), toy.workspace, state="running", run=ids.draw())
        queries.list_jobs(raw(session), "toy", toy.workspace, JobFilter(batch=failing.id))
        batches.results_of(session, failing.id, 1)
    made.run_out(failing)
    assert made.row(failing)["state"] == "failed"
    made.cancel(cancelled)


def look(toy: Toy, connection: Any, jobs: list[Any]) -> None:
    feed.read(connection, "toy", 0, [ThingDone.type])
    Intake(toy.database, SUBSCRIPTIONS).take([envelope_of()])
    now = datetime.now(UTC)
    for wanted in (
        JobFilter(),
        JobFilter(state="failed"),
        JobFilter(run=ids.draw()),
        JobFilter(state="queued", queue="toy.jobs", lane="bulk"),
        JobFilter(created_from=now - timedelta(days=1), kind=Do.kind, error="no"),
    ):
        queries.list_jobs(connection, "toy", toy.workspace, wanted)
    counts.count(connection, toy.workspace, "hour", None, None)
    queries.show_job(connection, "toy", toy.workspace, jobs[0])
    queries.watched(connection, "toy", jobs)
    queries.depths(connection)
    queries.tallies(connection, toy.workspace, ids.draw(), ids.draw())
    queries.scheduled_runs(connection, toy.workspace, ids.draw(), ids.draw(), 10)
    fleet.list_queues(connection, ["toy.jobs"])
    fleet.list_workers(connection, ended=False)
    fleet.drain(connection, toy.worker(), "somebody")
    with toy.database.transaction() as session:
        queries.part_of_run(raw(session), "toy", toy.workspace, ids.draw())
    for job in (jobs[0], toy.enqueue()):
        with toy.database.transaction() as session:
            why.gather(raw(session), "toy", toy.workspace, job)


def rule(connection: Any) -> None:
    wanted = limit_rules.LimitRequest(concurrency=1000, per_second=1000, burst=1000)
    limit_rules.put(connection, "kind:toy.thing.do", wanted, "me")
    limit_rules.pause(connection, "queue:toy.jobs", "me")
    limit_rules.resume(connection, "queue:toy.jobs", "me")
    limit_rules.list_rules(connection)


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Scan" in plan["Node Type"]:
        yield plan
    for child in plan.get("Plans", ()):
        yield from scans(child)


def forget_statistics(toy: Toy) -> None:
    """What autovacuum, in the middle of other tests, saw of their rows."""
    toy.execute("TRUNCATE job, attempt, event, intervention, slot, effect, idempotency, batch")


def is_bounded(scan: dict[str, Any]) -> bool:
    """Whether it reads a part of a growing table that an index names, or what is not done yet."""
    if scan["Node Type"] == "Bitmap Heap Scan":
        return True  # its index scan is a node of its own
    if "Relation Name" in scan and not GROWING.match(scan["Relation Name"]):
        return True
    if "Index Name" not in scan:
        return "Relation Name" not in scan
    if "Index Cond" in scan:
        return True
    return any(scan["Index Name"].startswith(name) or _of_partition(scan["Index Name"], name) for name in WHOLE)


def _of_partition(index: str, name: str) -> bool:
    """PostgreSQL names the index of a partition by its table and columns."""
    columns = {
        "job_due": "queue_priority_workspace_not_before_id",
        "job_running": "worker",
        "job_schedule": "cause_id",
        "batch_open": "id",
        "event_unplaced": "id",
        "schedule_waiting": "id",
        "slot_waiting": "schedule_id",
    }
    return bool(re.match(rf"^[a-z]+_(\d{{8}}|default)_{columns[name]}_idx\d*$", index))


def test_every_statement_has_an_index(toy: Toy, said: dict[str, Statement]) -> None:
    forget_statistics(toy)
    live(toy)
    statements = [each for text, each in said.items() if re.match(r"\s*(SELECT|UPDATE|WITH|DELETE|INSERT)", text)]
    assert len(statements) > 30, "the whole ledger was at work"
    found = unbounded(toy, statements)
    assert not found, "\n\n".join(found)


def test_partitions_that_were_analyzed_empty_mislead_no_plan(toy: Toy, said: dict[str, Statement]) -> None:
    live(toy)
    statements = [each for text, each in said.items() if re.match(r"\s*(SELECT|UPDATE|WITH|DELETE|INSERT)", text)]
    forget_statistics(toy)
    toy.execute("ANALYZE job, attempt, event, intervention, slot")
    assert unbounded(toy, statements), "the test makes what it is about"
    with toy.connect() as connection:
        partitions.ensure(connection, datetime.now(UTC))
    found = unbounded(toy, statements)
    assert not found, "\n\n".join(found)


def unbounded(toy: Toy, statements: list[Statement]) -> list[str]:
    """Those whose plan reads the whole of something that grows."""
    found = []
    for query, params in statements:
        with toy.connect() as connection, connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            [row] = connection.execute(f"EXPLAIN (FORMAT JSON) {query}", params).fetchall()
        plan = row["QUERY PLAN"][0]["Plan"]
        by = {scan.get("Index Name", scan.get("Relation Name", "")) for scan in scans(plan) if not is_bounded(scan)}
        if by:
            found.append(f"{' '.join(query.split())}\n  reads all of {', '.join(sorted(by))}")
    return found


def test_a_statement_without_an_index_would_be_found(toy: Toy) -> None:
    with toy.connect() as connection:
        [row] = connection.execute("EXPLAIN (FORMAT JSON) SELECT 1 FROM job WHERE kind = 'x'").fetchall()
    assert not all(map(is_bounded, scans(row["QUERY PLAN"][0]["Plan"])))
