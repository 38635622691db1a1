"""Measures and dimensions as DuckDB expressions. Names reach SQL as quoted identifiers and in no other way."""

from collections.abc import Sequence

from services.reports.domain.columns import Column, Kind
from services.reports.domain.definition import Dimension, Function, Measure

LONGEST_TEXT = 1000
"""Characters of a text that leave the engine: a 10 MB cell must not travel through every format."""


def quoted(name: str) -> str:
    """The name as an SQL identifier (ISO 9075: a double quote inside is doubled)."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as an SQL string (for settings, which take no parameters)."""
    return "'" + text.replace("'", "''") + "'"


SOURCE = "read_parquet($source)"


def only(columns: Sequence[Column]) -> str:
    """The rows of SOURCE whose columns have, as text, the values of the parameters only0, only1, …"""
    equal = (f"CAST({value(column)} AS VARCHAR) = $only{n}" for n, column in enumerate(columns))
    return f"(SELECT * FROM {SOURCE} WHERE {' AND '.join(equal)}) AS picked"  # noqa: S608 - built of quoted names


def select(
    columns: Sequence[str],
    source: str = SOURCE,
    *,
    group_by: int = 0,
    order_by: Sequence[str] = (),
    limit: int | None = None,
) -> str:
    """A query over `source`, grouped by its first `group_by` columns. The path of the file is its parameter."""
    clauses = [f"SELECT {', '.join(columns)} FROM {source}"]  # noqa: S608 - built of the quoted names above
    if group_by:
        clauses.append("GROUP BY " + ", ".join(str(at + 1) for at in range(group_by)))
    if order_by:
        clauses.append("ORDER BY " + ", ".join(order_by))
    return " ".join(clauses if limit is None else [*clauses, f"LIMIT {limit}"])


def value(column: Column) -> str:
    """The column as groups and extremes see it: timestamps in UTC, exotic types as text."""
    name = quoted(column.name)
    if column.kind is Kind.OTHER:
        return f"CAST({name} AS VARCHAR)"
    if column.type.upper() == "TIMESTAMP WITH TIME ZONE":
        return f"timezone('UTC', {name})"
    return name


def dimension(by: Dimension, column: Column) -> str:
    """The group that a row belongs to: its value, or the first day of its period."""
    if by.bucket is None:
        return value(column)
    return f"CAST(date_trunc('{by.bucket.value}', {value(column)}) AS DATE)"


def measure(wanted: Measure, column: Column | None) -> str:
    """The aggregate. Floats are added with Kahan's compensation, so that millions of rows keep their cents."""
    if column is None:
        return "count(*)"
    floats = column.is_float
    match wanted.function:
        case Function.COUNT:
            return f"count({quoted(column.name)})"
        case Function.SUM:
            return f"{'fsum' if floats else 'sum'}({quoted(column.name)})"
        case Function.MEAN:
            return f"{'favg' if floats else 'avg'}({quoted(column.name)})"
        case Function.MIN:
            return f"min({value(column)})"
        case Function.MAX:
            return f"max({value(column)})"
        case Function.DISTINCT:
            return f"count(DISTINCT {value(column)})"


def cut(name: str, is_text: bool) -> str:
    """The named result, a text kept to its first characters."""
    return f"left({name}, {LONGEST_TEXT})" if is_text else name


def profile(column: Column) -> tuple[str, str, str, str, str]:
    """Filled, about how many differ, longest text in bytes, first and last day."""
    name = quoted(column.name)
    longest = f"max(strlen({name}))" if column.kind is Kind.TEXT else "0"
    days = f"CAST({value(column)} AS DATE)"
    first, last = (f"min({days})", f"max({days})") if column.kind is Kind.DATE else ("NULL", "NULL")
    return f"count({name})", f"approx_count_distinct({name})", longest, first, last
