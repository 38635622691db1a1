"""Identifiers that begin with a time (RFC 9562)."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared import ids

moments = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # Hypothesis adds the zone
MILLISECOND = timedelta(milliseconds=1)


@given(moments)
@example(datetime(2515, 1, 1, microsecond=99_999, tzinfo=UTC))
def test_a_drawn_id_is_a_uuid7_of_its_time(at: datetime) -> None:
    id = ids.draw(at)
    assert (id.version, id.variant) == (7, "specified in RFC 4122")
    assert timedelta(0) <= at - ids.time_of(id) < MILLISECOND


def test_drawn_ids_follow_each_other_also_within_a_millisecond() -> None:
    drawn = [ids.draw() for _ in range(20_000)]
    assert drawn == sorted(set(drawn))
    assert {(id.version, id.variant) for id in drawn} == {(7, "specified in RFC 4122")}
    assert abs(datetime.now(UTC) - ids.time_of(drawn[-1])) < timedelta(seconds=10)


def test_threads_draw_different_ids() -> None:
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: ids.draw(), range(20_000)))
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("back", "follows"), [(0.5, False), (3600, True)])
def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch, back: float, follows: bool) -> None:
    """By a little: ids still go up. By much: it was wrong before."""
    before = ids.draw()
    set_back = time.time_ns() - int(back * 1e9)
    monkeypatch.setattr(ids.time, "time_ns", lambda: set_back)
    after = ids.draw()
    assert (after < before) == follows
    assert ids.draw() > after


@given(moments, st.text(), st.text())
def test_a_derived_id_is_a_uuid8_of_its_causes_time_and_always_the_same(at: datetime, first: str, second: str) -> None:
    cause = ids.draw(at)
    id = ids.derive(cause, first, second)
    assert (id.version, id.variant) == (8, "specified in RFC 4122")
    assert ids.time_of(id) == ids.time_of(cause)
    assert id == ids.derive(cause, first, second)
    assert id == ids.derive(UUID(str(cause)), first, second)


def test_whatever_is_different_derives_another_id() -> None:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    cause, other = ids.draw(at), ids.draw(at)
    derived = {
        ids.derive(cause),
        ids.derive(cause, "a"),
        ids.derive(cause, "a", "b"),
        ids.derive(cause, "b", "a"),
        ids.derive(other, "a"),
        ids.derive(at, "a"),
        ids.derive(at + MILLISECOND, "a"),
        ids.derive(at + timedelta(microseconds=1), "a"),
    }
    assert len(derived) == 8


def test_an_instant_derives_one_id_in_whatever_zone_it_is_told() -> None:
    at = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    zones = [timezone(timedelta(hours=hours)) for hours in (-12, 0, 2, 14)]
    assert len({ids.derive(at.astimezone(zone), "a") for zone in zones}) == 1


@given(moments)
def test_a_floor_is_below_all_ids_of_its_millisecond_and_above_those_before(at: datetime) -> None:
    floor = ids.floor(at)
    assert floor < ids.draw(at)
    assert floor <= ids.derive(at, "a")
    assert ids.draw(at - MILLISECOND) < floor
