"""What a report shows when its definition leaves the choice to us.

The choice is made from column names, types and profiles alone, by rules a reader can follow:
what to add up (a money-like number first, never an identifier), what to group by (the first text column
with few distinct values), and when (the first date column).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.reports.domain.columns import Column, Kind, Profile
from services.reports.domain.definition import Bucket, Chart, ChartKind, Dimension, Function, Measure, Table

FEW = 24
"""Groups up to which a column reads well as the rows of a table and the bars of a chart."""

_LOOKED_AT = {Kind.TEXT: 24, Kind.NUMBER: 24, Kind.DATE: 8, Kind.BOOLEAN: 8}
"""Columns of each kind that are profiled, in file order: bounds the cost for a file of 1,000 columns."""

_LONGEST_NAME = 200
_LONGEST_GROUP = 200
_TABLE_ROWS = 50

_IDENTIFIER = {"id", "key", "no", "nr", "number", "code", "zip", "postcode", "plz", "phone", "index", "line"}
_MONEY = {"amount", "total", "revenue", "sales", "turnover", "net", "gross", "value", "cost", "spend", "umsatz"}
_AVERAGED = {
    "age", "average", "avg", "grade", "height", "lat", "latitude", "lon", "lng", "longitude", "mean", "pct",
    "percent", "price", "rate", "rating", "ratio", "score", "share", "temp", "temperature", "weight", "year",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The columns that a derived report is about, and how the measured one is aggregated."""

    measured: Column | None
    function: Function
    dimension: Column | None
    when: Column | None


def candidates(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of the columns worth profiling, in file order."""
    taken = dict.fromkeys(_LOOKED_AT, 0)
    names = []
    for column in columns:
        if len(column.name) > _LONGEST_NAME or taken.get(column.kind, 0) >= _LOOKED_AT.get(column.kind, 0):
            continue
        taken[column.kind] += 1
        names.append(column.name)
    return tuple(names)


def choose(columns: Sequence[Column], profiles: Mapping[str, Profile], rows: int) -> Choice:
    """The columns that a derived report is about. Any of them may be missing; an empty dataset has none."""
    filled = [column for column in columns if column.name in profiles and profiles[column.name].filled > 0]
    measured = _measured(filled, profiles, rows)
    averaged = measured is not None and bool(_words(measured.name) & _AVERAGED)
    return Choice(
        measured=measured,
        function=Function.MEAN if averaged else Function.SUM,
        dimension=_dimension([column for column in filled if column is not measured], profiles, rows),
        when=next((c for c in filled if c.kind is Kind.DATE and profiles[c.name].distinct > 1), None),
    )


def figures(choice: Choice) -> tuple[Measure, ...]:
    """Rows; total and mean of the measured column; groups of the dimension; first and last day."""
    found = [Measure(label="Rows", function=Function.COUNT)]
    if choice.measured:
        name = choice.measured.name
        if choice.function is Function.SUM:
            found.append(Measure(label=f"Total {worded(name)}", function=Function.SUM, column=name))
        found.append(Measure(label=f"Average {worded(name)}", function=Function.MEAN, column=name))
    if choice.dimension and choice.dimension.kind is not Kind.BOOLEAN:
        name = choice.dimension.name
        found.append(Measure(label=f"Distinct {worded(name)} values", function=Function.DISTINCT, column=name))
    if choice.when:
        name = choice.when.name
        found.append(Measure(label=f"First {worded(name)}", function=Function.MIN, column=name))
        found.append(Measure(label=f"Last {worded(name)}", function=Function.MAX, column=name))
    return tuple(found)


def table(choice: Choice) -> Table:
    """The measured column by the dimension, largest first; by month when there is only a date."""
    measures = [Measure(label="Rows", function=Function.COUNT)]
    if choice.measured:
        name = choice.measured.name
        if choice.function is Function.SUM:
            measures.append(Measure(label=f"Total {worded(name)}", function=Function.SUM, column=name))
        measures.append(Measure(label=f"Average {worded(name)}", function=Function.MEAN, column=name))
    if choice.dimension:
        return Table(
            group_by=(Dimension(column=choice.dimension.name),),
            measures=tuple(measures),
            order_by=measures[min(1, len(measures) - 1)].label,
            descending=True,
            limit=_TABLE_ROWS,
        )
    by = (Dimension(column=choice.when.name, bucket=Bucket.MONTH),) if choice.when else ()
    return Table(group_by=by, measures=tuple(measures), limit=_TABLE_ROWS)


def chart(choice: Choice, table: Table, drawable: Sequence[Measure], *, derived: bool) -> Chart | None:
    """What to draw of `table`, given those of its measures that are numbers; None when nothing suits.

    A derived table (`derived`) is drawn as a line over the dates when there are any, by its total rather than
    by its count of rows. A given table is drawn as it stands: its first number over its first group.
    """
    if not drawable:
        return None
    if not derived:
        x = table.group_by[0] if table.group_by else None
        over_time = x is not None and choice.when is not None and x.column == choice.when.name
    else:
        x = Dimension(column=choice.when.name) if choice.when else next(iter(table.group_by), None)
        over_time = choice.when is not None
    y = drawable[min(1, len(drawable) - 1) if derived else 0].label
    return None if x is None else Chart(kind=ChartKind.LINE if over_time else ChartKind.BAR, x=x, y=y)


def worded(name: str) -> str:
    """A column name as words of a label, at most 60 characters: `unit_price` reads "unit price"."""
    words = re.sub(r"[\x00-\x20\x7f_]+", " ", name).strip() or "column"
    return words if len(words) <= 60 else words[:59] + "…"


def _words(name: str) -> set[str]:
    """`orderId`, `order_id` and `Order ID` all hold the word `id`."""
    return set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def _measured(columns: Sequence[Column], profiles: Mapping[str, Profile], rows: int) -> Column | None:
    numbers = [c for c in columns if c.kind is Kind.NUMBER and not _is_identifier(c, profiles[c.name], rows)]
    money = [column for column in numbers if _words(column.name) & _MONEY]
    return next(iter(money or numbers), None)


def _is_identifier(column: Column, profile: Profile, rows: int) -> bool:
    if not column.is_integer:
        return False
    unique = profile.filled == rows and rows > 100 and profile.distinct > rows * 0.9
    return bool(_words(column.name) & _IDENTIFIER) or (unique and not _words(column.name) & _MONEY)


def _dimension(columns: Sequence[Column], profiles: Mapping[str, Profile], rows: int) -> Column | None:
    """Few texts first, then a yes/no, then few whole numbers, then texts that at least repeat."""
    short = [c for c in columns if profiles[c.name].longest <= _LONGEST_GROUP and profiles[c.name].distinct > 1]
    few = [c for c in short if profiles[c.name].distinct <= FEW]
    preferred = [c for c in few if c.kind is Kind.TEXT]
    preferred += [c for c in few if c.kind is Kind.BOOLEAN]
    preferred += [c for c in few if c.is_integer and not _is_identifier(c, profiles[c.name], rows)]
    preferred += [c for c in short if c.kind is Kind.TEXT and profiles[c.name].distinct <= rows / 2]
    return next(iter(preferred), None)
