"""Pure rules of typing a CSV: which types there are, when a column has one, what a header may say.

A column takes the first candidate type that at least THRESHOLD_PERCENT of its non-empty values fit, over
the whole file; the values that do not fit reject their rows. What each type accepts, exactly:

| type | values |
|---|---|
| boolean | `true` or `false`, in any case |
| bigint | whole numbers of int64: `0`, `-12`; no sign `+`, no leading zeros, no spaces, no separators |
| decimal | `12.50`, `-.5`, `7`; up to 38 digits in all, stored exactly as DECIMAL(18 or 38, most decimals seen) |
| double | decimals and `1.5e-3` notation, finite, not underflowing; no whole number of 16 digits or more |
| date | `2024-02-29`, years 0001 to 9999 |
| timestamp | `2024-02-29T13:05`, `… 13:05:59`, `… 13:05:59.123456`; `T` or one space; nothing below microseconds |
| timestamp, zoned | the same followed by `Z`, `+05`, `+0530` or `+05:30`; stored in UTC |
| text | anything else: `NaN`, `Infinity`, `1,234.56`, `yes` |

- An empty value is NULL, quoted or not. A column of NULLs alone is text.
- One value with a leading zero (`00123`) makes its column text: it is an identifier, not a number.
- Whole numbers beyond int64 are decimal(38, 0); beyond 38 digits text.
- Zoned and unzoned timestamps, or dates and timestamps, do not mix: converting would invent a zone or a time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

THRESHOLD_PERCENT: Final = 95
MAX_COLUMNS: Final = 1_000
MAX_NAME_CHARS: Final = 200
MAX_DECIMAL_DIGITS: Final = 38
DELIMITERS: Final = (",", ";", "\t", "|")


class Kind(StrEnum):
    """Candidate types in the order in which they are tried."""

    BOOLEAN = "boolean"
    BIGINT = "bigint"
    DECIMAL = "decimal"
    DOUBLE = "double"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMP_ZONED = "timestamp_zoned"
    TEXT = "text"


NUMBERS: Final = frozenset({Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE})
CANDIDATES: Final = tuple(kind for kind in Kind if kind is not Kind.TEXT)
SHARES_VALUES_WITH: Final[dict[Kind, tuple[Kind, ...]]] = {
    Kind.DECIMAL: (Kind.BIGINT,),
    Kind.DOUBLE: (Kind.BIGINT, Kind.DECIMAL),
}
"""The earlier candidates that a value may fit as well. No value fits any other two."""

# RE2 and Python read these patterns alike; the whole value must match.
_DAY: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = r"[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6}0*)?)?"
_FIXED: Final = r"-?((0|[1-9][0-9]*)([.][0-9]+)?|[.][0-9]+)"
PATTERNS: Final[dict[Kind, str]] = {
    Kind.BOOLEAN: r"(?i:true|false)",
    Kind.BIGINT: r"-?(0|[1-9][0-9]{0,18})",
    Kind.DECIMAL: _FIXED,
    Kind.DOUBLE: _FIXED + r"([eE][+-]?[0-9]{1,4})?",
    Kind.DATE: _DAY,
    Kind.TIMESTAMP: _DAY + _CLOCK,
    Kind.TIMESTAMP_ZONED: _DAY + _CLOCK + r"(Z|[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?)",
}
LEADING_ZERO: Final = r"-?0[0-9]+([.][0-9]*)?"
LONG_WHOLE: Final = r"-?[0-9]{16,}"
"""Whole numbers that a double may not hold exactly."""


@dataclass(frozen=True)
class ColumnType:
    """A decided type. `precision` and `scale` (digits) belong to decimals, `zoned` to timestamps in UTC."""

    kind: Kind
    precision: int = 0
    scale: int = 0

    @property
    def name(self) -> str:
        """The type's name in events and profiles."""
        return "timestamp" if self.kind is Kind.TIMESTAMP_ZONED else self.kind.value

    @property
    def zoned(self) -> bool:
        return self.kind is Kind.TIMESTAMP_ZONED


TEXT: Final = ColumnType(Kind.TEXT)


@dataclass
class Tally:
    """What was counted in one column: non-empty values, and how many fit each kind.

    `whole_digits` and `fraction_digits` are the most seen among the values that fit a decimal.
    """

    values: int = 0
    fits: dict[Kind, int] = field(default_factory=dict)
    leading_zeros: int = 0
    whole_digits: int = 0
    fraction_digits: int = 0


def can_still_be(kind: Kind, tally: Tally, rows_left: int) -> bool:
    """Whether `kind` may yet reach the threshold when at most `rows_left` more values come.

    With `rows_left` 0 it is the decision itself. Never says False to a kind that a full count would accept.
    """
    if kind in NUMBERS and tally.leading_zeros:
        return False
    if kind is Kind.DECIMAL and tally.whole_digits + tally.fraction_digits > MAX_DECIMAL_DIGITS:
        return False
    values = tally.values + rows_left
    return values > 0 and (tally.fits.get(kind, 0) + rows_left) * 100 >= THRESHOLD_PERCENT * values


