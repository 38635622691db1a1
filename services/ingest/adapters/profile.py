"""What a typed column holds, told in one aggregate query over the stored Parquet, and its top values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from services.ingest.adapters.engine import Engine, identifier, parquet
from services.ingest.domain import NUMBERS, ColumnType, Kind

TOP_VALUES: Final = 10
MAX_COUNTED: Final = 10_000
"""Top values are counted for columns with at most so many distinct values; others have none worth telling."""
SHOWN_CHARS: Final = 200
"""Longer texts are cut in `minimum`, `maximum` and `top`."""
COLUMNS_A_QUERY: Final = 128


@dataclass(frozen=True)
class ColumnProfile:
    """One column of the loaded rows. Values are text, exact in the column's type (times in UTC if zoned).

    `distinct` is an estimate (HyperLogLog, a few per cent off). `mean` is for numbers. `top` holds
    {value, count} of the most frequent values, most frequent first, for columns of few distinct values.
    """

    name: str
    type: str
    zoned: bool
    nulls: int
    distinct: int
    min: str | None
    max: str | None
    mean: float | None
    top: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def profile(engine: Engine, table: Path, names: Sequence[str], types: Sequence[ColumnType]) -> list[ColumnProfile]:
    """A profile of each column of the Parquet file `table`."""
    profiles: list[ColumnProfile] = []
    for start in range(0, len(names), COLUMNS_A_QUERY):
        part = list(zip(names, types, strict=True))[start : start + COLUMNS_A_QUERY]
        terms = [term for name, kind in part for term in _terms(identifier(name), kind)]
        counted = iter(engine.row(f"SELECT count(*), {', '.join(terms)} FROM {parquet([table])}"))
        rows = next(counted)
        for name, kind in part:
            values, distinct, low, high, mean, longest = (next(counted) for _ in range(6))
            countable = 0 < distinct <= MAX_COUNTED and longest <= SHOWN_CHARS
            profiles.append(
                ColumnProfile(
                    name,
                    kind.name,
                    kind.zoned,
                    rows - values,
                    min(distinct, values),
                    low,
                    high,
                    mean,
                    _top(engine, table, name) if countable else [],
                )
            )
    return profiles


def _terms(column: str, kind: ColumnType) -> list[str]:
    """Values, distinct, min, max, mean, longest text."""
    text = kind.kind is Kind.TEXT
    ordered = f"left({column}, {SHOWN_CHARS})" if text else column
    return [
        f"count({column})",
        f"approx_count_distinct({column})",
        f"CAST(min({ordered}) AS VARCHAR)",
        f"CAST(max({ordered}) AS VARCHAR)",
        f"avg(CAST({column} AS DOUBLE))" if kind.kind in NUMBERS else "NULL",
        f"coalesce(max(length({column})), 0)" if text else "0",
    ]


def _top(engine: Engine, table: Path, name: str) -> list[dict[str, Any]]:
    """Equal counts are told in the order of the values, so that the same file has the same profile."""
    column = identifier(name)
    counted = engine.rows(
        f"SELECT CAST({column} AS VARCHAR), count(*) FROM {parquet([table])} WHERE {column} IS NOT NULL "
        f"GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT {TOP_VALUES}"
    )
    return [{"value": value, "count": count} for value, count in counted]
