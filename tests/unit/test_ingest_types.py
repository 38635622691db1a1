"""Typing: what each type accepts (against Python's own parsers), and which type a column gets."""

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.adapters.columns import converted, fits
from services.ingest.adapters.engine import literal, opened
from services.ingest.domain import CANDIDATES, NUMBERS, SHARES_VALUES_WITH, ColumnType, Kind, Tally, can_still_be
from tests.unit.ingest_loading import load

POOL = re.findall(
    r"\S+",
    """
0 -0 1 -12 +5 007 -007 00 9223372036854775807 -9223372036854775808 9223372036854775808 12345678901234567890
1.5 -0.25 .5 -.5 5. 0.10 00.5 1,5 1_000 0x10 1e3 1E-3 -1.5e+10 1e999 1e-999 0e-999 1e 999999999999999.5
123456789012345 1234567890123456 12345678901234567890123456789012345678 123456789012345678901234567890123456789
0.1234567890123456789012345678901234567 0.12345678901234567890123456789012345678 NaN nan inf Infinity -inf
true TRUE False tRuE t yes 1. . - -. e5 ١٢ １２
2024-02-29 2023-02-29 2024-2-9 2024-13-01 0001-01-01 0000-01-01 9999-12-31 10000-01-01 2024-W05-1 20240229 epoch
2024-02-29T13:05 2024-02-29T13:05:59 2024-02-29T13:05:59.123456 2024-02-29T13:05:59.1234560 2024-02-29T13:05:59.1234567
2024-02-29T24:00:00 2024-02-29T23:59:60 2024-02-30T10:00:00 2024-02-29t10:00 2024-02-29T1:05 2024-02-29T13:05:59.
2024-02-29T13:05Z 2024-02-29T13:05:59+05:30 2024-02-29T13:05:59-0800 2024-02-29T13:05:59+05 2024-02-29T13:05:59+15:00
0001-01-01T00:00:00+14:00 9999-12-31T23:59:59-14:00 2024-02-29T13:05:59z 2024-02-29T13:05:59+5 2024-02-29T
""",
)
POOL += [
    " 5",
    "5 ",
    "1 000",
    "2024-02-29 13:05:59",
    "2024-02-29  13:05:59",
    "2024-02-29 13:05:59 Z",
    "a'b",
    "5\n",
    "\n",
]
values = st.one_of(
    st.text(st.sampled_from("0123456789-+.eE:TZ "), min_size=1, max_size=24),
    st.sampled_from(POOL).flatmap(lambda value: st.sampled_from([value, value[:-1], value + "0", "-" + value])),
    st.integers().map(str),
    st.floats().map(repr),
    st.decimals().map(str),
    st.datetimes().map(datetime.isoformat),
    st.dates().map(date.isoformat),
).filter(bool)


def of(kind: Kind, value: str) -> bool:
    """The documented rule of one kind, by Python's parsers."""
    try:
        return _RULES[kind](value)
    except (ValueError, ArithmeticError):
        return False


def _plain_number(value: str) -> bool:
    whole, point, fraction = value.removeprefix("-").partition(".")
    digits = all(part == "" or (part.isascii() and part.isdigit()) for part in (whole, fraction))
    shaped = bool(fraction) if point else bool(whole)
    return digits and shaped and (whole in ("", "0") or not whole.startswith("0"))


def _bigint(value: str) -> bool:
    return _plain_number(value) and "." not in value and -(2**63) <= int(value) < 2**63


def _decimal(value: str) -> bool:
    whole, _, fraction = value.removeprefix("-").partition(".")
    return _plain_number(value) and max(1, len(whole)) + len(fraction) <= 38


