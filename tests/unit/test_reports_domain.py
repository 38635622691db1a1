"""Reports: what a definition may say, what is computed for it, and how values read."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import services.reports
from services.reports.domain import matching, values
from services.reports.domain.columns import Column, Kind, Profile
from services.reports.domain.definition import Bucket, ChartKind, Definition, Dimension, Format, Function, NumberFormat
from services.reports.domain.document import Answers, Context, compose
from services.reports.domain.files import filename
from services.reports.domain.planning import choose_bucket, plan, profiled
from services.reports.errors import ColumnUnknown, ColumnUnsuitable, MeasureUnknown

ORDERS = (
    Column("order_id", "BIGINT"),
    Column("ordered_on", "DATE"),
    Column("region", "VARCHAR"),
    Column("customer", "VARCHAR"),
    Column("quantity", "BIGINT"),
    Column("amount", "DECIMAL(18,2)"),
)
PROFILES = {
    "order_id": Profile(1000, 998),
    "ordered_on": Profile(1000, 700, first=date(2024, 1, 1), last=date(2025, 11, 30)),
    "region": Profile(990, 6, 12),
    "customer": Profile(1000, 640, 15),
    "quantity": Profile(1000, 20),
    "amount": Profile(1000, 950),
}
TOTAL = {"label": "Total", "function": "sum", "column": "amount"}
CONTEXT = Context("orders", 1, 1000, 0, datetime(2026, 11, 22, 16, 40, tzinfo=UTC), "run")


def definition(**fields: Any) -> Definition:
    return Definition.model_validate({"name": "orders-summary", "title": "Orders", "dataset": "orders", **fields})


def planned(**fields: Any) -> Any:
    return plan(definition(**fields), ORDERS, PROFILES, 1000)


# Definitions


def test_a_definition_without_sections_leaves_them_to_the_dataset() -> None:
    bare = definition()
    assert (bare.figures, bare.table, bare.chart) == ("auto", "auto", "auto")
    assert bare.formats == (Format.HTML, Format.PDF, Format.CSV)


def test_a_definition_survives_the_way_through_json() -> None:
    full = definition(
        formats=["csv"],
        figures=[TOTAL | {"format": "compact"}],
        table={"group_by": ["region", {"column": "ordered_on", "bucket": "month"}], "measures": [TOTAL]},
        chart={"kind": "line", "x": "ordered_on", "y": "Total"},
    )
    assert Definition.model_validate_json(full.model_dump_json()) == full


def test_the_readmes_example_is_a_definition() -> None:
    readme = Path(services.reports.__file__).with_name("README.md").read_text()
    example = re.search(r"```json\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    assert Definition.model_validate_json(example[1]).name == "orders-by-region"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Orders Summary"}, "name"),
        ({"name": "../etc"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"title": ""}, "title"),
        ({"title": "two\nlines"}, "title"),
        ({"dataset": ""}, "dataset"),
        ({"formats": []}, "formats"),
        ({"formats": ["pdf", "pdf"]}, "formats must not repeat"),
        ({"formats": ["xlsx"]}, "formats"),
        ({"sql": "SELECT 1"}, "sql"),
        ({"figures": [{"label": "x", "function": "sum"}]}, "needs a column"),
        ({"figures": [{"label": "x", "function": "median", "column": "amount"}]}, "function"),
        ({"figures": [TOTAL, TOTAL]}, "figures must not repeat"),
        ({"figures": [TOTAL | {"label": str(n)} for n in range(13)]}, "figures"),
        ({"table": {"measures": []}}, "measures"),
        ({"table": {"measures": [TOTAL, TOTAL]}}, "measures must not repeat"),
        ({"table": {"group_by": ["region", "region"], "measures": [TOTAL]}}, "group_by must not repeat"),
        ({"table": {"measures": [TOTAL], "limit": 1001}}, "limit"),
        ({"table": {"measures": [TOTAL], "limit": 0}}, "limit"),
        ({"table": {"measures": [TOTAL], "order_by": "customer"}}, "order_by names none of 'Total'"),
        ({"table": {"group_by": [{"column": "ordered_on", "bucket": "hour"}], "measures": [TOTAL]}}, "bucket"),
        ({"chart": {"kind": "pie", "x": "region", "y": "Total"}}, "kind"),
        (
            {"table": {"measures": [TOTAL]}, "figures": [], "chart": {"kind": "bar", "x": "region", "y": "Sum"}},
            "chart.y names none of 'Total'",
        ),
    ],
)
def test_what_a_definition_may_not_say(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        definition(**fields)


# Plans


def test_a_bare_definition_is_planned_from_the_columns() -> None:
    found = planned()
    assert [figure.label for figure in found.figures] == [
        "Rows",
        "Total amount",
        "Average amount",
        "Distinct region values",
        "First ordered on",
        "Last ordered on",
    ]
    assert found.table.group_by == (Dimension(column="region"),)
    assert [measure.label for measure in found.table.measures] == ["Rows", "Total amount", "Average amount"]
    assert (found.table.order_by, found.table.descending) == ("Total amount", True)
    assert found.chart.kind is ChartKind.LINE
    assert found.chart.x == Dimension(column="ordered_on", bucket=Bucket.MONTH)
    assert found.chart.measure.label == "Total amount"


def test_without_dates_the_chart_is_bars_of_the_groups() -> None:
    columns = tuple(column for column in ORDERS if column.kind is not Kind.DATE)
    found = plan(definition(), columns, PROFILES, 1000)
    assert found.chart is not None
    assert (found.chart.kind, found.chart.x.column) == (ChartKind.BAR, "region")


def test_an_identifier_is_never_added_up() -> None:
    columns = (Column("customer_no", "BIGINT"), Column("serial", "BIGINT"), Column("visits", "BIGINT"))
    profiles = {"customer_no": Profile(500, 20), "serial": Profile(500, 500), "visits": Profile(500, 9)}
    found = plan(definition(), columns, profiles, 500)
    assert [figure.column for figure in found.figures if figure.function is Function.SUM] == ["visits"]


def test_a_price_is_averaged_and_not_added_up() -> None:
    profiles = {"unit_price": Profile(500, 90)}
    found = plan(definition(), (Column("unit_price", "DOUBLE"),), profiles, 500)
    assert [figure.label for figure in found.figures] == ["Rows", "Average unit price"]


def test_a_table_of_its_own_is_charted_as_it_stands() -> None:
    by_customer = {
        "group_by": ["customer"],
        "measures": [{"label": "First", "function": "min", "column": "region"}, TOTAL],
    }
    found = planned(table=by_customer)
    assert (found.chart.kind, found.chart.x.column, found.chart.measure.label) == (ChartKind.BAR, "customer", "Total")


def test_no_chart_when_none_is_asked_for() -> None:
    assert planned(chart="none").chart is None


@pytest.mark.parametrize(
    ("columns", "profiles", "rows"),
    [
        ((), {}, 0),
        (ORDERS, {column.name: Profile(0, 0) for column in ORDERS}, 0),
        (ORDERS, {column.name: Profile(0, 0) for column in ORDERS}, 1000),
        ((Column("x" * 5000, "VARCHAR"),), {}, 10),
        ((Column("place", "STRUCT(a INTEGER)"),), {}, 10),
    ],
    ids=["no columns", "no rows", "all empty", "a name too long to show", "an exotic type"],
)
def test_any_dataset_has_a_plan(columns: Any, profiles: Any, rows: int) -> None:
    found = plan(definition(), columns, profiles, rows)
    assert [figure.label for figure in found.figures] == ["Rows"]
    assert found.table.group_by == ()
    assert found.chart is None


def test_few_columns_of_a_thousand_are_profiled() -> None:
    wide = tuple(Column(f"c{n}", ("BIGINT", "VARCHAR", "DATE", "BOOLEAN")[n % 4]) for n in range(1000))
    assert len(profiled(definition(), wide)) == 24 + 24 + 8 + 8


def test_a_definition_that_says_everything_needs_no_profile() -> None:
    table = {"group_by": ["region"], "measures": [TOTAL]}
    chart = {"kind": "bar", "x": "region", "y": "Total"}
    assert profiled(definition(figures=[TOTAL], table=table, chart=chart), ORDERS) == ()
    by_date = chart | {"x": "ordered_on"}
    assert profiled(definition(figures=[TOTAL], table=table, chart=by_date), ORDERS) == ("ordered_on",)


@pytest.mark.parametrize(
    "fields",
    [
        {"figures": [{"label": "x", "function": "sum", "column": "Amount"}]},
        {"table": {"group_by": ["gone"], "measures": [TOTAL]}},
        {"table": {"measures": [{"label": "x", "function": "max", "column": 'a"; DROP'}]}},
        {"figures": [TOTAL], "chart": {"kind": "bar", "x": "gone", "y": "Total"}},
    ],
)
def test_a_column_that_is_not_there_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ColumnUnknown) as failure:
        planned(**fields)
    assert failure.value.reason()["code"] == "report.column_unknown"
    assert "'order_id', 'ordered_on', 'region'" in failure.value.detail


@pytest.mark.parametrize(
    "fields",
    [
        {"figures": [{"label": "x", "function": "sum", "column": "region"}]},
        {"figures": [{"label": "x", "function": "mean", "column": "ordered_on"}]},
        {"table": {"group_by": [{"column": "region", "bucket": "month"}], "measures": [TOTAL]}},
        {
            "figures": [{"label": "x", "function": "max", "column": "region"}],
            "chart": {"kind": "bar", "x": "region", "y": "x"},
        },
    ],
)
def test_a_column_of_the_wrong_type_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ColumnUnsuitable) as failure:
        planned(**fields)
    assert failure.value.code == "report.column_unsuitable"


def test_a_chart_of_an_unknown_measure_is_named() -> None:
    with pytest.raises(MeasureUnknown, match=r"chart\.y names 'Profit'"):
        planned(chart={"kind": "bar", "x": "region", "y": "Profit"})


def test_a_long_hostile_column_name_does_not_fill_the_message() -> None:
    with pytest.raises(ColumnUnknown) as failure:
        planned(figures=[{"label": "x", "function": "sum", "column": "\x1b[31m" + "y" * 900}])
    assert len(failure.value.detail) < 400
    assert "\x1b" not in failure.value.detail


@pytest.mark.parametrize(
    ("last", "bucket"),
    [("2024-01-01", Bucket.DAY), ("2024-03-03", Bucket.DAY), ("2024-03-04", Bucket.MONTH), ("2044-02-01", Bucket.YEAR)],
)
def test_the_period_of_a_line_follows_its_span(last: str, bucket: Bucket) -> None:
    assert choose_bucket(date(2024, 1, 1), date.fromisoformat(last)) is bucket


# Values


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (None, None, "–"),
        (True, None, "yes"),
        (1234567, None, "1,234,567"),
        (-5, None, "−5"),
        (Decimal("1234.50"), None, "1,234.50"),
        (Decimal("0E-10"), None, "0.000000"),
        (1234.0, None, "1,234"),
        (1234.5678, None, "1,234.57"),
        (0.00123456, None, "0.001235"),
        (1e300, None, "1e+300"),
        (float("nan"), None, "not a number"),
        (float("-inf"), NumberFormat.INTEGER, "−∞"),
        (2.5, NumberFormat.INTEGER, "3"),
        (-0.001, NumberFormat.DECIMAL, "0.00"),
        (0.1234, NumberFormat.PERCENT, "12.3 %"),
        (1_234_567, NumberFormat.COMPACT, "1.23 M"),
        (999_999, NumberFormat.COMPACT, "1000 k"),
        (12, NumberFormat.COMPACT, "12"),
        (10**40, NumberFormat.DECIMAL, "1e+40"),
        (date(2026, 11, 22), None, "2026-11-22"),
        (datetime.fromisoformat("2026-11-22 16:40"), None, "2026-11-22 16:40:00"),
        (datetime.fromisoformat("2026-11-22"), None, "2026-11-22"),
        ("tab\tand\nline", None, "tab and line"),
    ],
)
def test_how_a_value_reads(value: Any, style: NumberFormat | None, text: str) -> None:
    assert values.text_of(value, style) == text


@pytest.mark.parametrize(
    ("bucket", "text"),
    [
        (Bucket.DAY, "2026-12-31"),
        (Bucket.WEEK, "2026-W53"),
        (Bucket.MONTH, "2026-12"),
        (Bucket.QUARTER, "2026-Q4"),
        (Bucket.YEAR, "2026"),
    ],
)
def test_how_a_period_reads(bucket: Bucket, text: str) -> None:
    assert values.group_text(date(2026, 12, 31), bucket) == text


def test_missing_and_blank_groups_have_names() -> None:
    assert (values.group_text(None), values.group_text("")) == ("(none)", "(blank)")


def test_the_numbers_of_a_column_line_up() -> None:
    assert values.common_style([1.0, 2.5, None]) is NumberFormat.DECIMAL
    assert values.common_style([1.0, 2.0]) is None
    assert values.common_style([0.25, 0.5]) is None


@given(st.text(max_size=2000))
def test_printable_text_has_nothing_that_breaks_xml_or_turns_the_line_around(text: str) -> None:
    shown = values.printable(text)
    assert len(shown) <= values.LONGEST_TEXT
    assert not any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.floats() | st.integers() | st.decimals(allow_nan=False), st.sampled_from([None, *NumberFormat]))
def test_every_number_reads_as_something(value: Any, style: NumberFormat | None) -> None:
    assert values.text_of(value, style)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("orders", "orders-summary-orders-v1.pdf"),
        ("Café & Söhne", "orders-summary-cafe-sohne-v1.pdf"),
        ("../../etc/passwd", "orders-summary-etc-passwd-v1.pdf"),
        ('x"; filename="evil.exe\r\n', "orders-summary-x-filename-evil-exe-v1.pdf"),
        ("日本語", "orders-summary-dataset-v1.pdf"),
        ("x" * 300, f"orders-summary-{'x' * 60}-v1.pdf"),
    ],
)
def test_a_file_name_is_plain_whatever_the_dataset_is_called(dataset: str, name: str) -> None:
    context = Context(dataset, 1, 1, 0, CONTEXT.generated_at, "run")
    assert filename(definition(), context, Format.PDF) == name


def test_the_file_of_a_report_of_some_rows_is_named_after_them() -> None:
    assert (
        filename(definition(only={"region": "Nord/Süd"}), CONTEXT, Format.PDF)
        == "orders-summary-orders-nord-sud-v1.pdf"
    )


# Documents


def test_a_line_shows_the_months_in_which_nothing_happened() -> None:
    answers = Answers(
        figures=(1000, 5, 5, 5, 5, 5), table=[], chart=[(date(2024, 1, 1), 7), (date(2024, 4, 1), 9), (None, 3)]
    )
    drawing = compose("Orders", planned(), answers, ORDERS, CONTEXT).drawing
    assert drawing is not None
    assert [(point.x_text, point.y) for point in drawing.points] == [
        ("2024-01", 7),
        ("2024-02", 0),
        ("2024-03", 0),
        ("2024-04", 9),
    ]
    assert "Highest: 2024-04 with 9" in drawing.summary


def test_a_line_of_means_has_gaps_instead_of_zeros() -> None:
    mean = {"label": "Mean", "function": "mean", "column": "amount"}
    wanted = planned(figures=[mean], chart={"kind": "line", "x": "ordered_on", "y": "Mean"})
    answers = Answers(figures=(5,), table=[], chart=[(date(2024, 1, 1), 7.0), (date(2024, 3, 1), 9.0)])
    drawing = compose("Orders", wanted, answers, ORDERS, CONTEXT).drawing
    assert drawing is not None
    assert [point.y for point in drawing.points] == [7, None, 9]


def test_the_reader_is_told_what_is_not_shown() -> None:
    wanted = planned(figures=[], table={"group_by": ["region"], "measures": [TOTAL], "limit": 2}, chart="none")
    context = Context("orders", 1, 900, 100, CONTEXT.generated_at, "run")
    document = compose("Orders", wanted, Answers((), [("a", 1), ("b", 2), ("c", 3)]), ORDERS, context)
    assert document.rows == (("a", "1"), ("b", "2"))
    assert document.notes == (
        "100 rejected rows (10.0% of the input) are not in these figures.",
        "The table shows the first 2 groups; there are more.",
    )


# Matching


@pytest.mark.parametrize(
    ("fields", "rows", "code"),
    [
        ({}, 1000, None),
        ({"dataset": "*"}, 1000, None),
        ({}, 0, "report.dataset_empty"),
        ({"dataset": "*", "figures": [TOTAL]}, 1000, None),
        ({"dataset": "*", "figures": [TOTAL | {"column": "profit"}]}, 1000, "report.column_unknown"),
        ({"dataset": "*", "figures": [TOTAL | {"column": "region"}]}, 1000, "report.column_unsuitable"),
        ({"dataset": "*", "chart": {"kind": "bar", "x": "region", "y": "Total amount"}}, 1000, None),
        ({"figures": [TOTAL | {"column": "profit"}]}, 1000, None),
    ],
)
def test_when_a_definition_is_skipped(fields: dict[str, Any], rows: int, code: str | None) -> None:
    announced = {"region": "text", "amount": "decimal", "ordered_on": "date"}
    columns = [matching.column(name, type) for name, type in announced.items()]
    reason = matching.why_not(definition(**fields), columns, rows)
    assert (reason and reason.code) == code


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        ("bigint", Kind.NUMBER),
        ("decimal", Kind.NUMBER),
        ("double", Kind.NUMBER),
        ("boolean", Kind.BOOLEAN),
        ("date", Kind.DATE),
        ("timestamp", Kind.DATE),
        ("text", Kind.TEXT),
        ("DECIMAL(38,6)", Kind.NUMBER),
        ("UBIGINT", Kind.NUMBER),
        ("TIMESTAMP WITH TIME ZONE", Kind.DATE),
        ("TIME", Kind.OTHER),
        ("UUID", Kind.OTHER),
        ("INTEGER[]", Kind.OTHER),
    ],
)
def test_the_kind_of_a_type(type: str, kind: Kind) -> None:
    assert matching.column("x", type).kind is kind
