"""Whatever happens in whatever order, on several connections: the ledger keeps its promises.

A worker here is whoever believes that it holds a job: it may be a zombie. It begins to finish in a transaction
that stays open while others go on, and learns at its end whether it may commit.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared import ids
from shared.contracts.envelope import Envelope
from shared.db import Connection, raw
from shared.ledger import failures, leases, moves, redrive, steps
from shared.ledger.batches import enqueue_batch
from shared.ledger.enqueue import Origin, enqueue, job_of
from shared.ledger.filters import JobFilter
from shared.ledger.intake import Intake
from shared.ledger.moves import Finished, Next
from shared.ledger.redrive import WrongState
from shared.ledger.tasks import Tasks
from tests.integration.test_ledger_moves import LEGAL, STATES
from tests.integration.toy.events import SUBSCRIPTIONS, envelope_of
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do, NoteThing
from tests.integration.toy.known import Believed, Known, KnownBatch

REASON = {"code": "thing.broken", "detail": "It broke."}
MAX_CRASHES = 2
WORKERS = 3
ENDS = st.lists(st.sampled_from(["succeeded", "failed", "cancelled"]), max_size=2)
TASKS: Tasks = tasks_of(lambda attempt, args: None)


class Ledger(RuleBasedStateMachine):
    toy: Toy
    jobs = Bundle("jobs")
    beliefs = Bundle("beliefs")
    endings = Bundle("endings")
    events = Bundle("events")
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[UUID, Known] = {}
        self.known_batches: dict[UUID, KnownBatch] = {}
        self.workers: list[UUID] = [self.toy.worker() for _ in range(WORKERS)]
        self.lines: list[Connection] = [self.toy.connect() for _ in range(WORKERS)]
        self.open: list[Connection] = []

    def teardown(self) -> None:
        for connection in self.lines + self.open:
            connection.close()
        for table in ("job", "attempt", "effect", "worker", "intervention", "batch"):
            self.toy.execute(f"DELETE FROM {table}")

    def holds(self, belief: Believed) -> bool:
        job = self.known[belief.job]
        return job.state == "running" and job.attempt == belief.attempt

    # Work is owed

    @rule(target=jobs)
    def owe(self) -> UUID:
        job = self.toy.enqueue(Do())
        self.known[job] = Known()
        return job

    @rule(job=jobs)
    def owe_again(self, job: UUID) -> None:
        assert self.toy.enqueue(Do(name="again"), id=job) == job

    @rule(target=jobs, end=st.sampled_from(["deadline", "start_by"]))
    def owe_too_late(self, end: str) -> UUID:
        """Its time has passed: it is never claimed."""
        job = self.toy.enqueue(Do(), **{end: datetime.now(UTC) - timedelta(seconds=1)})
        self.known[job] = Known(is_late=True)
        return job

    @rule(target=events)
    def happen(self) -> Envelope:
        return envelope_of(workspace=self.toy.workspace)

    @rule(target=jobs, given=st.lists(events, min_size=1, max_size=3), by_feed=st.booleans())
    def receive(self, given: list[Envelope], by_feed: bool) -> Any:
        """From the broker or the feed, once or again: each event becomes its job once."""
        intake = Intake(self.toy.database, SUBSCRIPTIONS)
        if by_feed:
            intake.take(given)
        else:
            intake.receive([event.model_dump(mode="json") for event in given])
        owed = {job_of(event, NoteThing) for event in given} - self.known.keys()
        self.known |= {job: Known(NoteThing.retry.max_attempts) for job in owed}
        return multiple(*sorted(owed))

    @rule()
    def owe_and_roll_back(self) -> None:
        with self.toy.database.transaction(origin=Origin.request(self.toy.workspace)) as session:
            enqueue(session, Do())
            session.rollback()

    # Batches

    @rule(
        target=batches,
        sizes=st.lists(st.integers(1, 2), min_size=1, max_size=3),
        on_failure=st.sampled_from(["stop", "continue"]),
        ends=ENDS,
    )
    def owe_a_batch(self, sizes: list[int], on_failure: Any, ends: list[str]) -> UUID:
        with self.toy.database.transaction(origin=Origin.request(self.toy.workspace)) as session:
            owed = enqueue_batch(session, [[Do()] * size for size in sizes], on_failure=on_failure)
        batch = self.known_batches[owed.id] = KnownBatch([], on_failure)
        for number, step in enumerate(owed.jobs, start=1):
            known = {job: Known(batch=batch, step=number, waits=number > 1) for job in step}
            batch.steps.append(list(known.values()))
            self.known |= known
        self.end_its_open_step(owed.id, ends)
        return owed.id

    @rule(target=jobs, batch=batches)
    def know_its_jobs(self, batch: UUID) -> Any:
        return multiple(*(job for job, known in self.known.items() if known.batch is self.known_batches[batch]))

    @rule(by=st.integers(0, WORKERS - 1))
    def go_on_with_batches(self, by: int) -> None:
        while steps.Stepper(self.toy.database, TASKS).go_on(self.lines[by]):
            pass
        while sum(batch.go_on() for batch in self.known_batches.values()):
            pass

    @rule(batch=batches, ends=ENDS)
    def end_its_open_step(self, batch: UUID, ends: list[str]) -> None:
        """Jobs of it that wait for a worker end in one way or another, and the leading Beat looks."""
        known = self.known_batches[batch]
        open_ = [(job, each) for job, each in self.known.items() if each.batch is known and each.step == known.step]
        for (job, each), end in zip(open_, ends, strict=False):
            if end == "cancelled" and each.state in redrive.CANCELLABLE:
                self.call_off(job)
            elif each.is_due:
                [claimed] = moves.claim(self.lines[0], self.workers[0], [job])
                each.attempt += 1
                if end == "failed":
                    moves.fail(self.lines[0], job, claimed.attempt, REASON)
                else:
                    self.lines[0].execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(ids.draw()), job))
                    moves.succeed(self.lines[0], [Finished(job, claimed.attempt)])
                each.leaves(end, end)
        self.go_on_with_batches(0)

    @rule(batch=batches)
    def call_a_batch_off(self, batch: UUID) -> None:
        known = self.known_batches[batch]
        if known.state == "running":
            steps.cancel_batch(self.toy.database, TASKS, self.toy.workspace, batch, "somebody")
            known.end("cancelled")
        else:
            with pytest.raises(WrongState):
                steps.cancel_batch(self.toy.database, TASKS, self.toy.workspace, batch, "somebody")

    # Workers

    @rule(target=beliefs, asked=st.lists(jobs, max_size=4), by=st.integers(0, WORKERS - 1))
    def claim(self, asked: list[UUID], by: int) -> Any:
        worker = self.workers[by]
        claimed = moves.claim(self.lines[by], worker, asked)
        due = {job for job in asked if self.known[job].is_due}
        assert sorted(job.id for job in claimed) == sorted(due), "each once, also when it was asked for twice"
        for each in claimed:
            job = self.known[each.id]
            job.state, job.attempt, job.worker = "running", job.attempt + 1, worker
            assert (each.attempt, each.crashes) == (job.attempt, job.crashes)
        return multiple(*(Believed(each.id, each.attempt, each.part) for each in claimed))

    @rule(target=endings, belief=beliefs)
    def begin_to_finish(self, belief: Believed) -> tuple[Believed, Connection]:
        connection = self.toy.connect()
        self.open.append(connection)
        connection.execute("BEGIN")
        connection.execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(ids.draw()), belief.job))
        return belief, connection

    @rule(ending=consumes(endings), together=st.booleans())
    def finish(self, ending: tuple[Believed, Connection], together: bool) -> None:
        """By the statement for many, or by the one for a transaction of its own."""
        belief, connection = ending
        held, done = self.holds(belief), Finished(belief.job, belief.attempt)
        if together:
            assert moves.succeed(connection, [done]) == ({belief.job} if held else set())
        else:
            assert moves.succeed_one(connection, done, belief.part) == held
        connection.execute("COMMIT" if held else "ROLLBACK")
        if held:
            self.known[belief.job].leaves("succeeded", "succeeded")

    @rule(ending=consumes(endings))
    def go_on_as_another_kind(self, ending: tuple[Believed, Connection]) -> None:
        belief, connection = ending
        held = self.holds(belief)
        assert moves.continue_as(connection, Finished(belief.job, belief.attempt), Next(Do(name="on"))) == held
        connection.execute("COMMIT" if held else "ROLLBACK")
        if held:
            self.known[belief.job].continues()

    @rule(target=batches, belief=beliefs, size=st.integers(1, 2))
    def go_on_after_a_batch(self, belief: Believed, size: int) -> Any:
        with self.toy.database.transaction(origin=Origin(self.toy.workspace, ids.draw(), "job", belief.job)) as session:
            owed = enqueue_batch(session, [[Do()] * size])
            next = Next(Do(name="on"), after=owed.id)
            raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(ids.draw()), belief.job))
            held = moves.continue_as(raw(session), Finished(belief.job, belief.attempt), next)
            assert held == self.holds(belief)
            if not held:
                session.rollback()
                return multiple()
        batch = self.known_batches[owed.id] = KnownBatch([], "stop", opens=self.known[belief.job])
        batch.steps = [[Known(batch=batch, step=1) for _ in range(size)]]
        self.known |= dict(zip(owed.jobs[0], batch.steps[0], strict=True))
        self.known[belief.job].continues(after=batch)
        return owed.id

    @rule(ending=consumes(endings))
    def die_before_the_commit(self, ending: tuple[Believed, Connection]) -> None:
        belief, connection = ending
        moves.succeed(connection, [Finished(belief.job, belief.attempt)])
        connection.close()

    @rule(belief=beliefs, how=st.sampled_from(["retried", "snoozed", "failed"]), by=st.integers(0, WORKERS - 1))
    def give_up_this_attempt(self, belief: Believed, how: str, by: int) -> None:
        held, line = self.holds(belief), self.lines[by]
        if how == "failed":
            assert moves.fail(line, belief.job, belief.attempt, REASON) == held
        else:
            move = moves.retry if how == "retried" else moves.snooze
            assert move(line, belief.job, belief.attempt, REASON, 0.0) == held
        if held:
            self.known[belief.job].leaves("failed" if how == "failed" else "queued", how)

    @rule(belief=beliefs)
    def report(self, belief: Believed) -> None:
        assert moves.report_progress(self.lines[0], belief.job, belief.attempt, {"done": 1}) == self.holds(belief)

    @rule(by=st.integers(0, WORKERS - 1))
    def lose_a_worker(self, by: int) -> None:
        """It dies or freezes: its lease runs out and its jobs are taken back."""
        lost, self.workers[by] = self.workers[by], self.toy.worker()
        self.toy.lose(lost)
        held = [job for job in self.known.values() if job.worker == lost]
        assert leases.reap(self.toy.database, self.lines[by], TASKS, MAX_CRASHES) == len(held)
        for job in held:
            if job.crashes + 1 >= MAX_CRASHES:
                job.leaves("failed", "failed", crashed=True)
            else:
                job.leaves("queued", "lost", crashed=True)

    @rule(belief=beliefs, by=st.integers(0, WORKERS - 1))
    def lose_a_pool_process(self, belief: Believed, by: int) -> None:
        """The keeper takes one job back; as it read the row before, it may be late."""
        held = self.holds(belief)
        job = failures.Held(
            belief.job, Do.kind, belief.attempt, 0, 3, self.toy.workspace, ids.draw(), {"name": "", "value": None}
        )
        failures.take_back(self.toy.database, TASKS, job, REASON, max_crashes=100)
        if held:
            self.known[belief.job].leaves("queued", "lost", crashed=True)

    @rule(by=st.integers(0, WORKERS - 1))
    def give_up_what_is_late(self, by: int) -> None:
        late = [job for job in self.known.values() if job.state == "queued" and job.is_late]
        assert leases.expire(self.toy.database, self.lines[by], TASKS) == len(late)
        for job in late:
            job.state = "failed"

    # People

    @rule(job=jobs, by=st.integers(0, WORKERS - 1))
    def give_up_a_queued_job(self, job: UUID, by: int) -> None:
        queued = self.known[job].state == "queued"
        assert not moves.give_up(self.lines[by], job, self.known[job].attempt + 1, REASON)
        assert moves.give_up(self.lines[by], job, self.known[job].attempt, REASON) == queued
        if queued:
            self.known[job].state = "failed"

    @rule(job=jobs)
    def call_off(self, job: UUID) -> None:
        """Also while its attempt runs, and while that is about to finish."""
        known = self.known[job]
        if known.state in redrive.CANCELLABLE:
            redrive.cancel_one(self.toy.database, TASKS, self.toy.workspace, job, "somebody")
            known.cancel()
        else:
            with pytest.raises(WrongState):
                redrive.cancel_one(self.toy.database, TASKS, self.toy.workspace, job, "somebody")

    @rule(job=jobs)
    def drive_again(self, job: UUID) -> None:
        known = self.known[job]
        if known.state in redrive.REDRIVABLE:
            redrive.redrive_one(self.toy.database, TASKS, self.toy.workspace, job, "somebody")
            known.redrive()
        else:
            with pytest.raises(WrongState):
                redrive.redrive_one(self.toy.database, TASKS, self.toy.workspace, job, "somebody")

    @rule(states=st.sampled_from([redrive.CANCELLABLE, ("queued",), ("running",)]), limit=st.integers(1, 4))
    def call_off_many(self, states: tuple[str, ...], limit: int) -> None:
        move = redrive.cancelling(TASKS, self.toy.workspace, "somebody")
        for job in self.move_many(move, states, limit):
            self.known[job].cancel()

    @rule(states=st.sampled_from([redrive.REDRIVABLE, ("failed",), ("cancelled",)]), limit=st.integers(1, 4))
    def drive_many_again(self, states: tuple[str, ...], limit: int) -> None:
        move = redrive.redriving(TASKS, self.toy.workspace, "somebody")
        for job in self.move_many(move, states, limit):
            self.known[job].redrive()

    def move_many(self, move: redrive.Move, states: tuple[str, ...], limit: int) -> list[UUID]:
        """The jobs that must have been moved: the oldest that match."""
        wanted = JobFilter(state=states[0] if len(states) == 1 else None)  # type: ignore[arg-type]
        matching = sorted(job for job, known in self.known.items() if known.state in states)
        assert sum(redrive.count(self.lines[0], self.toy.workspace, wanted, move).values()) == len(matching)
        moved = redrive.move_all(self.toy.database, self.toy.workspace, wanted, move, limit)
        assert (moved.jobs, moved.more) == (len(matching[:limit]), len(matching) > limit)
        return matching[:limit]

    @rule(job=jobs, state=st.sampled_from([state for state in STATES if state != "running"]))
    def move_by_hand(self, job: UUID, state: str) -> None:
        """Only what is legal; and not from `running`, whose end the moves above record."""
        before = self.known[job].state
        if before in ("running", state):
            return
        try:
            self.toy.execute("UPDATE job SET state = %s WHERE id = %s", state, job)
            moved = True
        except psycopg.errors.CheckViolation:
            moved = False
        assert moved == ((before, state) in LEGAL)
        if moved:
            self.known[job].state = state

    # What always holds

    @invariant()
    def the_ledger_is_as_known(self) -> None:
        rows = self.toy.execute(
            """SELECT job.id, state, attempt, crashes, max_attempts, not_before > now() + interval '1 year' AS waits,
                      coalesce((SELECT array_agg(outcome ORDER BY number) FROM attempt WHERE attempt.job = job.id),
                               '{}') AS outcomes,
                      coalesce((SELECT array_agg(number ORDER BY number) FROM attempt WHERE attempt.job = job.id),
                               '{}') AS numbers,
                      coalesce((SELECT array_agg(act ORDER BY at) FROM intervention
                                WHERE intervention.job = job.id), '{}') AS acts,
                      (SELECT count(*) FROM effect WHERE effect.job = job.id) AS effects
               FROM job"""
        )
        assert {row["id"] for row in rows} == set(self.known)
        for row in self.toy.execute("SELECT id, state, step FROM batch"):
            batch = self.known_batches[row["id"]]
            assert (row["state"], row["step"]) == (batch.state, batch.step)
        for row in rows:
            job = self.known[row["id"]]
            assert (row["state"], row["attempt"], row["crashes"]) == (job.state, job.attempt, job.crashes)
            assert row["max_attempts"] == job.tries + job.granted, "fresh tries after each redrive"
            assert (row["outcomes"], row["acts"]) == (job.outcomes, job.acts)
            ended = row["attempt"] - (row["state"] == "running")
            assert row["numbers"] == list(range(1, ended + 1)), "one record an attempt that has ended"
            assert row["waits"] == job.waits, "for its step, or a batch of its own"
            assert job.outcomes.count("succeeded") <= 1, "one end a job"
            done = job.outcomes.count("succeeded") + job.outcomes.count("continued")
            assert row["effects"] == done, "one commit an attempt that did its part"


def test_the_ledger_keeps_its_promises(toy: Toy) -> None:
    class Here(Ledger):
        pass

    Here.toy = toy
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,  # the same walk in every run; more of them: raise max_examples
            suppress_health_check=list(HealthCheck),
        ),
    )
