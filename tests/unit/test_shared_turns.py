"""Whose turn it is: workspaces share what there is, whatever each has waiting."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.turns import Turns

A, B, C = (UUID(int=n) for n in range(3))


def due(*spaces: UUID) -> list[dict[str, Any]]:
    return [{"workspace": space, "n": n} for n, space in enumerate(spaces)]


def order(turns: Turns, rows: list[dict[str, Any]], room: float = 1e9, share: float = 1.0) -> list[UUID]:
    return [row["workspace"] for row in turns.take(rows, room, lambda row: share)]


@pytest.fixture
def turns() -> Turns:
    return Turns(lambda: 0.0)


def test_a_single_job_does_not_wait_for_a_backlog(turns: Turns) -> None:
    assert B in order(turns, due(*[A] * 10, B))[:2]


def test_two_backlogs_alternate(turns: Turns) -> None:
    assert order(turns, due(*[A] * 3, *[B] * 3)) == [A, B] * 3


def test_each_workspaces_jobs_keep_their_order(turns: Turns) -> None:
    rows = turns.take(due(A, A, B, A, B), 1e9, lambda row: 1.0)
    for space in (A, B):
        numbers = [row["n"] for row in rows if row["workspace"] == space]
        assert numbers == sorted(numbers)


def test_who_had_much_lets_others_go_first(turns: Turns) -> None:
    assert order(turns, due(*[A] * 4, B), room=1) == [A]
    assert order(turns, due(*[A] * 4, B), room=1) == [B]


def test_who_comes_anew_begins_where_the_others_are(turns: Turns) -> None:
    """Time without work is not saved up: it is not owed a hundred turns in a row."""
    order(turns, due(*[A] * 100))
    assert order(turns, due(*[A] * 10, *[B] * 10), room=8).count(B) <= 5


def test_long_jobs_cost_more_of_a_turn(turns: Turns) -> None:
    rows = turns.take(due(*[A] * 100, *[B] * 100), 80, lambda row: 4.0 if row["workspace"] == A else 1.0)
    spaces = [row["workspace"] for row in rows]
    assert 3 <= spaces.count(B) / spaces.count(A) <= 5


def test_at_least_one_goes_however_long_it_is(turns: Turns) -> None:
    assert order(turns, due(A, B), room=0.5, share=100) == [A]


@given(st.lists(st.sampled_from([A, B, C]), max_size=60), st.integers(1, 60))
def test_nobody_who_has_more_waiting_gets_less_than_another(spaces: list[UUID], room: int) -> None:
    taken = order(Turns(lambda: 0.0), due(*spaces), room=room)
    assert len(taken) == min(room, len(spaces))
    for one in (A, B, C):
        for other in (A, B, C):
            if taken.count(one) < spaces.count(one):
                assert taken.count(one) >= taken.count(other) - 1
