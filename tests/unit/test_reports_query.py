"""Reports: what DuckDB answers to a plan over a real Parquet file."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from services.reports.adapters.query import Dataset, open_dataset
from services.reports.adapters.sql import LONGEST_TEXT
from services.reports.domain.definition import Definition
from services.reports.domain.document import Answers
from services.reports.domain.planning import plan, profiled
from services.reports.errors import DatasetUnreadable, QueryFailed, ReportTooLarge

ORDERS = """SELECT * FROM (VALUES
    ('North', DATE '2024-01-05', 3, 10.50::DECIMAL(18,2), 0.1::DOUBLE),
    ('North', DATE '2024-01-31', 1, 20.00, 0.2),
    ('South', DATE '2024-03-01', 2, 30.00, 0.3),
    (NULL, DATE '2024-03-02', NULL, NULL, NULL)
) AS t(region, ordered_on, quantity, amount, share)"""


@contextmanager
def dataset(tmp_path: Path, query: str) -> Iterator[Dataset]:
    path = tmp_path / "data.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    with open_dataset(path, tmp_path) as opened:
        yield opened


def answer(tmp_path: Path, query: str, **fields: Any) -> Answers:
    definition = Definition.model_validate({"name": "r", "title": "R", "dataset": "d", "chart": "none", **fields})
    with dataset(tmp_path, query) as opened:
        profiles = opened.profile(profiled(definition, opened.columns))
        return opened.answer(plan(definition, opened.columns, profiles, opened.rows))


def figure(function: str, column: str | None = None) -> dict[str, Any]:
    return {"label": f"{function} {column}", "function": function, "column": column}


def test_each_function_over_the_whole_dataset(tmp_path: Path) -> None:
    found = answer(
        tmp_path,
        ORDERS,
        figures=[
            figure("count"),
            figure("count", "amount"),
            figure("sum", "amount"),
            figure("mean", "quantity"),
            figure("min", "region"),
            figure("max", "ordered_on"),
            figure("distinct", "region"),
            figure("sum", "share"),
        ],
    )
    assert found.figures == (4, 3, Decimal("60.50"), 2.0, "North", date(2024, 3, 2), 2, 0.6)


def test_groups_are_ordered_by_a_measure_then_by_themselves(tmp_path: Path) -> None:
    table = {"group_by": ["region"], "measures": [figure("count")], "order_by": "count None", "descending": True}
    found = answer(tmp_path, ORDERS, table=table)
    assert list(found.table) == [("North", 2), ("South", 1), (None, 1)]


def test_groups_are_ordered_by_themselves_when_nothing_is_said(tmp_path: Path) -> None:
    found = answer(tmp_path, ORDERS, table={"group_by": ["quantity"], "measures": [figure("sum", "quantity")]})
    assert list(found.table) == [(1, 1), (2, 2), (3, 3), (None, None)]


def test_groups_by_month(tmp_path: Path) -> None:
    by_month = {"group_by": [{"column": "ordered_on", "bucket": "month"}], "measures": [figure("sum", "quantity")]}
    found = answer(tmp_path, ORDERS, table=by_month)
    assert list(found.table) == [(date(2024, 1, 1), 4), (date(2024, 3, 1), 2)]


def test_one_row_more_than_the_limit_tells_that_there_are_more(tmp_path: Path) -> None:
    found = answer(tmp_path, ORDERS, table={"group_by": ["ordered_on"], "measures": [figure("count")], "limit": 2})
    assert len(found.table) == 3


def test_bars_stand_by_size_and_lines_by_time(tmp_path: Path) -> None:
    rows = {"table": {"measures": [figure("sum", "quantity")]}}
    bars = answer(tmp_path, ORDERS, **rows, chart={"kind": "bar", "x": "region", "y": "sum quantity"})
    assert list(bars.chart) == [("North", 4), ("South", 2), (None, None)]
    line = answer(tmp_path, ORDERS, **rows, chart={"kind": "line", "x": "ordered_on", "y": "sum quantity"})
    assert [row[0] for row in line.chart][:2] == [date(2024, 1, 5), date(2024, 1, 31)]


def test_timestamps_are_read_in_utc(tmp_path: Path) -> None:
    query = "SELECT TIMESTAMPTZ '2024-01-01 03:00:00+05' AS at, TIMESTAMP '2024-01-01 03:00:00' AS plain"
    by_day = {
        "group_by": [{"column": "at", "bucket": "day"}],
        "measures": [figure("min", "at"), figure("min", "plain")],
    }
    found = answer(tmp_path, query, table=by_day)
    assert found.table[0] == (
        date(2023, 12, 31),
        *map(datetime.fromisoformat, ("2023-12-31 22:00", "2024-01-01 03:00")),
    )


def test_names_are_identifiers_whatever_they_hold(tmp_path: Path) -> None:
    names = [
        'a"; DROP TABLE x; --',
        "g0",
        "m0",
        "grouped",
        "rowid",
        "filename",
        "COLUMNS(*)",
        "*",
        "'",
        "日本",
        "$source",
    ]
    columns = ", ".join(f"{n} AS " + '"' + name.replace('"', '""') + '"' for n, name in enumerate(names))
    for name in names:
        by_name = {"group_by": [name], "measures": [figure("sum", name)], "order_by": name}
        found = answer(tmp_path, f"SELECT {columns}", table=by_name, figures=[figure("max", name)])
        assert found.figures == (names.index(name),)
        assert list(found.table) == [(names.index(name), names.index(name))]


def test_a_long_text_is_cut_but_groups_by_all_of_it(tmp_path: Path) -> None:
    query = "SELECT repeat('x', 5000) || i AS word FROM range(3) t(i)"
    found = answer(tmp_path, query, table={"group_by": ["word"], "measures": [figure("max", "word")]})
    assert [len(str(row[0])) for row in found.table] == [LONGEST_TEXT] * 3


def test_exotic_types_are_grouped_by_their_text(tmp_path: Path) -> None:
    query = "SELECT [1, 2] AS l, {'a': 1} AS s, 'x'::BLOB AS b, TIME '10:00' AS t, INTERVAL 1 DAY AS i"
    for name in "lsbti":
        found = answer(tmp_path, query, table={"group_by": [name], "measures": [figure("max", name)]}, figures=[])
        assert isinstance(found.table[0][0], str)


def test_dates_that_python_cannot_hold_are_answered_all_the_same(tmp_path: Path) -> None:
    query = (
        "SELECT DATE '44-03-15 (BC)' AS d, DATE 'infinity' AS e UNION ALL SELECT DATE '2024-01-01', DATE '12000-01-01'"
    )
    found = answer(tmp_path, query)
    assert found.figures[0] == 2


def test_a_profile_tells_apart_what_a_default_needs(tmp_path: Path) -> None:
    with dataset(tmp_path, ORDERS) as opened:
        found = opened.profile(["region", "ordered_on", "share"])
    assert (found["region"].filled, found["region"].distinct, found["region"].longest) == (3, 2, 5)
    assert (found["ordered_on"].first, found["ordered_on"].last) == (date(2024, 1, 5), date(2024, 3, 2))
    assert found["share"].filled == 3


def test_the_same_file_gives_the_same_sums(tmp_path: Path) -> None:
    query = "SELECT (hash(i) % 1000003) / 7.0 AS x, i % 9 AS g FROM range(300000) t(i)"
    table = {"group_by": ["g"], "measures": [figure("sum", "x"), figure("mean", "x")]}
    assert len({str(answer(tmp_path, query, table=table).table) for _ in range(4)}) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 400 + b"PAR1"])
def test_what_is_not_parquet_is_named_without_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(content)
    with pytest.raises(DatasetUnreadable) as failure, open_dataset(path, tmp_path):
        pass
    assert str(tmp_path) not in failure.value.detail


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreadable), open_dataset(tmp_path / "gone.parquet", tmp_path):
        pass


def test_a_sum_past_the_range_of_its_type_is_named(tmp_path: Path) -> None:
    query = f"SELECT {'9' * 38}::DECIMAL(38,0) AS x FROM range(20)"
    with pytest.raises(QueryFailed) as failure:
        answer(tmp_path, query, figures=[figure("sum", "x")], table={"measures": [figure("count")]})
    assert failure.value.code == "report.query_failed"


def test_a_query_past_its_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.reports.adapters.query.MEMORY", "8MB")
    monkeypatch.setattr("services.reports.adapters.query.SPILL", "1MB")
    query = "SELECT md5(i::VARCHAR) AS x FROM range(500000) t(i)"
    with pytest.raises(ReportTooLarge) as failure:
        answer(tmp_path, query, figures=[figure("distinct", "x")], table={"measures": [figure("count")]})
    assert failure.value.code == "report.too_large"


def test_the_connection_can_open_nothing_but_the_file(tmp_path: Path) -> None:
    with dataset(tmp_path, ORDERS) as opened:
        other = tmp_path / "other.csv"
        other.write_text("a\n1\n")
        for query in (f"SELECT * FROM '{other}'", f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'", "SET threads = 1"):
            with pytest.raises(duckdb.Error):
                opened._connection.execute(query)
