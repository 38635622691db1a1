"""DuckDB over one Parquet file: opened without access to anything else, within fixed memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from services.reports.adapters import sql
from services.reports.domain.columns import Column, Kind, Profile
from services.reports.domain.definition import ChartKind, Dimension, Function, Measure, Table
from services.reports.domain.document import Answers, Row
from services.reports.domain.planning import ChartPlan, Plan, check_only
from services.reports.domain.values import rounded
from services.reports.errors import DatasetUnreadable, QueryFailed, ReportTooLarge

if TYPE_CHECKING:
    import duckdb

MEMORY = "200MB"
"""What DuckDB may hold before it spills to the scratch directory."""
SPILL = "10GB"
THREADS = 2


class Dataset:
    """The rows of one Parquet file, or `only` those whose columns have these values as text. Made by `open_dataset`."""

    def __init__(
        self, connection: "duckdb.DuckDBPyConnection", parquet: Path, only: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._connection = connection
        self._source = str(parquet)
        self._values = {"source": self._source}
        self._rows = sql.SOURCE
        self.columns = tuple(Column(str(row[0]), str(row[1])) for row in self._ask("DESCRIBE " + sql.select(["*"])))
        self._known: Mapping[str, Column] = {column.name: column for column in self.columns}
        check_only(only, self.columns)
        if only:
            self._values |= {f"only{n}": value for n, value in enumerate(only.values())}
            self._rows = sql.only([self._known[name] for name in only])
        self.rows = int(str(self._ask(sql.select(["count(*)"], self._rows))[0][0]))

    def profile(self, names: Sequence[str]) -> dict[str, Profile]:
        """Profiles of the named columns, from one pass over the file."""
        if not names:
            return {}
        parts = [part for name in names for part in sql.profile(self._known[name])]
        row = self._ask(sql.select(parts, self._rows))[0]
        return {name: _profile(row[5 * at : 5 * at + 5]) for at, name in enumerate(names)}

    def answer(self, plan: Plan) -> Answers:
        """What the plan asks for. Raises ReportTooLarge or QueryFailed."""
        table = plan.table
        return Answers(
            figures=self._grouped((), plan.figures, [], 1)[0] if plan.figures else (),
            table=self._grouped(table.group_by, table.measures, _order(table), table.limit + 1),
            chart=self._chart(plan.chart) if plan.chart else (),
        )

    def _chart(self, chart: ChartPlan) -> list[Row]:
        """Lines and bars over time stand in the order of x, other bars by size."""
        by_size = chart.kind is ChartKind.BAR and chart.x.bucket is None
        order = [("m0", True)] if by_size else []
        return self._grouped((chart.x,), (chart.measure,), order, chart.limit + 1)

    def _grouped(
        self,
        groups: Sequence[Dimension],
        measures: Sequence[Measure],
        order: Sequence[tuple[str, bool]],
        limit: int,
    ) -> list[Row]:
        """One row a group. Ties are broken by the groups, so the same data gives the same rows in the same order."""
        inner = [f"{sql.dimension(by, self._known[by.column])} AS g{n}" for n, by in enumerate(groups)]
        inner += [f"{sql.measure(m, self._column(m))} AS m{n}" for n, m in enumerate(measures)]
        outer = [sql.cut(f"grouped.g{n}", self._is_text(by)) for n, by in enumerate(groups)]
        outer += [sql.cut(f"grouped.m{n}", self._is_text(m)) for n, m in enumerate(measures)]
        ties = [(f"g{n}", False) for n in range(len(groups)) if not order or order[0][0] != f"g{n}"]
        keys = [f"grouped.{key} {'DESC' if down else 'ASC'} NULLS LAST" for key, down in (*order, *ties)]
        grouped = sql.select(inner, self._rows, group_by=len(groups))
        rows = self._ask(sql.select(outer, f"({grouped}) AS grouped", order_by=keys, limit=limit))
        return [tuple(rounded(value) for value in row) for row in rows]

    def _column(self, measure: Measure) -> Column | None:
        return None if measure.column is None else self._known[measure.column]

    def _is_text(self, part: Dimension | Measure) -> bool:
        if isinstance(part, Dimension):
            return part.bucket is None and self._known[part.column].kind in (Kind.TEXT, Kind.OTHER)
        if part.function not in (Function.MIN, Function.MAX) or part.column is None:
            return False
        return self._known[part.column].kind in (Kind.TEXT, Kind.OTHER)

    def _ask(self, query: str) -> list[Row]:
        import duckdb

        try:
            return self._connection.execute(query, self._values).fetchall()
        except duckdb.OutOfMemoryException:
            raise ReportTooLarge(f"The report's queries need more than {MEMORY} and {SPILL} of scratch.") from None
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise QueryFailed(f"The data does not fit the query: {_told(error, self._source)}") from None
        except (duckdb.IOException, duckdb.InvalidInputException, duckdb.PermissionException) as error:
            raise DatasetUnreadable(f"The Parquet file cannot be read: {_told(error, self._source)}") from None
        except duckdb.Error as error:
            raise QueryFailed(f"The query failed: {_told(error, self._source)}") from None


@contextmanager
def open_dataset(parquet: Path, scratch: Path, only: Mapping[str, str] = MappingProxyType({})) -> Iterator[Dataset]:
    """The Parquet file as a dataset, or `only` its rows with these values. Queries spill to `scratch`, can open no
    other file and reach no network.

    Raises DatasetUnreadable and ColumnUnknown. If the process dies here, what was spilled goes with the scratch
    directory.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": THREADS})
    try:
        _confine(connection, parquet, scratch)
        yield Dataset(connection, parquet, only)
    finally:
        connection.close()


def _confine(connection: "duckdb.DuckDBPyConnection", parquet: Path, scratch: Path) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute(f"SET max_temp_directory_size = '{SPILL}'")
    connection.execute("SET temp_directory = " + sql.literal(str(scratch / "spill")))
    connection.execute(f"SET allowed_paths = [{sql.literal(str(parquet))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _told(error: Exception, source: str) -> str:
    """The engine's words, without the path of the scratch directory."""
    return str(error).partition("\n")[0].replace(source, "the file")[:300]


def _order(table: Table) -> list[tuple[str, bool]]:
    """The result column that the table is sorted by: the one it names, or its first group."""
    groups = len(table.group_by)
    at = table.sortable().index(table.order_by) if table.order_by else 0
    key = f"g{at}" if at < groups else f"m{at - groups}"
    return [(key, table.descending)]


def _profile(row: Row) -> Profile:
    filled, distinct, longest, first, last = row
    return Profile(
        filled=int(str(filled or 0)),
        distinct=int(str(distinct or 0)),
        longest=int(str(longest or 0)),
        first=first if isinstance(first, date) else None,
        last=last if isinstance(last, date) else None,
    )
