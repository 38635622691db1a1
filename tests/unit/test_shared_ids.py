"""Identifiers that begin with a time (RFC 9562)."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from shared import ids

moments = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # Hypothesis adds the zone
MILLISECOND = timedelta(milliseconds=1)


@given(moments)
def test_a_drawn_id_is_a_uuid7_of_its_time(at: datetime) -> None:
    id = ids.draw(at)
    assert (id.version, id.variant) == (7, "specified in RFC 4122")
    assert timedelta(0) <= at - ids.time_of(id) <= MILLISECOND


def test_drawn_ids_do_not_repeat_and_follow_the_clock() -> None:
    drawn = [ids.draw() for _ in range(10_000)]
    assert len(set(drawn)) == 10_000
    times = [ids.time_of(id) for id in drawn]
    assert times == sorted(times)
    assert abs(datetime.now(UTC) - times[-1]) < timedelta(seconds=10)


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
