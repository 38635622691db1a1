"""Loads a CSV given as bytes, and reads back what was stored."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from services.ingest.adapters import LoadResult, load_csv


@dataclass(frozen=True)
class Stored:
    """A load's result, the stored rows, and the rejects as (line, column, value, code, text)."""

    result: LoadResult
    rows: list[tuple[Any, ...]]
    rejects: list[tuple[Any, ...]]

    @property
    def types(self) -> dict[str, str]:
        return {column.name: column.type for column in self.result.columns}

    @property
    def refused(self) -> list[tuple[Any, ...]]:
        """The rejects as (line, column, value, code)."""
        return [reject[:4] for reject in self.rejects]


def load(data: bytes | str) -> Stored:
    with TemporaryDirectory() as folder:
        return load_in(Path(folder), data)


def load_in(folder: Path, data: bytes | str) -> Stored:
    source, target, rejects, scratch = (folder / name for name in ("in.csv", "out.parquet", "rejects", "scratch"))
    source.write_bytes(data.encode() if isinstance(data, str) else data)
    scratch.mkdir()
    result = load_csv(source, target, rejects, scratch=scratch, progress=lambda done, total: None)
    return Stored(result, read(target), read(rejects))


def read(path: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
