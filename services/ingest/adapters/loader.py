"""CSV in, Parquet out: every value as text first, then typed strictly over the whole file.

    source --read, check, cut into rows--> text parts (Parquet) --count--> types
                       |                                            |
                       +--- rows of the wrong shape                 +--- values of the wrong type
                                     \\---------- rejects ----------/

Memory is bounded by constants: a block (1 MiB), an unfinished row (2 MiB), a part (PART_BYTES), DuckDB's limit.
Scratch holds up to about the source's size. All of it can be thrown away: a load that died starts again.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from services.ingest.adapters.columns import Decision, converted, decide, fits
from services.ingest.adapters.engine import Engine, identifier, literal, opened, parquet
from services.ingest.adapters.profile import ColumnProfile, profile
from services.ingest.adapters.rejects import RejectFile, write_rejects
from services.ingest.adapters.rows import MAX_ROW_BYTES
from services.ingest.adapters.source import Header, Source, read_header
from services.ingest.adapters.splitter import Batch, Splitter
from services.ingest.errors import NoValidRows

PART_BYTES: Final = 32 * 1024 * 1024
"""Rows go to the engine in parts of about so many bytes …"""
LONG_ROWS_BYTES: Final = 4 * 1024 * 1024
"""… or of so many where rows are long: a column of a part is read back as one page, by each thread."""
VECTOR_ROWS: Final = 2_048
"""What the engine handles at a time, however long the rows are."""
ROW_GROUP: Final = "ROW_GROUP_SIZE 61440, ROW_GROUP_SIZE_BYTES '32MB'"
"""Small enough for two threads to build one each, in order, within the engine's memory."""
_FEW_COLUMNS: Final = 100
READ_SHARE: Final = 70
"""Per cent of the progress that reading is; typing, storing and profiling are the rest."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadResult:
    """`rows_loaded + rows_rejected` are the file's data rows; a rejected row has one or more `rejects`."""

    rows_loaded: int
    rows_rejected: int
    rejects: int
    delimiter: str
    columns: list[ColumnProfile]


