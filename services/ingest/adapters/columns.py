"""The typing rules of `domain` as SQL over text columns, and their count over the whole file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.ingest.adapters.engine import Engine, literal, parquet
from services.ingest.domain import (
    CANDIDATES,
    LEADING_ZERO,
    LONG_WHOLE,
    MAX_DECIMAL_DIGITS,
    NUMBERS,
    PATTERNS,
    SHARES_VALUES_WITH,
    TEXT,
    ColumnType,
    Kind,
    Tally,
    can_still_be,
    decided,
)

COLUMNS_A_QUERY: Final = 64
"""More columns are counted in several passes, to bound the query's size."""


@dataclass(frozen=True)
class Decision:
    """A column's type, and how many of its values do not fit it."""

    type: ColumnType
    misfits: int


def decide(engine: Engine, guesses: Sequence[Kind], files: Sequence[str], rows: Sequence[int]) -> list[Decision]:
    """The types of the text columns `c0`, `c1`, … of `files`, which hold `rows` rows each.

    Exact: the first kind that passes the threshold on a count of the whole file. A column's guess only saves
    counting its other kinds, where it turns out right.
    """
    found = _guessed(engine, guesses, files)
    able = _plausible(engine, [i for i in range(len(guesses)) if i not in found], files, rows)
    while able := {i: kinds for i, kinds in able.items() if kinds}:
        for i, tally in _count(engine, {i: kinds[:1] for i, kinds in able.items()}, files).items():
            kind, *able[i] = able[i]
            if can_still_be(kind, tally, 0):
                found[i] = _decision(kind, tally)
                able[i] = []
    return [found.get(i, Decision(TEXT, 0)) for i in range(len(guesses))]


def _guessed(engine: Engine, guesses: Sequence[Kind], files: Sequence[str]) -> dict[int, Decision]:
    """The columns that are, over the whole file, what they were guessed to be.

    A kind that passes the threshold leaves none of the kinds that share no value with it enough values to pass;
    so only those that do are counted along.
    """
    asked = {
        i: (*SHARES_VALUES_WITH.get(guess, ()), guess) for i, guess in enumerate(guesses) if guess is not Kind.TEXT
    }
    found = {}
    for i, tally in _count(engine, asked, files).items():
        if kind := next((kind for kind in asked[i] if can_still_be(kind, tally, 0)), None):
            found[i] = _decision(kind, tally)
    return found


def _decision(kind: Kind, tally: Tally) -> Decision:
    return Decision(decided(kind, tally), tally.values - tally.fits[kind])


def _plausible(
    engine: Engine, columns: Sequence[int], files: Sequence[str], rows: Sequence[int]
) -> dict[int, list[Kind]]:
    """The kinds that each column may still be after a look at the first tenth of the files.

    A tenth is enough to rule most kinds out for good: it holds more misfits than the threshold forgives.
    """
    some = (len(files) + 9) // 10
    left = sum(rows[some:])
    return {
        i: [kind for kind in CANDIDATES if can_still_be(kind, tally, left)]
        for i, tally in _count(engine, dict.fromkeys(columns, CANDIDATES), files[:some]).items()
    }


def _count(engine: Engine, asked: Mapping[int, Sequence[Kind]], files: Sequence[str]) -> dict[int, Tally]:
    """Counts in each column the values that fit the kinds asked for."""
    columns = list(asked)
    tallies: dict[int, Tally] = {}
    for start in range(0, len(columns), COLUMNS_A_QUERY):
        part = {i: asked[i] for i in columns[start : start + COLUMNS_A_QUERY]}
        terms = [term for i, kinds in part.items() for term in _terms(f"c{i}", kinds)]
        counted = iter(engine.row(f"SELECT {', '.join(terms)} FROM {parquet(files)}"))
        for i, kinds in part.items():
            values = next(counted)
            fitting = {kind: next(counted) for kind in kinds}
            tallies[i] = Tally(values, fitting, next(counted), next(counted), next(counted))
    return tallies


