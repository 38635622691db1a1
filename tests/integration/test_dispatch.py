"""What the dispatcher gives to the broker, how much of it at a time, and what it sends again."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest

from shared import ids
from shared.db import Connection
from shared.ledger import moves, turns
from shared.ledger.dispatch import Dispatcher
from shared.ledger.enqueue import Origin, enqueue, enqueue_many
from shared.ledger.messages import Lane
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.jobs import Do, Other
from tests.integration.toy.wire import Away, Clock, Wire

QUEUE = Do.queue


class Urgent(Do):
    kind: ClassVar[str] = "toy.urgent.do"
    lane: ClassVar[Lane] = Lane.URGENT


class Bulk(Do):
    kind: ClassVar[str] = "toy.bulk.do"
    lane: ClassVar[Lane] = Lane.BULK


class Elsewhere(Do):
    kind: ClassVar[str] = "toy.elsewhere.do"
    queue: ClassVar[str] = "toy.other"


class Desk:
    """A dispatcher with its wire and its clock."""

    def __init__(self, toy: Toy, connection: Connection, **options: Any) -> None:
        self.toy = toy
        self.wire = Wire()
        self.clock = Clock()
        self._connection = connection
        chosen = {"window": 512, "redispatch_seconds": 5.0, "slots": 1, "together": {Do.kind: 128, Other.kind: 128}}
        self.dispatcher = Dispatcher(
            "toy",
            (QUEUE, "toy.other"),
            self.wire,
            monotonic=self.clock,
            **(chosen | options),  # type: ignore[arg-type]
        )

    def round(self, seconds: float = 0.0) -> int:
        """What one round after so many seconds sends."""
        self.clock.now += seconds
        return self.dispatcher.dispatch(self._connection)

    def claim_first(self) -> list[UUID]:
        """A worker takes the oldest message and claims its jobs."""
        message = self.wire.queues[QUEUE].popleft()
        return [job.id for job in self.toy.claim(*message.jobs)]

    def lately(self, kind: type[Do] | type[Other], seconds: float) -> None:
        """As if a job of the kind had taken so many seconds a moment ago."""
        job = self.toy.enqueue(kind())
        [claimed] = self.toy.claim(job)
        moves.succeed(self._connection, [moves.Finished(job, claimed.attempt, None, seconds)])


@pytest.fixture
def connection(toy: Toy) -> Iterator[Connection]:
    with toy.connect() as connection:
        yield connection


@pytest.fixture
def desk(toy: Toy, connection: Connection) -> Callable[..., Desk]:
    return lambda **options: Desk(toy, connection, **options)


def owe(toy: Toy, count: int, args: Do | Other | None = None) -> list[UUID]:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        return enqueue_many(session, [args or Do()] * count)


# What is sent


def test_due_jobs_are_sent_once(toy: Toy, desk: Callable[..., Desk]) -> None:
    jobs = owe(toy, 3)
    d = desk()
    assert [d.round(), d.round(), d.round(1)] == [3, 0, 0]
    assert sorted(d.wire.jobs()) == sorted(jobs)


def test_what_is_not_due_or_not_queued_is_not_sent(toy: Toy, desk: Callable[..., Desk]) -> None:
    later, running, cancelled, due = owe(toy, 4)
    toy.execute("UPDATE job SET not_before = now() + interval '1 hour' WHERE id = %s", later)
    toy.claim(running)
    toy.execute("UPDATE job SET state = 'cancelled' WHERE id = %s", cancelled)
    d = desk()
    d.round()
    assert d.wire.jobs() == [due]


def test_a_wait_ends_at_its_time(toy: Toy, desk: Callable[..., Desk]) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        job = enqueue(session, Do(), not_before=datetime.now(UTC) + timedelta(hours=1))
    d = desk()
    assert d.round() == 0
    toy.hurry()
    assert d.round() == 1
    assert d.wire.jobs() == [job]


def test_each_queue_has_its_own_messages(toy: Toy, desk: Callable[..., Desk]) -> None:
    here, there = toy.enqueue(Do()), toy.enqueue(Elsewhere())
    d = desk()
    d.round()
    assert [message.jobs for message in d.wire.queues[QUEUE]] == [[here]]
    assert [message.jobs for message in d.wire.queues["toy.other"]] == [[there]]


def test_the_urgent_go_first_and_the_oldest_of_a_lane(toy: Toy, desk: Callable[..., Desk]) -> None:
    bulk, normal, urgent = toy.enqueue(Bulk()), toy.enqueue(Do()), toy.enqueue(Urgent())
    older = toy.enqueue(Urgent())
    toy.execute("UPDATE job SET not_before = now() - interval '1 minute' WHERE id = %s", older)
    d = desk()
    d.round()
    assert d.wire.jobs() == [older, urgent, normal, bulk]


def test_the_urgent_go_first_also_when_others_make_full_messages(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk(slots=4, together={Bulk.kind: 2, Urgent.kind: 100})
    d.lately(Bulk, 0.001)
    d.lately(Urgent, 0.001)
    owe(toy, 6, Bulk())
    urgent = owe(toy, 1, Urgent())
    d.round()
    assert d.wire.jobs()[:1] == urgent


# How much is sent


def test_the_broker_holds_a_bounded_window(toy: Toy, desk: Callable[..., Desk]) -> None:
    owe(toy, 30)
    d = desk(window=10)
    assert d.round() == 10
    assert [d.round(0.5) for _ in range(5)] == [0] * 5
    assert d.dispatcher.waiting, "claims will make room"


def test_claims_make_room_and_it_is_refilled_in_one_go(toy: Toy, desk: Callable[..., Desk]) -> None:
    owe(toy, 30)
    d = desk(window=10)
    d.round()
    for _ in range(4):
        d.claim_first()
    assert d.round() == 0
    assert d.dispatcher.claimed == 4
    d.claim_first()
    assert d.round() == 5


def test_all_of_a_backlog_is_sent_in_the_end_and_nothing_twice(toy: Toy, desk: Callable[..., Desk]) -> None:
    jobs = owe(toy, 47)
    d = desk(window=10)
    claimed: list[UUID] = []
    while len(claimed) < 47:
        d.round()
        claimed += d.claim_first()
    assert sorted(claimed) == sorted(jobs)
    assert sorted(d.wire.jobs()) == sorted(jobs)
    assert d.round() == 0
    assert not d.dispatcher.waiting


def test_an_urgent_job_does_not_wait_for_room_among_others(toy: Toy, desk: Callable[..., Desk]) -> None:
    owe(toy, 30)
    d = desk(window=10)
    d.round()
    urgent = owe(toy, 1, Urgent())
    assert d.round() == 1
    assert d.wire.jobs()[-1:] == urgent


def test_idle_rounds_are_told_from_busy_ones(toy: Toy, desk: Callable[..., Desk]) -> None:
    """Only with more work than room is it worth looking for claims."""
    owe(toy, 3)
    d = desk(window=10)
    d.round()
    d.round()
    assert not d.dispatcher.waiting


def test_long_jobs_fill_the_window_with_half_a_second_of_work(toy: Toy, desk: Callable[..., Desk]) -> None:
    """What is in the broker cannot be overtaken."""
    d = desk(slots=2)
    d.lately(Do, 0.25)
    owe(toy, 30)
    assert d.round() == 4
    d.claim_first()
    d.claim_first()
    assert d.round() == 2


def test_a_job_longer_than_the_window_is_sent_all_the_same(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk()
    d.lately(Do, 600.0)
    owe(toy, 3)
    assert d.round() == 1
    d.claim_first()
    assert d.round() == 1


def test_more_workers_make_the_window_hold_more(toy: Toy, desk: Callable[..., Desk]) -> None:
    for _ in range(3):
        toy.worker()
    d = desk()
    d.lately(Do, 0.25)
    owe(toy, 30)
    assert d.round() >= 6


# Whose jobs are sent


def test_another_workspaces_single_job_does_not_wait_for_a_backlog(toy: Toy, desk: Callable[..., Desk]) -> None:
    owe(toy, 300)
    d = desk(window=10)
    d.round()
    other = lone(toy)
    for _ in range(6):
        d.claim_first()
    d.round()
    assert other in d.wire.jobs()[10:12]


def test_each_of_many_workspaces_gets_its_turn(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk(window=200)
    d.lately(Do, 0.001)
    owe(toy, 500)
    others = [lone(toy) for _ in range(100)]
    d.round()
    assert set(others) <= set(d.wire.jobs())
    latest = lone(toy)
    while d.wire.queues[QUEUE]:
        d.claim_first()
    d.round(turns.LOOK_SECONDS)
    assert latest in d.wire.jobs()


def lone(toy: Toy) -> UUID:
    """A job of a workspace that has no other."""
    with toy.database.transaction(origin=Origin.request(ids.draw())) as session:
        return enqueue(session, Do())


# How it is grouped


def test_a_kind_of_unknown_length_travels_one_by_one(toy: Toy, desk: Callable[..., Desk]) -> None:
    owe(toy, 3)
    d = desk()
    d.round()
    assert [len(message.jobs) for message in d.wire.sent] == [1, 1, 1]


@pytest.mark.parametrize(("seconds", "size"), [(0.004, 50), (0.0001, 128), (0.04, 5), (0.15, 1), (30.0, 1)])
def test_short_jobs_share_a_message_by_what_they_took_lately(
    toy: Toy, desk: Callable[..., Desk], seconds: float, size: int
) -> None:
    d = desk()
    d.lately(Do, seconds)
    owe(toy, 130)
    d.round()
    assert max(len(message.jobs) for message in d.wire.sent) in (size, size - 1), "a real has 7 digits"


def test_what_they_took_on_average_decides(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk()
    for seconds in (0.004, 0.156, 0.08):
        d.lately(Do, seconds)
    owe(toy, 5)
    d.round()
    assert [len(message.jobs) for message in d.wire.sent] == [2, 2, 1]


def test_a_message_is_of_one_kind_and_one_lane(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk(together={Do.kind: 128, Other.kind: 128, Urgent.kind: 128})
    for kind in (Do, Other, Urgent):
        d.lately(kind, 0.001)
    for _ in range(4):
        for args in (Do(), Other(), Urgent()):
            toy.enqueue(args)
    d.round()
    assert sorted((message.kind, len(message.jobs)) for message in d.wire.sent) == [
        (Other.kind, 4),
        (Do.kind, 4),
        (Urgent.kind, 4),
    ]


def test_a_kind_may_ask_to_travel_alone(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk(together={Do.kind: 1})
    d.lately(Do, 0.0001)
    owe(toy, 4)
    d.round()
    assert [len(message.jobs) for message in d.wire.sent] == [1] * 4


def test_a_short_backlog_is_shared_by_all_slots(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk(slots=4)
    d.lately(Do, 0.0001)
    owe(toy, 10)
    d.round()
    assert [len(message.jobs) for message in d.wire.sent] == [3, 3, 3, 1]


def test_a_job_that_crashed_a_worker_travels_alone(toy: Toy, desk: Callable[..., Desk]) -> None:
    d = desk()
    d.lately(Do, 0.0001)
    jobs = owe(toy, 5)
    toy.execute("UPDATE job SET crashes = 1 WHERE id = %s", jobs[2])
    d.round()
    assert sorted(len(message.jobs) for message in d.wire.sent) == [1, 4]
    assert [jobs[2]] in [message.jobs for message in d.wire.sent]


# What is sent again


def test_what_the_broker_lost_is_sent_again(toy: Toy, desk: Callable[..., Desk]) -> None:
    jobs = owe(toy, 3)
    d = desk()
    d.round()
    d.wire.queues.clear()
    assert d.round(4) == 0, "a worker may have just taken the messages"
    assert d.round(2) == 3
    assert sorted(d.wire.jobs()) == sorted(jobs + jobs)


def test_what_still_waits_in_the_broker_is_not_sent_again(toy: Toy, desk: Callable[..., Desk]) -> None:
    """All workers are away for a day: the broker must not fill up."""
    owe(toy, 20)
    d = desk(window=10)
    d.round()
    for _ in range(60):
        d.round(24 * 60)
    assert len(d.wire.queues[QUEUE]) == 10


def test_only_what_was_lost_is_sent_again(toy: Toy, desk: Callable[..., Desk]) -> None:
    """The broker lost the older messages; the newer ones wait for a busy worker."""
    older = owe(toy, 2)
    d = desk()
    d.round()
    d.wire.queues.clear()
    newer = owe(toy, 3)
    d.round(4)
    assert d.round(60) == 2
    assert sorted(d.wire.jobs()) == sorted(older + older + newer)


def test_what_a_worker_took_and_never_claimed_is_sent_again(toy: Toy, desk: Callable[..., Desk]) -> None:
    """It died between the two; behind it others still wait."""
    jobs = owe(toy, 3)
    d = desk()
    d.round()
    taken = d.wire.queues[QUEUE].popleft()
    assert d.round(6) == 1
    assert d.wire.sent[-1].jobs == taken.jobs
    assert sorted(d.wire.jobs()) == sorted([*jobs, *taken.jobs])


def test_a_job_that_is_due_again_at_once_is_sent_at_once(toy: Toy, desk: Callable[..., Desk]) -> None:
    """Claimed, crashed and requeued between two looks: that is not the message that nobody took."""
    [job] = owe(toy, 1)
    d = desk()
    d.round()
    assert d.claim_first() == [job]
    toy.execute("UPDATE job SET state = 'queued', worker = NULL WHERE id = %s", job)
    assert d.round() == 1


def test_a_new_leader_sends_once_more_and_the_claim_drops_it(toy: Toy, desk: Callable[..., Desk]) -> None:
    [job] = owe(toy, 1)
    first, second = desk(), desk()
    assert [first.round(), second.round()] == [1, 1]
    ran: list[UUID] = []
    for d in (first, second):
        toy.run(tasks_of(lambda attempt, args: ran.append(attempt.job.id)), *d.wire.jobs())
    assert ran == [job]


def test_while_the_broker_is_away_everything_waits_where_it_is(toy: Toy, desk: Callable[..., Desk]) -> None:
    jobs = owe(toy, 3)
    d = desk()
    d.wire.away = True
    for _ in range(3):
        with pytest.raises(Away):
            d.round()
    assert {toy.job(job)["state"] for job in jobs} == {"queued"}
    d.wire.away = False
    assert d.round() == 3
    assert sorted(d.wire.jobs()) == sorted(jobs)


def test_messages_carry_ids_and_nothing_else(toy: Toy, desk: Callable[..., Desk]) -> None:
    job = toy.enqueue(Do(name="secret"))
    d = desk()
    d.round()
    assert d.wire.sent[0].__dict__ == {"kind": Do.kind, "jobs": [job]}
    assert ids.time_of(job) <= datetime.now(UTC)
