"""What is kept out of a dataset, row by row and value by value, with the reason."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.ingest.adapters.columns import COLUMNS_A_QUERY, Decision, fits
from services.ingest.adapters.engine import Engine, literal, parquet
from services.ingest.adapters.rows import MAX_ROW_BYTES, MAX_VALUE_CHARS
from services.ingest.adapters.splitter import Reject
from services.ingest.domain import Kind

PAGE_ROWS: Final = 4_096
"""Rows of a row group: a page of rejects is read by unpacking one or two."""

_WANTED: Final = {
    Kind.BOOLEAN: "true or false",
    Kind.BIGINT: "a whole number of at most 64 bits",
    Kind.DECIMAL: "a decimal number such as -12.50",
    Kind.DOUBLE: "a number such as -12.5 or 1.5e-3",
    Kind.DATE: "a date as YYYY-MM-DD",
    Kind.TIMESTAMP: "a time as YYYY-MM-DD HH:MM:SS, without a zone",
    Kind.TIMESTAMP_ZONED: "a time as YYYY-MM-DDTHH:MM:SS with a zone (Z or +02:00)",
}


class RejectFile:
    """Rejects of the first reading, on disk as they come: a file may be nothing but rejects."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = self.path.open("w", encoding="utf-8", newline="")
        # All of them: by itself the writer quotes no lone CR, which whoever reads it takes for the end of a line.
        self._writer = csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        self._writer.writerow((reject.line, reject.column, reject.value, reject.code, reject.text))


def write_rejects(
    engine: Engine,
    shapes: Path,
    names: Sequence[str],
    decisions: Sequence[Decision],
    files: Sequence[str],
    target: Path,
) -> int:
    """Joins the rejects of shape (`shapes`) and of type into `target`; returns how many there are.

    Ordered by line and, within it, by the columns' order.
    """
    strict = [i for i, decision in enumerate(decisions) if decision.misfits]
    parts = []
    for start in range(0, len(strict), COLUMNS_A_QUERY):
        part = shapes.with_name(f"rejects-{start:05}.parquet")
        columns = strict[start : start + COLUMNS_A_QUERY]
        engine.copy(_type_rejects(columns, names, decisions, files), part, "COMPRESSION lz4")
        parts.append(str(part))
    queries = [_shape_rejects(shapes, names)] + ([f"SELECT * FROM {parquet(parts)}"] if parts else [])
    select = f'SELECT line, "column", "value", code, "text" FROM ({" UNION ALL ".join(queries)}) ORDER BY line, place'
    return engine.copy(select, target, f"COMPRESSION zstd, ROW_GROUP_SIZE {PAGE_ROWS}")


def _shape_rejects(shapes: Path, names: Sequence[str]) -> str:
    places = ", ".join(literal(name) for name in names)
    return (
        f'SELECT line, coalesce(list_position([{places}], "column"), 0) AS place, "column", "value", code, "text" '
        f"FROM read_csv({literal(shapes)}, auto_detect = false, header = false, strict_mode = true, "
        "delim = ',', quote = '\"', escape = '\"', new_line = '\\n', nullstr = '', parallel = false, columns = "
        "{line: 'BIGINT', \"column\": 'VARCHAR', \"value\": 'VARCHAR', code: 'VARCHAR', \"text\": 'VARCHAR'}, "
        f"max_line_size = {MAX_ROW_BYTES}, buffer_size = {4 * MAX_ROW_BYTES})"
    )


def _type_rejects(
    columns: Sequence[int], names: Sequence[str], decisions: Sequence[Decision], files: Sequence[str]
) -> str:
    """One row for each value that does not fit: the rows with such a value first, then their values."""
    kinds = {i: decisions[i].type.kind for i in columns}
    bad = {i: f"(c{i} IS NOT NULL AND NOT {fits(kind, f'c{i}')})" for i, kind in kinds.items()}
    found = ", ".join(
        f"CASE WHEN {bad[i]} THEN {{place: {i + 1}, name: {literal(names[i])}, "
        f"given: left(c{i}, {MAX_VALUE_CHARS}), code: {literal(f'value.not_{kind}')}, "
        f"said: {literal(f'The value is not {_WANTED[kind]}.')}}} END"
        for i, kind in kinds.items()
    )
    return (
        'SELECT line, r.place, r.name AS "column", r.given AS "value", r.code AS code, r.said AS "text" FROM '
        f"(SELECT line, unnest([{found}]) AS r FROM {parquet(files)} WHERE {' OR '.join(bad.values())}) "
        "WHERE r IS NOT NULL"
    )
