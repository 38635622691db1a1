"""DuckDB, fenced in: little memory, its own scratch directory, no network, no extensions, no other file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from services.ingest.errors import TooMuchMemory

MEMORY: Final = "320MB"
THREADS: Final = 2


class Engine:
    """One in-memory DuckDB connection. Not for use by two threads at once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self._connection.execute(sql).fetchall())

    def row(self, sql: str) -> tuple[Any, ...]:
        """The single row of an aggregate query."""
        (only,) = self.rows(sql)
        return only

    def copy(self, select: str, target: Path, options: str) -> int:
        """Writes a query's rows as Parquet; returns how many."""
        return int(self.row(f"COPY ({select}) TO {literal(target)} (FORMAT parquet, {options})")[0])

    def interrupt(self) -> None:
        """Ends the running query; may be called from another thread."""
        self._connection.interrupt()


@contextmanager
def opened(scratch: Path, files: Sequence[Path], *, memory: str = MEMORY) -> Iterator[Engine]:
    """An engine that reaches what is under `scratch`, and `files`; nothing else, and for good.

    Raises TooMuchMemory where a query needs more than `memory`.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    try:
        for setting in (
            f"memory_limit = '{memory}'",
            f"threads = {THREADS}",
            f"temp_directory = {literal(scratch / 'spill')}",
            "preserve_insertion_order = true",
            # Text with an offset is read as an instant; nothing depends on the machine's zone.
            "TimeZone = 'UTC'",
            "parquet_metadata_cache = true",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            f"allowed_directories = [{literal(scratch)}]",
            f"allowed_paths = [{', '.join(literal(file) for file in files)}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        yield Engine(connection)
    except duckdb.OutOfMemoryException as error:
        raise TooMuchMemory(f"The file's rows are too large for a load's memory ({memory}).") from error
    finally:
        connection.close()


def literal(value: str | Path) -> str:
    """A string literal of SQL. DuckDB knows no escapes in it but the doubled quote."""
    return "'" + str(value).replace("'", "''") + "'"


def parquet(files: Sequence[str | Path]) -> str:
    """Parquet files as one table, whatever they are called."""
    return f"read_parquet([{', '.join(literal(file) for file in files)}])"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
