"""What a report is: the definition a user stores, as structured parameters and never as SQL.

The words "auto" and "none" make absence explicit. "auto" (the default) lets the render derive a sensible
section from the dataset's columns, so one definition can serve any dataset.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MAX_TABLE_ROWS = 1000
MAX_TITLE = 200
MAX_RECIPIENTS = 1000
"""Of one burst."""
ANY_DATASET = "*"


class Format(StrEnum):
    """File formats that a report can be rendered to."""

    HTML = "html"
    PDF = "pdf"
    CSV = "csv"


class Function(StrEnum):
    """Aggregate functions. `count` without a column counts rows, with one its non-empty values."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    DISTINCT = "distinct"


class NumberFormat(StrEnum):
    """How a number reads; absent means by its type."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    PERCENT = "percent"
    COMPACT = "compact"


class Bucket(StrEnum):
    """Calendar period that a date or timestamp (in UTC) is grouped by; weeks start on Monday (ISO 8601)."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class ChartKind(StrEnum):
    """Marks a chart can be drawn with."""

    BAR = "bar"
    LINE = "line"


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=63)]
Line = StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")
Label = Annotated[str, Line, Field(max_length=120)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(_Part):
    """One aggregate over the dataset or over each group of a table."""

    label: Label
    function: Function
    column: ColumnName | None = None
    format: NumberFormat | None = None

    @model_validator(mode="after")
    def _column_where_needed(self) -> Self:
        if self.column is None and self.function is not Function.COUNT:
            raise ValueError(f"function {self.function.value!r} needs a column")
        return self


class Dimension(_Part):
    """A column whose values form groups; a plain string in JSON means the column as it is."""

    column: ColumnName
    bucket: Bucket | None = None


def _as_dimension(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


GroupBy = Annotated[Dimension, BeforeValidator(_as_dimension, json_schema_input_type=ColumnName | Dimension)]


class Table(_Part):
    """A table of groups. Without `group_by` it has one row, over the whole dataset."""

    group_by: Annotated[tuple[GroupBy, ...], Field(max_length=6)] = ()
    measures: Annotated[tuple[Measure, ...], Field(min_length=1, max_length=12)]
    order_by: str | None = Field(None, description="A measure's label or a group_by column; default: the groups")
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=MAX_TABLE_ROWS)] = 100

    @model_validator(mode="after")
    def _names_are_exact(self) -> Self:
        _refuse_repeats("measures", [measure.label for measure in self.measures])
        _refuse_repeats("group_by", [dimension.column for dimension in self.group_by])
        if self.order_by is not None and self.order_by not in self.sortable():
            raise ValueError(f"order_by names none of {', '.join(map(repr, self.sortable()))}")
        return self

    def sortable(self) -> list[str]:
        """Names that `order_by` may take: group columns, then measure labels."""
        return [dimension.column for dimension in self.group_by] + [measure.label for measure in self.measures]


Value = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$")]
Only = Annotated[dict[ColumnName, Value], Field(max_length=6)]
"""Of the dataset's rows those alone whose columns have these values, compared as text."""


class Chart(_Part):
    """One measure drawn over one dimension; `y` is the label of a table measure or of a figure."""

    kind: ChartKind
    x: GroupBy
    y: Label


class Definition(_Part):
    """A report that is rendered each time a version of its dataset is complete.

    `dataset` is the exact name of a dataset, or "*" for every dataset of the workspace.
    """

    name: Slug
    title: Annotated[str, Line, Field(max_length=MAX_TITLE)]
    dataset: Annotated[str, Line, Field(max_length=200)]
    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = (Format.HTML, Format.PDF, Format.CSV)
    figures: Literal["auto"] | Annotated[tuple[Measure, ...], Field(max_length=12)] = "auto"
    table: Literal["auto"] | Table = "auto"
    chart: Literal["auto", "none"] | Chart = "auto"
    only: Only = Field({}, description="Column and value, as text: other rows are left out.")

    @model_validator(mode="after")
    def _names_are_exact(self) -> Self:
        _refuse_repeats("formats", list(self.formats))
        if self.figures != "auto":
            _refuse_repeats("figures", [figure.label for figure in self.figures])
        if isinstance(self.chart, Chart) and isinstance(self.table, Table):
            known = [m.label for m in (*self.table.measures, *(self.figures if self.figures != "auto" else ()))]
            if self.chart.y not in known:
                raise ValueError(f"chart.y names none of {', '.join(map(repr, known))}")
        return self


class Recipient(_Part):
    """Whom a report of a burst is for: their name stands in its title, and it has their rows `only`."""

    name: Label
    only: Annotated[Only, Field(min_length=1)]


class Burst(_Part):
    """One report of a definition for each recipient."""

    recipients: Annotated[tuple[Recipient, ...], Field(min_length=1, max_length=MAX_RECIPIENTS)]
    dataset: Annotated[str, Line, Field(max_length=200)] | None = Field(
        None, description="Which one, of a definition that is made for every dataset."
    )

    @model_validator(mode="after")
    def _names_are_exact(self) -> Self:
        _refuse_repeats("recipients", [recipient.name for recipient in self.recipients])
        return self


def for_recipient(definition: Definition, recipient: Recipient) -> Definition:
    """The definition of their report."""
    title = f"{definition.title[: MAX_TITLE - len(recipient.name) - 2]}: {recipient.name}"
    return definition.model_copy(update={"title": title, "only": {**definition.only, **recipient.only}})


def _refuse_repeats(field: str, names: list[Any]) -> None:
    if len(names) != len(set(names)):
        raise ValueError(f"{field} must not repeat a name")
