"""Reading what a load wrote."""

from pathlib import Path
from typing import Any, Final

from services.ingest.adapters.engine import literal, opened

MEMORY: Final = "64MB"
"""For a page: several may be read at once in one process."""


def read_rejects(path: Path, after: int, limit: int) -> list[dict[str, Any]]:
    """Rejects of the Parquet file `path` in the file's order, from the `after`th (0-based) on."""
    with opened(path.parent, [path], memory=MEMORY) as engine:
        rows = engine.rows(
            'SELECT line, "column", "value", code, "text" '  # a literal of ours and two integers
            f"FROM read_parquet({literal(path)}, file_row_number = true) "
            f"WHERE file_row_number >= {int(after)} ORDER BY file_row_number LIMIT {int(limit)}"
        )
    names = ("line", "column", "value", "code", "reason")
    return [dict(zip(names, row, strict=True)) for row in rows]