def _double(value: str) -> bool:
    mantissa, _, exponent = value.replace("E", "e").partition("e")
    if not _plain_number(mantissa) or ("e" in value.lower() and not exponent):
        return False
    if exponent and not (exponent.lstrip("+-").isdigit() and len(exponent.lstrip("+-")) <= 4):
        return False
    if mantissa == value and "." not in value and len(value.removeprefix("-")) >= 16:
        return False
    return isfinite(float(value)) and (float(value) != 0 or Decimal(mantissa) == 0)


def _date(value: str) -> bool:
    return date.fromisoformat(value).isoformat() == value


def _clock(value: str) -> datetime:
    if value[10] not in "T " or not _date(value[:10]):
        raise ValueError(value)
    clock, point, fraction = value[11:].partition(".")
    if point and (not fraction.isdigit() or fraction[6:].strip("0") or not fraction.isascii()):
        raise ValueError(value)
    told = time.fromisoformat(clock)
    if told.tzinfo or told.isoformat("minutes" if len(clock) == 5 and not point else "seconds") != clock:
        raise ValueError(value)
    return datetime.combine(date.fromisoformat(value[:10]), told)


def _timestamp(value: str) -> bool:
    return len(value) >= 16 and bool(_clock(value))


def _zoned(value: str) -> bool:
    if value.endswith("Z"):
        return _timestamp(value[:-1])
    at = max(value.rfind("+"), value.rfind("-"))
    zone = value[at + 1 :].replace(":", "")
    if at < 16 or value[at + 1 :] not in (zone, f"{zone[:2]}:{zone[2:]}") or len(zone) not in (2, 4):
        return False
    if not zone.isdigit() or int(zone[:2]) > 14 or int(zone[2:] or 0) > 59 or value.endswith(":"):
        return False
    minutes = int(zone[:2]) * 60 + int(zone[2:] or 0)
    _clock(value[:at]) + timedelta(minutes=-minutes if value[at] == "+" else minutes)
    return len(value[:at]) >= 16


_RULES = {
    Kind.BOOLEAN: lambda value: value.lower() in ("true", "false"),
    Kind.BIGINT: _bigint,
    Kind.DECIMAL: _decimal,
    Kind.DOUBLE: _double,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.TIMESTAMP_ZONED: _zoned,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("scratch"), [Path("unused")]) as engine:
        yield engine


def judged(engine, kind: Kind, given: list[str]) -> list[bool]:
    table = ", ".join(f"({i}, {literal(value)})" for i, value in enumerate(given))
    return [row[0] for row in engine.rows(f"SELECT {fits(kind, 'v')} FROM (VALUES {table}) AS t(i, v) ORDER BY i")]


@pytest.mark.parametrize("kind", CANDIDATES)
def test_a_type_accepts_what_its_rule_says(engine, kind):
    assert dict(zip(POOL, judged(engine, kind, POOL), strict=True)) == {value: of(kind, value) for value in POOL}


@settings(max_examples=40, deadline=None)
@given(st.lists(values, min_size=1, max_size=200))
def test_a_type_accepts_no_more_and_no_less_for_any_text(engine, given):
    for kind in CANDIDATES:
        assert dict(zip(given, judged(engine, kind, given), strict=True)) == {value: of(kind, value) for value in given}


def test_no_value_is_of_two_kinds_that_are_said_to_share_none():
    for value in POOL:
        kinds = [kind for kind in CANDIDATES if of(kind, value)]
        assert all(other in SHARES_VALUES_WITH.get(kind, ()) for i, kind in enumerate(kinds) for other in kinds[:i])


@settings(max_examples=20, deadline=None)
@given(st.lists(values, min_size=1, max_size=50))
def test_what_fits_is_converted_without_loss(engine, given):
    wanted = {
        Kind.BIGINT: int,
        Kind.DOUBLE: float,
        Kind.DATE: date.fromisoformat,
        Kind.TIMESTAMP: lambda value: _clock(value).replace(microsecond=_micros(value)),
    }
    for kind, parse in wanted.items():
        fitting = [value for value in given if of(kind, value)]
        for value in fitting:
            (stored,) = engine.row(f"SELECT {converted(ColumnType(kind), literal(value))}")
            assert stored == parse(value)