def load_csv(source: Path, target: Path, rejects: Path, *, scratch: Path, progress: Progress) -> LoadResult:
    """Loads the CSV file `source` as Parquet (zstd) at `target`, and what was kept out at `rejects`.

    `rejects` has the columns line (1-based, physical, where the row begins), column (NULL: the row as a whole),
    value (the first 1,000 characters), code, text; in the file's order. A file with a header alone gives a
    dataset of no rows. `scratch` is an existing directory that the caller empties, whatever happens.
    `progress(done, total)` is called often, in bytes of the source; what it raises ends the load.

    Raises FileRefused when the file as a whole cannot be loaded; NoValidRows after `rejects` is written.
    """
    size = source.stat().st_size

    def step(percent: int) -> None:
        progress(size * percent // 100, size)

    with opened(scratch, [target, rejects]) as engine:
        text = _read(engine, source, scratch, lambda done: progress(done * READ_SHARE // 100, size))
        return store_typed(engine, text, target, rejects, step)


def store_typed(engine: Engine, text: "Text", target: Path, rejects: Path, step: Callable[[int], None]) -> LoadResult:
    """What `load_csv` does once the file is text columns; `step` hears of per cents, from READ_SHARE on."""
    decisions = decide(engine, text.header.guesses, text.files, text.rows)
    step(75)
    loaded = engine.copy(_typed(text, decisions), target, f"COMPRESSION zstd, {ROW_GROUP}, {text.dictionary}")
    step(90)
    count = write_rejects(engine, text.rejects, text.header.columns, decisions, text.files, rejects)
    rejected = text.rows_rejected + sum(text.rows) - loaded
    if rejected and not loaded:
        raise _none_valid(engine, rejects, rejected)
    columns = profile(engine, target, text.header.columns, [decision.type for decision in decisions])
    step(100)
    return LoadResult(loaded, rejected, count, text.header.delimiter.decode(), columns)


@dataclass(frozen=True)
class Text:
    """The file as text columns `line`, `c0`, `c1`, … in Parquet files of `rows` rows each."""

    header: Header
    files: list[str]
    rows: list[int]
    rows_rejected: int
    rejects: Path

    @property
    def dictionary(self) -> str:
        return _dictionary(self.header)


def _dictionary(header: Header) -> str:
    """A dictionary takes memory in every column, whatever it holds: with many columns there is none."""
    return f"DICTIONARY_SIZE_LIMIT {10_000 if len(header.columns) <= _FEW_COLUMNS else 1}"


def _read(engine: Engine, source: Path, scratch: Path, progress: Callable[[int], None]) -> Text:
    """Cuts the file into rows on this thread while the engine stores the part before on another."""
    with source.open("rb", buffering=0) as file:
        blocks = Source(file).blocks()
        header = read_header(blocks)
        text = cut_rows(engine, header, chain([header.rest], blocks), scratch, lambda: progress(file.tell()))
    assert text is not None
    return text


def cut_rows(
    engine: Engine,
    header: Header,
    blocks: Iterable[bytes],
    scratch: Path,
    progress: Callable[[], None],
    *,
    is_end: bool = True,
) -> Text | None:
    """The rows in `blocks` (bytes after `header.line`) as text columns, and what was kept out, in `scratch`. None when
    they do not end between two rows, though they are not the file's `is_end`."""
    with RejectFile(scratch / "rejects.csv") as rejects, ThreadPoolExecutor(1) as thread:
        splitter = Splitter(header.delimiter, header.columns, header.line, rejects.add)
        parts = _Parts(engine, thread, scratch, header)
        try:
            for block in blocks:
                splitter.feed(block)
                if _is_full(splitter.batch):
                    parts.store(splitter.take())
                progress()
            if not is_end and not splitter.is_between_rows:
                parts.wait()
                return None
            splitter.finish()
            if splitter.batch.rows or not parts.files:
                parts.store(splitter.take())
            parts.wait()
        except BaseException:
            engine.interrupt()
            raise
    return Text(header, parts.files, parts.rows, splitter.rows_rejected, rejects.path)


def _is_full(batch: Batch) -> bool:
    return batch.size >= PART_BYTES or (batch.size >= LONG_ROWS_BYTES and batch.rows < VECTOR_ROWS)


class _Parts:
    """The text columns' files, stored one behind the other on `thread`."""

    def __init__(self, engine: Engine, thread: ThreadPoolExecutor, scratch: Path, header: Header) -> None:
        self._engine = engine
        self._thread = thread
        self._scratch = scratch
        self._header = header
        # Not compressed: half the time, and scratch of about the source's size.
        self._format = f"COMPRESSION uncompressed, {_dictionary(header)}"
        self._stored: Future[None] | None = None
        self.files: list[str] = []
        self.rows: list[int] = []

    def store(self, batch: Batch) -> None:
        """Begins to store the batch; waits for the one before, so that at most two are in memory."""
        self.wait()
        file = self._scratch / f"text-{len(self.files):05}.parquet"
        self.files.append(str(file))
        self.rows.append(batch.rows)
        self._stored = self._thread.submit(self._store, batch, file)

    def wait(self) -> None:
        if self._stored is not None:
            self._stored.result()

    def _store(self, batch: Batch, file: Path) -> None:
        rows = file.with_suffix(".csv")
        with rows.open("wb") as out:
            out.writelines(batch.parts)
        batch.parts.clear()
        self._engine.copy(_parsed(rows, self._header, parallel=batch.simple), file, self._format)
        counted = self._engine.row(f"SELECT count(*), coalesce(sum(line), 0) FROM {parquet([file])}")
        if counted != (batch.rows, batch.lines):
            # A bug in one of the two parsers, never the user's doing: fail loudly rather than lose a row.
            raise RuntimeError(f"stored (rows, sum of lines) {counted}, expected {(batch.rows, batch.lines)}")
        rows.unlink()


def _parsed(rows: Path, header: Header, *, parallel: bool) -> str:
    """A query over checked rows: everything is told, nothing is sniffed, every value is text."""
    columns = {"line": "BIGINT"} | {f"c{i}": "VARCHAR" for i in range(len(header.columns))}
    described = ", ".join(f"{name}: {literal(kind)}" for name, kind in columns.items())
    return (
        f"SELECT * FROM read_csv({literal(rows)}, auto_detect = false, header = false, strict_mode = true, "
        f"delim = {literal(header.delimiter.decode())}, quote = '\"', escape = '\"', new_line = '\\n', "
        f"nullstr = '', columns = {{{described}}}, parallel = {parallel}, "
        # Quoting can double a row's quotes, and the line number comes before it.
        f"max_line_size = {3 * MAX_ROW_BYTES}, buffer_size = {4 * MAX_ROW_BYTES})"
    )


def _typed(text: Text, decisions: Sequence[Decision]) -> str:
    """The rows of which every value fits, typed, under the header's names."""
    columns = ", ".join(
        f"{converted(decision.type, f'c{i}')} AS {identifier(name)}"
        for i, (name, decision) in enumerate(zip(text.header.columns, decisions, strict=True))
    )
    conditions = [
        f"(c{i} IS NULL OR {fits(decision.type.kind, f'c{i}')})"
        for i, decision in enumerate(decisions)
        if decision.misfits
    ]
    return f"SELECT {columns} FROM {parquet(text.files)} WHERE {' AND '.join(conditions) or 'true'}"


def _none_valid(engine: Engine, rejects: Path, rows: int) -> NoValidRows:
    text, line, count = engine.row(
        f"SELECT arg_min(text, line), min(line), count(*) FROM {parquet([rejects])} "
        "GROUP BY code ORDER BY count(*) DESC, code LIMIT 1"
    )
    detail = f"All {rows:,} rows were rejected; {count:,} times as on line {line:,}: {text}"
    return NoValidRows(detail, rows_rejected=rows)
