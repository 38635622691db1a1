"""A report's content, ready to be laid out: the same document becomes the page, the PDF and the CSV."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from services.reports.domain.columns import Column, Kind
from services.reports.domain.definition import Bucket, ChartKind, Function, Measure, NumberFormat
from services.reports.domain.planning import LINE_POINTS, ChartPlan, Plan
from services.reports.domain.values import Value, common_style, group_text, printable, text_of

Row = tuple[Value, ...]


@dataclass(frozen=True)
class Context:
    """Where the data of a report came from. `generated_at` is aware; it is also the date of the files."""

    dataset: str
    version: int
    rows_loaded: int
    rows_rejected: int
    generated_at: datetime
    run: str


@dataclass(frozen=True)
class Answers:
    """What the data engine answered to a plan. Tables and charts hold one row more than their limit when
    there are more."""

    figures: Row
    table: Sequence[Row]
    chart: Sequence[Row] = ()


@dataclass(frozen=True)
class Printed:
    """A figure: its label, its value and the value as printed."""

    label: str
    value: Value
    text: str


@dataclass(frozen=True)
class Heading:
    """A column of the table; numbers are set flush right."""

    text: str
    is_number: bool


@dataclass(frozen=True)
class Point:
    """A chart's x and y. A `y` of None is a gap."""

    x: Value
    y: float | None
    x_text: str
    y_text: str


@dataclass(frozen=True)
class Drawing:
    """Everything that a chart shows; `summary` says it in a sentence, for those who cannot see it."""

    kind: ChartKind
    x_label: str
    y_label: str
    bucket: Bucket | None
    is_number: bool
    points: tuple[Point, ...]
    title: str
    summary: str


@dataclass(frozen=True)
class Document:
    """All texts are printable and still hostile: each format escapes them in its own way."""

    title: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Printed, ...]
    table_title: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]
    drawing: Drawing | None
    notes: tuple[str, ...]
    generated_at: datetime
    run: str


def compose(title: str, plan: Plan, answers: Answers, columns: Sequence[Column], context: Context) -> Document:
    """The document of a plan and what was answered to it."""
    known = {column.name: column for column in columns}
    drawing = _drawing(plan.chart, answers.chart, known) if plan.chart else None
    return Document(
        title=printable(title),
        facts=_facts(context),
        figures=tuple(
            Printed(printable(figure.label), value, text_of(value, figure.format))
            for figure, value in zip(plan.figures, answers.figures, strict=True)
        ),
        table_title=_table_title(plan),
        headings=headings(plan, known),
        rows=_texts(answers.table[: plan.table.limit], plan),
        drawing=drawing,
        notes=tuple(_notes(plan, answers, drawing, context)),
        generated_at=context.generated_at,
        run=context.run,
    )


def headings(plan: Plan, known: dict[str, Column]) -> tuple[Heading, ...]:
    """Group columns, then measures."""
    groups = [
        Heading(
            printable(by.column) + (f" ({by.bucket.value})" if by.bucket else ""),
            is_number=by.bucket is None and known[by.column].kind is Kind.NUMBER,
        )
        for by in plan.table.group_by
    ]
    return (*groups, *(Heading(printable(m.label), _is_number(m, known)) for m in plan.table.measures))


def _table_title(plan: Plan) -> str:
    groups = [by.bucket.value if by.bucket else printable(by.column) for by in plan.table.group_by]
    return "By " + ", ".join(groups) if groups else "Whole dataset"


def _facts(context: Context) -> tuple[tuple[str, str], ...]:
    return (
        ("Dataset", printable(context.dataset)),
        ("Version", str(context.version)),
        ("Rows", text_of(context.rows_loaded)),
        ("Rejected", text_of(context.rows_rejected)),
        ("Generated", f"{context.generated_at:%Y-%m-%d %H:%M} UTC"),
    )


def _is_number(measure: Measure, known: dict[str, Column]) -> bool:
    if measure.column is None or measure.function not in (Function.MIN, Function.MAX):
        return True
    return known[measure.column].kind is Kind.NUMBER


