"""What may run at once and how often: exact at the claim, for all workers together."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from uuid import UUID

import pytest

from shared import ids
from shared.db import Connection, Database
from shared.ledger import moves
from shared.ledger.dispatch import Dispatcher
from shared.ledger.enqueue import Origin, enqueue, enqueue_many
from shared.ledger.limit_rules import asked_key
from shared.ledger.messages import JobArgs
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do, Other
from tests.integration.toy.wire import Clock, Wire


class Call(Do):
    """Names the host that it calls."""

    kind: ClassVar[str] = "toy.host.call"

    def limit_key(self) -> str | None:
        return f"host:{self.name}"


def rule(toy: Toy, key: str, **columns: Any) -> None:
    names = ", ".join(("key", *columns))
    places = ", ".join("%s" for _ in range(len(columns) + 1))
    toy.execute(f"INSERT INTO limit_rule ({names}) VALUES ({places})", key, *columns.values())


def owe(toy: Toy, *many: JobArgs, workspace: UUID | None = None) -> list[UUID]:
    with toy.database.transaction(origin=Origin.request(workspace or toy.workspace)) as session:
        return enqueue_many(session, many)


def end(toy: Toy, job: UUID) -> None:
    toy.execute("UPDATE job SET state = 'succeeded', finished_at = now() WHERE id = %s", job)


KEYS = {
    "queue:toy.jobs": lambda toy: owe(toy, Do(), Other(), Call(name="a")),
    "kind:toy.thing.do": lambda toy: owe(toy, Do(), Do(), Do()),
    "key:host:a": lambda toy: owe(toy, Call(name="a"), Call(name="a"), Call(name="a")),
    "each:host": lambda toy: owe(toy, Call(name="a"), Call(name="a"), Call(name="a")),
}


@pytest.mark.parametrize("key", KEYS)
def test_no_more_run_at_once_than_a_rule_allows(toy: Toy, key: str) -> None:
    rule(toy, key, concurrency=2)
    jobs = KEYS[key](toy)
    held = toy.claim(*jobs)
    assert [job.id for job in held] == jobs[:2], "those of one message count too"
    assert toy.claim(jobs[2]) == []
    assert toy.job(jobs[2])["state"] == "queued"
    end(toy, held[0].id)
    assert [job.id for job in toy.claim(jobs[2])] == [jobs[2]]


def test_a_rule_of_a_workspace_is_no_others(toy: Toy) -> None:
    rule(toy, f"workspace:{toy.workspace}", concurrency=1)
    mine, others = owe(toy, Do(), Do()), owe(toy, Do(), Do(), workspace=ids.draw())
    assert {job.id for job in toy.claim(*mine, *others)} == {mine[0], *others}


def test_each_name_has_its_own_count(toy: Toy) -> None:
    rule(toy, "each:host", concurrency=1)
    jobs = owe(toy, Call(name="a"), Call(name="a"), Call(name="b"), Do())
    assert [job.id for job in toy.claim(*jobs)] == [jobs[0], jobs[2], jobs[3]]


def test_what_requests_name_counts_by_workspace_and_never_with_what_code_names(toy: Toy) -> None:
    rule(toy, "each:asked.host", concurrency=1)
    rule(toy, "each:host", concurrency=1, per_second=0.001)
    other = ids.draw()
    jobs = owe(toy, *(Do() for _ in range(4)), Call(name="a"))
    for job, workspace, name in zip(jobs, (toy.workspace, toy.workspace, other, other), "aaab", strict=False):
        toy.execute("UPDATE job SET limit_key = %s WHERE id = %s", asked_key(workspace, f"host:{name}"), job)
    assert [job.id for job in toy.claim(*jobs)] == [jobs[0], jobs[2], jobs[3], jobs[4]]


def test_the_strictest_of_several_rules_holds(toy: Toy) -> None:
    rule(toy, "kind:toy.host.call", concurrency=3)
    rule(toy, "each:host", concurrency=2)
    jobs = owe(toy, *(Call(name=name) for name in "aaabb"))
    assert [job.id for job in toy.claim(*jobs)] == [jobs[0], jobs[1], jobs[3]]


def test_workers_that_claim_at_once_do_not_exceed_it_together(toy: Toy, open_toy: Callable[[], Database]) -> None:
    rule(toy, "kind:toy.thing.do", concurrency=5)
    jobs = owe(toy, *[Do()] * 40)
    workers = [toy.worker() for _ in range(8)]
    connections = [open_toy().connect() for _ in workers]

    def claim(number: int) -> int:
        return len(moves.claim(connections[number], workers[number], jobs[number * 5 :][:5]))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claim, range(8))) == 5
    for connection in connections:
        connection.close()


def test_a_rate_lets_a_burst_and_then_so_many_a_second(toy: Toy) -> None:
    rule(toy, "kind:toy.thing.do", per_second=0.1, burst=3)
    jobs = owe(toy, *[Do()] * 8)
    assert [job.id for job in toy.claim(*jobs)] == jobs[:3]
    passed(toy, 25)
    assert [job.id for job in toy.claim(*jobs)] == jobs[3:5]
    passed(toy, 1e6)
    assert len(toy.claim(*jobs)) == 3, "an hour without work saves up no more than a burst"


def test_a_job_that_one_rule_holds_back_takes_no_token_of_another(toy: Toy) -> None:
    rule(toy, "kind:toy.host.call", per_second=0.001, burst=1)
    rule(toy, "key:host:a", concurrency=1, per_second=0.001, burst=1)
    first, second = owe(toy, Call(name="a"), Call(name="b"))
    toy.execute("INSERT INTO limit_bucket (key, tokens, filled_at) VALUES ('key:host:a', 0, clock_timestamp())")
    assert [job.id for job in toy.claim(first, second)] == [second]


def test_what_is_paused_does_not_begin_and_what_runs_goes_on(toy: Toy) -> None:
    running, waiting = owe(toy, Do(), Do())
    toy.claim(running)
    rule(toy, "queue:toy.jobs", paused_at="now")
    assert toy.claim(waiting) == []
    end(toy, running)
    toy.execute("UPDATE limit_rule SET paused_at = NULL")
    assert [job.id for job in toy.claim(waiting)] == [waiting]


def test_a_clock_that_is_set_back_stops_no_rate(toy: Toy) -> None:
    rule(toy, "kind:toy.thing.do", per_second=0.001, burst=1)
    first, second = owe(toy, Do(), Do())
    assert [job.id for job in toy.claim(first, second)] == [first]
    passed(toy, -3600)
    assert [job.id for job in toy.claim(second)] == [second]


def passed(toy: Toy, seconds: float) -> None:
    toy.execute("UPDATE limit_bucket SET filled_at = filled_at - make_interval(secs => %s)", seconds)


# What is sent


@pytest.fixture
def connection(toy: Toy) -> Iterator[Connection]:
    with toy.connect() as connection:
        yield connection


class Desk:
    def __init__(self, connection: Connection) -> None:
        self.wire, self.clock = Wire(), Clock()
        self._connection = connection
        self.dispatcher = Dispatcher(
            "toy", ("toy.jobs",), self.wire, window=100, redispatch_seconds=5.0, slots=4, monotonic=self.clock
        )

    def round(self) -> list[UUID]:
        """What one round sends."""
        before = len(self.wire.jobs())
        self.dispatcher.dispatch(self._connection)
        return self.wire.jobs()[before:]


@pytest.fixture
def desk(connection: Connection) -> Desk:
    return Desk(connection)


def test_only_what_may_begin_is_sent(toy: Toy, desk: Desk) -> None:
    rule(toy, "kind:toy.thing.do", concurrency=2)
    first, *others = jobs = owe(toy, *[Do()] * 5)
    other = toy.enqueue(Other())
    assert desk.round() == [*jobs[:2], other]
    assert desk.round() == []
    assert desk.dispatcher.waiting
    toy.claim(first)
    assert desk.round() == [], "one runs and one is on its way"
    end(toy, first)
    assert desk.round() == [others[1]]
    assert desk.dispatcher.claimed > 0, "it is worth looking again soon"


def test_what_a_limit_holds_back_hides_nothing_behind_it(toy: Toy, desk: Desk) -> None:
    rule(toy, "each:host", concurrency=1)
    owe(toy, *[Call(name="a")] * 1000)
    late = owe(toy, Call(name="b"))
    desk.round()
    desk.round()
    assert late[0] in desk.wire.jobs()
    assert len(desk.wire.jobs()) == 2


@pytest.mark.parametrize("key", ["queue:toy.jobs", "kind:toy.thing.do"])
def test_what_is_paused_is_not_sent(toy: Toy, desk: Desk, key: str) -> None:
    rule(toy, key, paused_at="now")
    jobs = owe(toy, Do(), Do())
    assert desk.round() == []
    toy.execute("UPDATE limit_rule SET paused_at = NULL")
    assert desk.round() == jobs


def test_a_rate_says_when_to_look_again(toy: Toy, desk: Desk) -> None:
    rule(toy, "kind:toy.thing.do", per_second=2.0, burst=1)
    first, second = owe(toy, Do(), Do())
    assert desk.round() == [first]
    toy.claim(first)
    assert desk.round() == []
    assert 0.2 < desk.dispatcher.again_in <= 0.5
    passed(toy, 0.6)
    assert desk.round() == [second]


def test_a_workspace_of_twice_the_weight_gets_twice_as_much(toy: Toy, desk: Desk) -> None:
    heavy = ids.draw()
    rule(toy, f"workspace:{heavy}", weight=2)
    owe(toy, *[Do()] * 300)
    mine = set(owe(toy, *[Do()] * 300, workspace=heavy))
    sent = desk.round()
    assert 1.8 < len(mine & set(sent)) / len(set(sent) - mine) < 2.2


def test_without_rules_limits_cost_nothing_to_look_at(toy: Toy, desk: Desk) -> None:
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        job = enqueue(session, Do())
    assert desk.round() == [job]
    assert desk.dispatcher.again_in == float("inf")
