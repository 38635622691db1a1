"""From a definition and a dataset's columns to exactly what is computed. Raises named errors, decides no SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from services.reports.domain import defaults
from services.reports.domain.columns import Column, Kind, Profile
from services.reports.domain.definition import (
    Bucket,
    Chart,
    ChartKind,
    Definition,
    Dimension,
    Function,
    Measure,
    Table,
)
from services.reports.errors import ColumnUnknown, ColumnUnsuitable, MeasureUnknown

BAR_GROUPS = 20
BAR_PERIODS = 60
LINE_POINTS = 1000

_NEEDS_NUMBER = (Function.SUM, Function.MEAN)


@dataclass(frozen=True)
class ChartPlan:
    """A chart whose measure is found and whose time bucket is chosen; at most `limit` points."""

    kind: ChartKind
    x: Dimension
    measure: Measure
    limit: int


@dataclass(frozen=True)
class Plan:
    """Everything that is computed for a report; every column in it exists and suits its use."""

    figures: tuple[Measure, ...]
    table: Table
    chart: ChartPlan | None


def profiled(definition: Definition, columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of the columns whose profiles `plan` needs; none for a definition that leaves nothing open."""
    is_open = "auto" in (definition.figures, definition.table, definition.chart)
    found = defaults.candidates(columns) if is_open else ()
    chart = definition.chart
    if isinstance(chart, Chart) and chart.x.bucket is None and chart.x.column not in found:
        dates = {column.name for column in columns if column.kind is Kind.DATE}
        found += (chart.x.column,) if chart.x.column in dates else ()
    return found


def plan(definition: Definition, columns: Sequence[Column], profiles: Mapping[str, Profile], rows: int) -> Plan:
    """What to compute.

    Raises ColumnUnknown, ColumnUnsuitable or MeasureUnknown when the definition does not fit the dataset.
    """
    known = {column.name: column for column in columns}
    check_only(definition.only, columns)
    choice = defaults.choose(columns, profiles, rows)
    figures = defaults.figures(choice) if definition.figures == "auto" else definition.figures
    table = defaults.table(choice) if definition.table == "auto" else definition.table
    for number, figure in enumerate(figures):
        _check_measure(figure, f"figures[{number}]", known)
    for number, measure in enumerate(table.measures):
        _check_measure(measure, f"table.measures[{number}]", known)
    for number, dimension in enumerate(table.group_by):
        _check_dimension(dimension, f"table.group_by[{number}]", known)
    chart = definition.chart
    if chart == "auto":
        drawable = [measure for measure in table.measures if _is_drawable(measure, known)]
        chart = defaults.chart(choice, table, drawable, derived=definition.table == "auto") or "none"
    drawn = None if chart == "none" else _chart(chart, (*table.measures, *figures), known, profiles)
    return Plan(figures, table, drawn if rows else None)


def check_only(only: Mapping[str, str], columns: Sequence[Column]) -> None:
    """Raises ColumnUnknown."""
    names = tuple(column.name for column in columns)
    for name in only:
        if name not in names:
            raise ColumnUnknown(name, "only", names)


def choose_bucket(first: date | None, last: date | None) -> Bucket:
    """The period a line over these days reads best by: days up to two months, months up to 20 years."""
    span = (last - first).days if first and last else 0
    if span <= 62:
        return Bucket.DAY
    return Bucket.MONTH if span <= 20 * 366 else Bucket.YEAR


def _chart(
    chart: Chart, measures: Sequence[Measure], known: Mapping[str, Column], profiles: Mapping[str, Profile]
) -> ChartPlan:
    measure = next((measure for measure in measures if measure.label == chart.y), None)
    if measure is None:
        raise MeasureUnknown(chart.y, tuple(measure.label for measure in measures))
    if not _is_drawable(measure, known):
        column = known[measure.column or ""]
        raise ColumnUnsuitable(column.name, "chart.y", "numeric", column.type)
    _check_dimension(chart.x, "chart.x", known)
    x = chart.x
    periods = known[x.column].kind is Kind.DATE
    if periods and x.bucket is None:
        seen = profiles.get(x.column)
        bucket = choose_bucket(seen.first, seen.last) if seen else Bucket.MONTH
        x = Dimension(column=x.column, bucket=bucket)
    most = LINE_POINTS if chart.kind is ChartKind.LINE else BAR_PERIODS if periods else BAR_GROUPS
    return ChartPlan(chart.kind, x, measure, most)


def _check_measure(measure: Measure, where: str, known: Mapping[str, Column]) -> None:
    if measure.column is None:
        return
    column = _find(measure.column, where, known)
    if measure.function in _NEEDS_NUMBER and column.kind is not Kind.NUMBER:
        raise ColumnUnsuitable(column.name, f"{where} ({measure.function.value})", "numeric", column.type)


def _is_drawable(measure: Measure, known: Mapping[str, Column]) -> bool:
    """Whether the measure is a number: the earliest date or the first name cannot be drawn."""
    if measure.column is None or measure.function not in (Function.MIN, Function.MAX):
        return True
    return known[measure.column].kind is Kind.NUMBER


def _check_dimension(dimension: Dimension, where: str, known: Mapping[str, Column]) -> None:
    column = _find(dimension.column, where, known)
    if dimension.bucket is not None and column.kind is not Kind.DATE:
        raise ColumnUnsuitable(column.name, f"{where} (by {dimension.bucket.value})", "date", column.type)


def _find(name: str, where: str, known: Mapping[str, Column]) -> Column:
    if name not in known:
        raise ColumnUnknown(name, where, tuple(known))
    return known[name]