def _texts(rows: Sequence[Row], plan: Plan) -> tuple[tuple[str, ...], ...]:
    groups = len(plan.table.group_by)
    styles = [
        measure.format or common_style(row[groups + at] for row in rows)
        for at, measure in enumerate(plan.table.measures)
    ]
    return tuple(
        (
            *(group_text(value, by.bucket) for value, by in zip(row[:groups], plan.table.group_by, strict=True)),
            *(text_of(value, style) for value, style in zip(row[groups:], styles, strict=True)),
        )
        for row in rows
    )


def _notes(plan: Plan, answers: Answers, drawing: Drawing | None, context: Context) -> list[str]:
    notes = []
    if context.rows_loaded == 0:
        notes.append("The dataset has no rows.")
    if context.rows_rejected:
        share = context.rows_rejected / (context.rows_loaded + context.rows_rejected)
        rejected = text_of(context.rows_rejected)
        notes.append(f"{rejected} rejected rows ({share:.1%} of the input) are not in these figures.")
    if len(answers.table) > plan.table.limit:
        notes.append(f"The table shows the first {plan.table.limit:,} groups; there are more.")
    if plan.chart and len(answers.chart) > plan.chart.limit:
        notes.append(f"The chart shows the first {plan.chart.limit:,} groups; there are more.")
    if plan.chart and drawing is None:
        notes.append("There is no chart: its measure has no values.")
    return notes


def _drawing(plan: ChartPlan, rows: Sequence[Row], known: dict[str, Column]) -> Drawing | None:
    rows = [row for row in rows[: plan.limit] if plan.kind is ChartKind.BAR or row[0] is not None]
    if plan.x.bucket:
        rows = _filled(rows, plan.x.bucket, plan.measure)
    style = plan.measure.format or common_style(row[1] for row in rows)
    points = tuple(_point(row, plan.x.bucket, style) for row in rows)
    if not any(point.y is not None for point in points):
        return None
    by = plan.x.bucket.value if plan.x.bucket else printable(plan.x.column)
    title = f"{printable(plan.measure.label)} by {by}"
    return Drawing(
        kind=plan.kind,
        x_label=printable(plan.x.column),
        y_label=printable(plan.measure.label),
        bucket=plan.x.bucket,
        is_number=plan.x.bucket is None and known[plan.x.column].kind is Kind.NUMBER,
        points=points,
        title=title,
        summary=_summary(plan.kind, title, points),
    )


def _point(row: Row, bucket: Bucket | None, style: NumberFormat | None) -> Point:
    x, y = row
    size = float(y) if isinstance(y, int | float | Decimal) else None
    drawn = size if size is not None and math.isfinite(size) else None
    return Point(x, drawn, group_text(x, bucket), text_of(y, style))


def _summary(kind: ChartKind, title: str, points: Sequence[Point]) -> str:
    drawn = [point for point in points if point.y is not None]
    most = max(drawn, key=lambda point: point.y or 0)
    least = min(drawn, key=lambda point: point.y or 0)
    values = f"{len(drawn)} values" if len(drawn) > 1 else "one value"
    return (
        f"{kind.value.capitalize()} chart: {title}, {values}. "
        f"Highest: {most.x_text} with {most.y_text}. Lowest: {least.x_text} with {least.y_text}."
    )


def _filled(rows: Sequence[Row], bucket: Bucket, measure: Measure) -> list[Row]:
    """The rows with a row for each period between them: a month without rows has a sum of 0 and no mean.

    Without it a line would run straight over the months in which nothing happened.
    """
    dated = {_day(row[0]): row for row in rows if isinstance(row[0], date)}
    undated = [row for row in rows if not isinstance(row[0], date)]
    nothing: Value = 0 if measure.function in (Function.COUNT, Function.SUM, Function.DISTINCT) else None
    filled: list[Row] = []
    for day in sorted(dated):
        while filled and len(filled) < LINE_POINTS and (after := _next(_day(filled[-1][0]), bucket)) < day:
            filled.append((after, nothing))
        filled.append((day, dated[day][1]))
    return filled + undated


def _day(value: Value) -> date:
    return value.date() if isinstance(value, datetime) else value if isinstance(value, date) else date.min


def _next(day: date, bucket: Bucket) -> date:
    if bucket in (Bucket.DAY, Bucket.WEEK):
        return day + timedelta(days=1 if bucket is Bucket.DAY else 7)
    months = {Bucket.MONTH: 1, Bucket.QUARTER: 3, Bucket.YEAR: 12}[bucket]
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, 1)