def decided(kind: Kind, tally: Tally) -> ColumnType:
    """The column type of a kind that was accepted on a full count."""
    if kind is not Kind.DECIMAL:
        return ColumnType(kind)
    digits = tally.whole_digits + tally.fraction_digits
    return ColumnType(kind, precision=18 if digits <= 18 else MAX_DECIMAL_DIGITS, scale=tally.fraction_digits)


def guess(values: Sequence[str]) -> Kind:
    """What a few of a column's values look like; text when there are none."""
    given = [value for value in values if value]
    for kind in CANDIDATES if given else ():
        fitting = sum(re.fullmatch(PATTERNS[kind], value) is not None for value in given)
        if fitting * 100 >= THRESHOLD_PERCENT * len(given):
            return kind
    return Kind.TEXT


def choose_delimiter(rows: dict[str, list[int]]) -> str:
    """The delimiter under which the sampled rows agree best with the header on the number of fields.

    `rows` holds, for each delimiter tried, the field counts of the header and of some rows after it (0 for a
    row that could not be read). Ties go to more fields, then to the order of DELIMITERS. A file in which no
    delimiter splits the header has one column.
    """

    def score(delimiter: str) -> tuple[float, int, int]:
        header, *others = rows[delimiter]
        agreed = sum(count == header for count in others) / len(others) if others else 1.0
        return agreed, header, -DELIMITERS.index(delimiter)

    able = [delimiter for delimiter, counts in rows.items() if counts and counts[0] > 1]
    return max(able, key=score) if able else DELIMITERS[0]


def header_problem(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """Why `names` cannot be the header over `rows` (a sample of the data), or None when they can."""
    if len(names) > MAX_COLUMNS:
        return f"The header names {len(names):,} columns; the limit is {MAX_COLUMNS:,}."
    if all(not name or _sample_kind(name) in NUMBERS for name in names):
        return "The first row holds only numbers: a header row with column names is needed."
    return _unusable_name(names) or _repeated_name(names) or _looks_like_data(names, rows)


def _unusable_name(names: Sequence[str]) -> str | None:
    for number, name in enumerate(names, start=1):
        if not name:
            return f"Column {number} has no name in the header row."
        if len(name) > MAX_NAME_CHARS:
            return f"The name of column {number} is {len(name):,} characters long; the limit is {MAX_NAME_CHARS}."
        if any(not char.isprintable() for char in name):
            return f"The name of column {number} holds a control character or a line break: {name[:50]!a}."
    return None


def _repeated_name(names: Sequence[str]) -> str | None:
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = seen.setdefault(name.casefold(), number)
        if first != number:
            # SQL identifiers do not tell case apart, so neither may a header.
            return f"Columns {first} and {number} have the same name: {name[:50]!r}."
    return None


def _looks_like_data(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """A header reads otherwise than the values below it.

    It looks like data when every column whose sampled values share one type has a first cell of that type too
    and there is such a column. Periods and counts as names (`region,2021,2022`, `day,1,2,3`) pass, when they
    rise from left to right and the first column has a name of its own.
    """
    typed = [i for i, kind in enumerate(_column_kinds(names, rows)) if kind]
    cells = [names[i] for i in typed]
    if not typed or any(_sample_kind(cell) is None for cell in cells):
        return None
    if typed[0] > 0 and (_rising_periods(cells) or _counting(cells)):
        return None
    shown = ", ".join(repr(cell[:30]) for cell in cells[:3])
    return f"The first row looks like data ({shown}): a header row with column names is needed."


def _rising_periods(cells: Sequence[str]) -> bool:
    years_or_days = all(re.fullmatch(r"(19|20)[0-9]{2}(-[0-9]{2}){0,2}", cell) for cell in cells)
    return years_or_days and list(cells) == sorted(set(cells))


def _counting(cells: Sequence[str]) -> bool:
    """`1,2,3`, `0,1,…,23`: whole numbers that go up by one."""
    if len(cells) < 2 or not all(re.fullmatch(r"[0-9]{1,4}", cell) for cell in cells):
        return False
    return [int(cell) for cell in cells] == list(range(int(cells[0]), int(cells[0]) + len(cells)))


def _column_kinds(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Kind | None]:
    """The one kind that all of a column's sampled non-empty values have, or None. Numbers are one kind."""
    found: list[Kind | None] = []
    for i in range(len(names)):
        kinds = {_sample_kind(row[i]) for row in rows if len(row) == len(names) and row[i]}
        found.append(kinds.pop() if len(kinds) == 1 else None)
    return found


def _sample_kind(value: str) -> Kind | None:
    """The kind that a single value reads as; None for text. All numbers are DOUBLE here."""
    if re.fullmatch(LEADING_ZERO, value):
        return Kind.DOUBLE
    return next((kind for kind in _SINGLE if re.fullmatch(PATTERNS[kind], value)), None)


_SINGLE: Final = (Kind.DOUBLE, Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMP_ZONED, Kind.BOOLEAN)
