"""Requests that come at once share a commit, and nothing else."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from shared import ids
from shared.db import Database, Row
from shared.ledger import joint as joint_module
from shared.ledger.enqueue import Origin, insert, job_row
from shared.ledger.joint import Joint
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import Do


@pytest.fixture
def joint(open_toy: Callable[[], Database]) -> Joint:
    return Joint(open_toy())


def row(toy: Toy, name: str) -> Row:
    return job_row(Do(name=name), Origin.request(toy.workspace), ids.draw())


def together(joint: Joint, toy: Toy, rows: list[Row]) -> list[BaseException | None]:
    """Owe each row from a thread of its own, all while the first one's commit is under way; their errors."""
    with ThreadPoolExecutor(len(rows)) as threads, toy.connect() as gate:
        with gate.transaction():
            gate.execute("LOCK TABLE job IN EXCLUSIVE MODE")
            first = threads.submit(joint.owe, rows[:1])
            until(lambda: is_waiting(toy))
            others = [threads.submit(joint.owe, [each]) for each in rows[1:]]
            until(lambda: joint._open is not None and len(joint._open.writes) == len(others))
        return [done.exception() for done in (first, *others)]


def is_waiting(toy: Toy) -> bool:
    return bool(toy.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'job'::regclass"))


def names(toy: Toy) -> set[str]:
    return {row["args"]["name"] for row in toy.execute("SELECT args FROM job")}


def test_those_that_come_during_a_commit_share_the_next(toy: Toy, joint: Joint) -> None:
    rows = [row(toy, str(n)) for n in range(8)]
    assert together(joint, toy, rows) == [None] * 8
    assert names(toy) == {str(n) for n in range(8)}
    transactions = toy.execute("SELECT count(*) AS jobs FROM job GROUP BY xmin::text ORDER BY 1")
    assert [each["jobs"] for each in transactions] == [1, 7]


def test_one_alone_waits_for_nobody(toy: Toy, joint: Joint, monkeypatch: pytest.MonkeyPatch) -> None:
    breaths: list[float] = []
    monkeypatch.setattr(joint_module.time, "sleep", breaths.append)
    for name in ("a", "b"):
        joint.owe([row(toy, name)])
    assert breaths == []
    together(joint, toy, [row(toy, str(n)) for n in range(3)])
    breaths.clear()
    for name in ("c", "d"):
        joint.owe([row(toy, name)])
    assert breaths == [joint_module.BREATH_SECONDS], "after a commit that was shared, once"


def test_what_one_asked_for_spoils_nothing_for_the_others(toy: Toy, joint: Joint) -> None:
    rows = [row(toy, name) for name in ("first", "good", "\x00", "fine")]
    errors = together(joint, toy, rows)
    assert [type(error) for error in errors] == [
        type(None),
        type(None),
        psycopg.errors.UntranslatableCharacter,
        type(None),
    ]
    assert names(toy) == {"first", "good", "fine"}


def test_a_joint_commit_whose_connection_breaks_is_done_again_once(
    toy: Toy, joint: Joint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it had been stored: its answer alone was lost."""
    broken = threading.Event()

    def insert_and_break(connection: Any, rows: list[Row]) -> None:
        if len(rows) > 1 and not broken.is_set():
            broken.set()
            with toy.connect() as other:
                insert(other, rows)
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        insert(connection, rows)

    rows = [row(toy, str(n)) for n in range(4)]
    monkeypatch.setattr(joint_module, "insert", insert_and_break)
    assert together(joint, toy, rows) == [None] * 4
    assert broken.is_set()
    assert sorted(each["args"]["name"] for each in toy.execute("SELECT args FROM job")) == ["0", "1", "2", "3"]


def test_one_that_is_alone_gets_its_own_error(toy: Toy, joint: Joint) -> None:
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        joint.owe([row(toy, "\x00")])
    joint.owe([row(toy, "next")])
    assert names(toy) == {"next"}
