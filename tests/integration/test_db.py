"""A connection that a thread keeps for its transactions: what is written in one is written whole or not at all,
whatever becomes of the connection."""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from shared import ids
from shared.db import Database, raw
from shared.testing.waiting import until
from tests.integration.toy.harness import Toy

LOST = (psycopg.Error, DBAPIError)
Write = Callable[[Session, str], object]
THREADS = 12
"""More than a pool has connections."""


@pytest.fixture
def database(toy: Toy, open_toy: Callable[[], Database]) -> Database:
    return open_toy()


@pytest.fixture
def alarm() -> Iterator[None]:
    """An alarm raises, as the time limit of a job does."""

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def written_out(session: Session, key: str) -> None:
    raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (key, ids.draw()))


def by_the_session(session: Session, key: str) -> None:
    session.execute(text("INSERT INTO effect (key, job) VALUES (:key, :job)"), {"key": key, "job": ids.draw()})  # type: ignore[deprecated]


WAYS = pytest.mark.parametrize("write", [written_out, by_the_session])


def keys(toy: Toy) -> set[str]:
    return {row["key"] for row in toy.execute("SELECT key FROM effect")}


def backend(database: Database, *, kept: bool = True) -> int:
    with database.transaction(kept=kept) as session:
        return pid(session)


def pid(session: Session) -> int:
    [row] = raw(session).execute("SELECT pg_backend_pid() AS pid").fetchall()
    return row["pid"]  # type: ignore[no-any-return]


def end(toy: Toy, backend: int) -> None:
    toy.execute("SELECT pg_terminate_backend(%s)", backend)
    until(lambda: is_gone(toy, backend))


def is_gone(toy: Toy, backend: int) -> bool:
    return not toy.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend)


def test_a_thread_has_one_connection_for_all_its_transactions(database: Database) -> None:
    first = backend(database)
    assert {backend(database) for _ in range(3)} == {first}
    with ThreadPoolExecutor(1) as other:
        assert other.submit(backend, database).result() != first


def test_more_threads_than_the_pool_has_connections_are_in_transactions_at_once(toy: Toy, database: Database) -> None:
    all_are_in = threading.Barrier(THREADS, timeout=30)

    def work(number: int) -> None:
        with database.transaction(kept=True) as session:
            written_out(session, str(number))
            all_are_in.wait()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))
    assert keys(toy) == {str(number) for number in range(THREADS)}


@WAYS
def test_what_is_written_is_committed_at_the_end_and_not_before(toy: Toy, database: Database, write: Write) -> None:
    for key in ("one", "two"):
        with database.transaction(kept=True) as session:
            write(session, key)
            assert key not in keys(toy)
        assert key in keys(toy)


@WAYS
def test_what_an_error_ends_is_rolled_back(toy: Toy, database: Database, write: Write) -> None:
    before = backend(database)
    with suppress(KeyError), database.transaction(kept=True) as session:
        write(session, "one")
        raise KeyError
    with suppress(*LOST), database.transaction(kept=True) as session:
        write(session, "two")
        write(session, "two")
    with database.transaction(kept=True) as session:
        write(session, "three")
    assert (keys(toy), backend(database)) == ({"three"}, before)


@pytest.mark.parametrize("ways", [(written_out, by_the_session), (by_the_session, written_out)])
def test_both_ways_of_writing_are_one_transaction(toy: Toy, database: Database, ways: tuple[Write, Write]) -> None:
    for fails in (True, False):
        with suppress(KeyError), database.transaction(kept=True) as session:
            for way in ways:
                way(session, way.__name__)
            if fails:
                raise KeyError
        assert keys(toy) == (set() if fails else {way.__name__ for way in ways})


def test_one_transaction_within_another_is_apart_from_it(toy: Toy, database: Database) -> None:
    with suppress(KeyError), database.transaction(kept=True) as outer:
        written_out(outer, "outer")
        with database.transaction(kept=True) as inner:
            written_out(inner, "inner")
            assert pid(inner) != pid(outer)
        raise KeyError
    assert keys(toy) == {"inner"}


@WAYS
def test_a_connection_that_was_dropped_meanwhile_is_replaced_unnoticed(
    toy: Toy, database: Database, write: Write
) -> None:
    end(toy, backend(database))
    with database.transaction(kept=True) as session:
        write(session, "one")
    assert keys(toy) == {"one"}


@WAYS
def test_a_connection_that_is_dropped_within_a_transaction_takes_it_along(
    toy: Toy, database: Database, write: Write
) -> None:
    with suppress(*LOST), database.transaction(kept=True) as session:
        write(session, "one")
        end(toy, pid(session))
        write(session, "two")
    with database.transaction(kept=True) as session:
        write(session, "three")
    assert keys(toy) == {"three"}


@WAYS
def test_a_commit_that_finds_the_connection_dropped_says_so(toy: Toy, database: Database, write: Write) -> None:
    def work() -> None:
        with database.transaction(kept=True) as session:
            write(session, "one")
            end(toy, pid(session))

    with pytest.raises(LOST):
        work()
    assert keys(toy) == set()


def test_who_is_silent_for_too_long_has_lost_the_transaction(toy: Toy, toy_url: str) -> None:
    database = Database(toy_url, application="toy-test", silent_seconds=0.1)

    def work() -> None:
        with database.transaction(kept=True) as session:
            written_out(session, "one")
            silent = pid(session)
            until(lambda: is_gone(toy, silent))

    with pytest.raises(LOST):
        work()
    with database.transaction(kept=True) as session:
        written_out(session, "two")
    database.dispose()
    assert keys(toy) == {"two"}


@WAYS
def test_who_is_interrupted_at_a_statement_leaves_no_lock(
    toy: Toy, database: Database, alarm: None, write: Write
) -> None:
    with toy.connect() as other, other.transaction():
        other.execute("INSERT INTO effect (key, job) VALUES ('two', gen_random_uuid())")
        with suppress(TimeoutError), database.transaction(kept=True) as session:
            write(session, "one")
            interrupted = pid(session)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            write(session, "two")  # waits for the other
    until(lambda: is_gone(toy, interrupted))
    with database.transaction(kept=True) as session:
        write(session, "one")
    assert keys(toy) == {"one", "two"}


def test_a_forked_process_has_connections_of_its_own(toy: Toy, database: Database) -> None:
    before = backend(database)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads
        child = os.fork()
    if child == 0:
        with suppress(BaseException), database.transaction(kept=True) as session:
            written_out(session, "parent's" if pid(session) == before else "own")
        os._exit(0)
    os.waitpid(child, 0)
    assert (keys(toy), backend(database)) == ({"own"}, before)


def test_disposing_closes_what_threads_keep(toy: Toy, database: Database) -> None:
    with ThreadPoolExecutor(1) as other:
        kept = {backend(database), other.submit(backend, database).result()}
    database.dispose()
    until(lambda: all(is_gone(toy, backend) for backend in kept))
    assert backend(database) not in kept
