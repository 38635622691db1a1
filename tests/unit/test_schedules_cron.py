"""Cron expressions, by hand and against an independent implementation (cronsim)."""

import re
from contextlib import suppress
from datetime import datetime
from itertools import islice

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from shared.schedules.cron import HORIZON_YEARS, Cron, CronInvalid, parse

RANGES = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
MONTHS = ("JAN", "feb", "Mar", "APR", "may", "Jun", "JUL", "aug", "Sep", "OCT", "nov", "Dec")
DAYS = ("SUN", "mon", "Tue", "WED", "thu", "Fri", "SAT")


def following(cron: Cron, wall: datetime, number: int) -> list[datetime]:
    found = []
    while len(found) < number and (nearest := cron.after(wall)) is not None:
        wall = nearest
        found.append(wall)
    return found


def times(text: str, begin: str, number: int = 3) -> list[str]:
    return [f"{wall:%Y-%m-%d %H:%M:%S}" for wall in following(parse(text), datetime.fromisoformat(begin), number)]


@st.composite
def values(draw: st.DrawFn, name: str) -> str:
    number = draw(st.integers(*RANGES[name]))
    if name == "month" and draw(st.booleans()):
        return MONTHS[number - 1]
    if name == "weekday" and number < 7 and draw(st.booleans()):
        return DAYS[number]
    return str(number)


@st.composite
def terms(draw: st.DrawFn, name: str) -> str:
    low, high = sorted(draw(st.tuples(st.integers(*RANGES[name]), st.integers(*RANGES[name]))))
    step = draw(st.integers(1, 40))
    shapes = [draw(values(name)), f"{low}-{high}", f"*/{step}", f"{low}/{step}"]
    if low < high:  # the other one takes 5-5/2 for 5/2
        shapes.append(f"{low}-{high}/{step}")
    return draw(st.sampled_from([*shapes, "L"] if name == "day" else shapes))


@st.composite
def fields(draw: st.DrawFn, name: str) -> str:
    listed = ",".join(draw(st.lists(terms(name), min_size=1, max_size=3)))
    return draw(st.sampled_from(["*", listed]))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    with_seconds = draw(st.booleans())
    return " ".join(draw(fields(name)) for name in RANGES if with_seconds or name != "second")


@given(expressions(), st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1)))  # noqa: DTZ001  # readings have no zone
def test_it_names_the_times_that_another_implementation_names(text: str, begin: datetime) -> None:
    try:
        cron = parse(text)
    except CronInvalid:
        with pytest.raises(Exception, match=r"Bad|StopIteration|^$"):
            next(CronSim(text, begin))
        return
    assert following(cron, begin, 20) == list(islice(CronSim(text, begin), 20))


@pytest.mark.parametrize(
    ("text", "begin", "expected"),
    [
        ("30 2 * * *", "2026-01-31 02:30:00", ["2026-02-01 02:30:00", "2026-02-02 02:30:00", "2026-02-03 02:30:00"]),
        (
            "*/20 * * * * *",
            "2026-12-31 23:59:30",
            ["2026-12-31 23:59:40", "2027-01-01 00:00:00", "2027-01-01 00:00:20"],
        ),
        ("0 0 31 * *", "2026-01-31 12:00:00", ["2026-03-31 00:00:00", "2026-05-31 00:00:00", "2026-07-31 00:00:00"]),
        ("0 0 L * *", "2027-12-31 12:00:00", ["2028-01-31 00:00:00", "2028-02-29 00:00:00", "2028-03-31 00:00:00"]),
        ("0 0 l 2 *", "2026-01-01 00:00:00", ["2026-02-28 00:00:00", "2027-02-28 00:00:00", "2028-02-29 00:00:00"]),
        ("0 0 29 2 *", "2096-02-29 00:00:00", ["2104-02-29 00:00:00", "2108-02-29 00:00:00", "2112-02-29 00:00:00"]),
        ("0 0 13 * FRI", "2026-02-12 00:00:00", ["2026-02-13 00:00:00", "2026-02-20 00:00:00", "2026-02-27 00:00:00"]),
        ("0 0 */2 * MON", "2026-06-01 00:00:00", ["2026-06-15 00:00:00", "2026-06-29 00:00:00", "2026-07-13 00:00:00"]),
        ("0 0 * * 7", "2026-06-01 00:00:00", ["2026-06-07 00:00:00", "2026-06-14 00:00:00", "2026-06-21 00:00:00"]),
        ("@monthly", "2026-06-01 00:00:00", ["2026-07-01 00:00:00", "2026-08-01 00:00:00", "2026-09-01 00:00:00"]),
        ("@Hourly", "2026-06-01 00:00:00", ["2026-06-01 01:00:00", "2026-06-01 02:00:00", "2026-06-01 03:00:00"]),
        ("5/25 12 1 1 *", "2026-01-01 12:06:00", ["2026-01-01 12:30:00", "2026-01-01 12:55:00", "2027-01-01 12:05:00"]),
    ],
)
def test_known_expressions(text: str, begin: str, expected: list[str]) -> None:
    assert times(text, begin) == expected


def test_fractions_of_a_second_are_passed_over() -> None:
    assert times("* * * * * *", "2026-01-01 00:00:00.999999", 1) == ["2026-01-01 00:00:01"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "5 fields are needed"),
        ("* * * *", "there are 4"),
        ("* * * * * * *", "there are 7"),
        ("61 * * * *", "minute: 61 is not between 0 and 59"),
        ("* 24 * * *", "hour: 24 is not between 0 and 23"),
        ("* * 0 * *", "day of month: 0 is not between 1 and 31"),
        ("* * * 13 *", "month: 13 is not between 1 and 12"),
        ("* * * * 8", "day of week: 8 is not between 0 and 7"),
        ("60 * * * * *", "second: 60 is not between 0 and 59"),
        ("* * * FOO *", "month: 'FOO' is neither a number nor"),
        ("* L * * *", "hour: 'L' is neither"),
        ("* * * * MON-", "day of week: 'MON-' is neither"),
        ("1,,2 * * * *", "minute: '' is neither"),
        ("-1 * * * *", "minute: '-1' is neither"),
        ("*/0 * * * *", "minute: '0' is no step"),
        ("*/x * * * *", "minute: 'x' is no step"),
        ("*/ * * * *", "minute: '' is no step"),
        ("30-10 * * * *", "minute: the range 30-10 ends before it begins"),
        ("٣ * * * *", "minute: '٣' is neither"),
        ("99999999999 * * * *", "minute: '99999999999' is neither"),
        ("@reboot", "@reboot is none of @yearly"),
        ("0 0 30 2 *", "no day of the calendar fits"),
        ("0 0 31 4,6,9,11 *", "no day of the calendar fits"),
        ("* " * 150, "longer than 200 characters"),
    ],
)
def test_what_is_wrong_is_said_with_the_fields_name(text: str, said: str) -> None:
    with pytest.raises(CronInvalid, match=re.escape(said)):
        parse(text)


@given(st.text(max_size=30))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(CronInvalid):
        parse(text)


def test_the_longest_wait_for_a_day_is_within_the_horizon() -> None:
    """29 February on a Sunday: `*/7` is Sunday, and by beginning with `*` asks for both day fields."""
    cron = parse("0 0 29 2 */7")
    begins = [datetime(year, 3, 1) for year in range(2000, 2400)]  # noqa: DTZ001
    waits = [found.year - begin.year for begin in begins if (found := cron.after(begin))]
    assert len(waits) == len(begins)
    assert max(waits) == HORIZON_YEARS