def _micros(value: str) -> int:
    return int(value.partition(".")[2][:6].ljust(6, "0")) if "." in value else 0


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["1", "-2", ""], "bigint"),
        (["1", "2.50"], "decimal"),
        ([".5", "-0.25"], "decimal"),
        (["9223372036854775808", "1"], "decimal"),
        (["1" * 39], "text"),
        (["1e3", "2.5"], "double"),
        (["0." + "1" * 40], "double"),
        (["true", "FALSE"], "boolean"),
        (["0", "1"], "bigint"),
        (["yes", "no"], "text"),
        (["NaN", "Infinity"], "text"),
        (["2024-02-29"], "date"),
        (["2024-02-29 10:00", "2024-02-29T10:00:01.5"], "timestamp"),
        (["2024-02-29T10:00Z", "2024-02-29T10:00+02:00"], "timestamp"),
        (["2024-02-29T10:00Z", "2024-02-29T10:00"], "text"),
        (["2024-02-29", "2024-02-29T10:00"], "text"),
        (["01/02/2024"], "text"),
        (["", ""], "text"),
        ([" 1"], "text"),
        (["+1"], "text"),
        (["1,000"], "text"),
    ],
)
def test_a_column_gets_the_first_type_that_its_values_fit(given, name):
    lines = "".join(f'{i},"{value}"\n' for i, value in enumerate(given))
    stored = load("id,v\n" + lines)
    assert (stored.types["v"], stored.refused) == (name, [])


def test_one_leading_zero_makes_a_column_of_numbers_text():
    stored = load("zip,n\n00123,1\n" + "45678,1\n" * 99)
    assert stored.types == {"zip": "text", "n": "bigint"}
    assert stored.rows[0][0] == "00123"


@pytest.mark.parametrize(("bad", "name"), [(5, "bigint"), (6, "text")])
def test_a_type_holds_from_the_threshold_on(bad, name):
    stored = load("id,v\n" + "1,7\n" * (100 - bad) + "1,x\n" * bad)
    assert stored.types["v"] == name
    assert stored.result.rows_rejected == (bad if name == "bigint" else 0)


def test_a_fraction_in_a_column_of_whole_numbers_is_rejected_and_not_rounded():
    stored = load("id,n\n" + "".join(f"{i},{i}\n" for i in range(99)) + "99,1.5\n")
    assert stored.types["n"] == "bigint"
    assert stored.refused == [(101, "n", "1.5", "value.not_bigint")]


def test_zoned_times_are_stored_in_utc():
    stored = load("id,at\n1,2024-03-01T00:30:00+02:00\n2,2024-03-01T00:30:00Z\n")
    assert [row[1].isoformat() for row in stored.rows] == ["2024-02-29T22:30:00", "2024-03-01T00:30:00"]
    assert stored.result.columns[1].zoned


def test_decimals_are_stored_exactly():
    stored = load("id,v\n1,0.1\n2,1234567890123456.123456\n3,-7\n")
    assert [row[1] for row in stored.rows] == [Decimal("0.1"), Decimal("1234567890123456.123456"), Decimal(-7)]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_kind_is_ruled_out_early_only_when_no_rest_of_the_file_could_save_it(fit, misfit, more_fit, more_misfit):
    whole = Tally(fit + misfit + more_fit + more_misfit, {Kind.DATE: fit + more_fit})
    if can_still_be(Kind.DATE, whole, 0):
        assert can_still_be(Kind.DATE, Tally(fit + misfit, {Kind.DATE: fit}), more_fit + more_misfit)


@pytest.mark.parametrize("kind", sorted(NUMBERS))
def test_a_column_with_a_leading_zero_is_no_number(kind):
    assert not can_still_be(kind, Tally(100, {kind: 99}, leading_zeros=1), 1000)
