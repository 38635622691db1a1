"""A large CSV in parts: where it may be cut, each part's rows as text columns, and all of them together as one load.

Where a cut is safe is not known before the rows in front of it were read: a quote may be open there. So cuts are chosen
where the quotes so far come in pairs, and whoever reads a part sees whether it ends between two rows. If all parts
do, each began where the rows of the one before ended, and their rows are those of the whole file read in one go. If one
does not, the file is read so.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from shutil import copyfileobj
from typing import Any, Final

from services.ingest.adapters.engine import opened
from services.ingest.adapters.loader import READ_SHARE, LoadResult, Progress, Text, cut_rows, store_typed
from services.ingest.adapters.source import BLOCK_BYTES, Header, Source, read_header
from services.ingest.domain import Kind

REJECTS: Final = "rejects.csv"


@dataclass(frozen=True)
class Part:
    """Bytes from `start` to before `end`; `line` is the physical line on which they begin."""

    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Plan:
    """How a file is read in parts."""

    delimiter: str
    columns: tuple[str, ...]
    guesses: tuple[Kind, ...]
    parts: tuple[Part, ...]

    def header(self, number: int) -> Header:
        """As it stands before the part."""
        return Header(self.delimiter.encode(), self.columns, self.guesses, self.parts[number].line, b"")

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of_json(cls, kept: bytes) -> "Plan":
        body = json.loads(kept)
        guesses = tuple(Kind(guess) for guess in body["guesses"])
        return cls(body["delimiter"], tuple(body["columns"]), guesses, tuple(Part(**part) for part in body["parts"]))


@dataclass(frozen=True)
class PartRead:
    """What a part holds: the rows of each of its `files`, and how many were rejected for their shape."""

    files: list[str]
    rows: list[int]
    rows_rejected: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_parts(source: Path, part_bytes: int, progress: Progress) -> Plan | None:
    """Parts of about `part_bytes`; None when no place to cut was found. Reads and checks the whole file: raises
    FileRefused for what a load would be refused for before its rows are looked at."""
    size = source.stat().st_size
    wanted = -(-size // part_bytes)
    with source.open("rb", buffering=0) as file:
        blocks = Source(file).blocks()
        header = read_header(blocks)
        start = file.tell() - len(header.rest)
        told = _telling(chain([header.rest], blocks), lambda: progress(file.tell(), size))
        found = _cuts(told, start, header.line, [size * n // wanted for n in range(1, wanted)])
    cuts = [(start, header.line), *(cut for cut in found if start < cut[0] < size)]
    if len(cuts) == 1:
        return None
    parts = [Part(begin, end, line) for (begin, line), (end, _) in pairwise([*cuts, (size, 0)])]
    return Plan(header.delimiter.decode(), header.columns, header.guesses, tuple(parts))


def _telling(blocks: Iterable[bytes], tell: Callable[[], None]) -> Iterator[bytes]:
    for block in blocks:
        tell()
        yield block


def _cuts(blocks: Iterable[bytes], offset: int, line: int, wanted: list[int]) -> list[tuple[int, int]]:
    """The first ends of lines at or after each of the `wanted` offsets at which the quotes come in pairs, with the line
    that follows. Reads all blocks."""
    cuts: list[tuple[int, int]] = []
    wanted, quotes = wanted[::-1], 0
    for block in blocks:
        position = 0
        while wanted and wanted[-1] < offset + len(block):
            end = max(position, wanted[-1] - offset)
            quotes, line = quotes + block.count(b'"', position, end), line + block.count(b"\n", position, end)
            position = end
            while end := block.find(b"\n", position) + 1:
                quotes, line, position = quotes + block.count(b'"', position, end), line + 1, end
                if quotes % 2 == 0:
                    break
            else:
                break  # perhaps in the next block
            cuts.append((offset + position, line))
            while wanted and wanted[-1] <= offset + position:
                wanted.pop()
        quotes, line = quotes + block.count(b'"', position), line + block.count(b"\n", position)
        offset += len(block)
    return cuts


def read_part(source: Path, plan: Plan, number: int, out: Path, progress: Progress) -> PartRead | None:
    """The rows of a part, whose bytes are `source`, as files in `out`: text columns, and REJECTS. None when it does
    not end between two rows."""
    size, header = source.stat().st_size, plan.header(number)
    with opened(out, []) as engine, source.open("rb", buffering=0) as file:
        blocks = iter(lambda: file.read(BLOCK_BYTES), b"")
        is_end = number == len(plan.parts) - 1
        text = cut_rows(engine, header, blocks, out, lambda: progress(file.tell(), size), is_end=is_end)
    if text is None:
        return None
    return PartRead([Path(file).name for file in text.files], text.rows, text.rows_rejected)


def join_parts(
    plan: Plan,
    read: Sequence[tuple[Path, PartRead]],
    target: Path,
    rejects: Path,
    *,
    scratch: Path,
    progress: Progress,
) -> LoadResult:
    """Loads what was read of all parts, each in its folder below `scratch`, as `load_csv` loads the whole file."""
    size = plan.parts[-1].end
    shapes = scratch / REJECTS
    with shapes.open("wb") as whole:
        for folder, _ in read:
            with (folder / REJECTS).open("rb") as part:
                copyfileobj(part, whole)
    files = [str(folder / file) for folder, part in read for file in part.files]
    rows = [rows for _, part in read for rows in part.rows]
    text = Text(plan.header(0), files, rows, sum(part.rows_rejected for _, part in read), shapes)
    progress(size * READ_SHARE // 100, size)
    with opened(scratch, [target, rejects]) as engine:
        return store_typed(engine, text, target, rejects, lambda percent: progress(size * percent // 100, size))