def _terms(column: str, kinds: Sequence[Kind]) -> list[str]:
    """The aggregates that make a Tally, in the order of its fields."""
    zeros = whole = fraction = "0"
    if NUMBERS & set(kinds):
        leading = f"regexp_full_match({column}, {literal(LEADING_ZERO)})"
        zeros = f"count(*) FILTER (CASE WHEN {column} >= '-0' AND {column} < '1' THEN {leading} ELSE false END)"
    if Kind.DECIMAL in kinds:
        fit = fits(Kind.DECIMAL, column)
        whole = f"coalesce(max({_whole_digits(column)}) FILTER ({fit}), 0)"
        fraction = f"coalesce(max({_fraction_digits(column)}) FILTER ({fit}), 0)"
    counts = [f"count(*) FILTER ({fits(kind, column)})" for kind in kinds]
    return [f"count({column})", *counts, zeros, whole, fraction]


def fits(kind: Kind, column: str) -> str:
    """An SQL condition: true for the values of `column` that are of `kind`, false for others and for NULL.

    Nested, because CASE evaluates a condition only for the rows that passed the one before: a cheap one that
    lets everything through that the pattern could match, the pattern, and what the pattern does not settle.
    """
    condition = _also(kind, column)
    for test in (f"regexp_full_match({column}, {literal(PATTERNS[kind])})", _gate(kind, column)):
        condition = f"CASE WHEN {test} THEN {condition} ELSE false END"
    return f"({condition})"


def _gate(kind: Kind, column: str) -> str:
    """About five times cheaper than the pattern, where a column is something else altogether."""
    match kind:
        case Kind.BOOLEAN:
            return f"strlen({column}) BETWEEN 4 AND 5"
        case Kind.DATE:
            return f"strlen({column}) = 10"
        case Kind.TIMESTAMP | Kind.TIMESTAMP_ZONED:
            return f"{column} >= '0' AND {column} < ':' AND strlen({column}) >= 16"
        case _:
            # '-', '.', '/', '0' to '9' stand in this order in ASCII.
            return f"{column} >= '-' AND {column} < ':'"


def _also(kind: Kind, column: str) -> str:
    """What the pattern does not settle: ranges, and days that no calendar has."""
    match kind:
        case Kind.BIGINT:
            return f"CASE WHEN strlen({column}) < 19 THEN true ELSE TRY_CAST({column} AS BIGINT) IS NOT NULL END"
        case Kind.DECIMAL:
            return f"{_whole_digits(column)} + {_fraction_digits(column)} <= {MAX_DECIMAL_DIGITS}"
        case Kind.DOUBLE:
            value = f"TRY_CAST({column} AS DOUBLE)"
            vanished = f"{value} = 0 AND regexp_matches({column}, '^[^eE]*[1-9]')"
            too_long = f"regexp_full_match({column}, {literal(LONG_WHOLE)})"
            return f"coalesce(isfinite({value}) AND NOT ({vanished}) AND NOT {too_long}, false)"
        case Kind.DATE:
            return f"coalesce(TRY_CAST({column} AS DATE) >= DATE '0001-01-01', false)"
        case Kind.TIMESTAMP:
            return _in_years(column, "TIMESTAMP")
        case Kind.TIMESTAMP_ZONED:
            return _in_years(column, "TIMESTAMPTZ")
        case _:
            return "true"


def _in_years(column: str, sql_type: str) -> str:
    value = f"TRY_CAST({column} AS {sql_type})"
    first, after = f"{sql_type} '0001-01-01 00:00:00'", f"{sql_type} '10000-01-01 00:00:00'"
    return f"coalesce({value} >= {first} AND {value} < {after}, false)"


def _whole_digits(column: str) -> str:
    """Digits before the point, a sign not counted; 1 for `.5`. For values of a number's pattern."""
    point = f"strpos({column}, '.')"
    end = f"CASE {point} WHEN 0 THEN strlen({column}) ELSE {point} - 1 END"
    return f"greatest(1, {end} - CAST(starts_with({column}, '-') AS INTEGER))"


def _fraction_digits(column: str) -> str:
    point = f"strpos({column}, '.')"
    return f"CASE {point} WHEN 0 THEN 0 ELSE strlen({column}) - {point} END"


def converted(column_type: ColumnType, column: str) -> str:
    """The typed value of a text that fits. Loud, not NULL, should one not fit after all."""
    match column_type.kind:
        case Kind.TEXT:
            return column
        case Kind.DECIMAL:
            return f"CAST({column} AS DECIMAL({column_type.precision}, {column_type.scale}))"
        case Kind.TIMESTAMP_ZONED:
            return f"make_timestamp(epoch_us(CAST({column} AS TIMESTAMPTZ)))"
        case kind:
            return f"CAST({column} AS {kind.value.upper()})"
