"""Cuts a CSV's bytes into checked rows, each with the physical line on which it begins.

What leaves here is strict: UTF-8 without NUL, every row with the header's number of fields, LF line ends, the
line number as first field. So the engine behind it has nothing to guess, and nothing to reject.

The engine's own table of rejects (DuckDB 2.0, `store_rejects`) does not do: it counts rows where it says lines,
knows no line for a row that it accepts, ends at a stray quote, and casts 1.5 to 2 without a reject.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.ingest.adapters.rows import (
    MAX_CELL_BYTES,
    MAX_ROW_BYTES,
    Broken,
    Fault,
    Row,
    read_row,
    row_pattern,
    shown,
    write_row,
)

_BLANK: Final = re.compile(rb"\r*+(?:\n|\Z)")


@dataclass(frozen=True, slots=True)
class Reject:
    """One value (or, with `column` None, one row) that was kept out, and why."""

    line: int
    column: str | None
    value: str
    code: str
    text: str


@dataclass
class Batch:
    """Rows ready for the engine. `lines` is the sum of their line numbers: a checksum of rows and lines."""

    parts: list[bytes] = field(default_factory=list)
    rows: int = 0
    lines: int = 0
    size: int = 0
    """Bytes."""
    simple: bool = True
    """No quoted line break and no CR anywhere: safe to be parsed in parallel."""

    def add(self, part: bytes, rows: int, lines: int) -> None:
        self.parts.append(part)
        self.rows += rows
        self.lines += lines
        self.size += len(part)


class Splitter:
    """Fed with blocks of a file after its header; collects rows in `batch`, hands rejects to `reject`.

    Holds at most `max_row` bytes of an unfinished row, however long the row is. How the file is cut into blocks
    makes no difference to the rows.
    """

    def __init__(
        self,
        delimiter: bytes,
        columns: Sequence[str],
        line: int,
        reject: Callable[[Reject], None],
        *,
        max_row: int = MAX_ROW_BYTES,
        max_cell: int = MAX_CELL_BYTES,
    ) -> None:
        self.delimiter = delimiter
        self.columns = columns
        self.line = line
        """The physical line at which the next byte stands, from 1."""
        self.batch = Batch()
        self.rows_rejected = 0
        self._reject = reject
        self._max_row = max_row
        self._max_cell = max_cell
        self._pattern = row_pattern(delimiter, len(columns))
        self._rest = b""
        self._skipping = False

    def feed(self, block: bytes) -> None:
        data = self._rest + block
        if self._skipping:
            data = self._skip_line(data)
        cut = data.rfind(b"\n") + 1
        done = self._split(data, cut, final=False)
        self._rest = data[done:]
        if len(self._rest) > self._max_row:
            self._reject_row(self._rest, Fault.ROW_TOO_LONG)
            self._rest, self._skipping = b"", True

    def finish(self) -> None:
        """The end of the file: what is left is the last row."""
        if not self._skipping:
            self._split(self._rest, len(self._rest), final=True)
        self._rest = b""

    @property
    def is_between_rows(self) -> bool:
        """Whether all that was fed is settled: whoever goes on from here alone comes to the same rows."""
        return not self._rest and not self._skipping

    def take(self) -> Batch:
        batch, self.batch = self.batch, Batch()
        return batch

    def _skip_line(self, data: bytes) -> bytes:
        """Drops the rest of an over-long line, its line end included."""
        end = data.find(b"\n") + 1
        if not end:
            return b""
        self._skipping = False
        self.line += 1
        return data[end:]

    def _split(self, data: bytes, cut: int, *, final: bool) -> int:
        """Takes the rows of `data[:cut]`; returns the position up to which they are settled."""
        if not cut:
            return 0
        body = data[:cut] if data[cut - 1 : cut] == b"\n" else data[:cut] + b"\n"
        if body.find(b'"') < 0 and self._split_lines(body.replace(b"\r\n", b"\n")):
            return cut
        return self._split_rows(body, len(data), final=final)

    def _split_lines(self, body: bytes) -> bool:
        """Rows without quotes: every line is one. False, and nothing done, when some need a closer look."""
        lines = body.split(b"\n")
        lines.pop()
        if max(map(len, lines)) > self._max_cell or body.find(b"\r") >= 0:
            return False
        first, self.line = self.line, self.line + len(lines)
        wanted = len(self.columns) - 1
        delimiter = self.delimiter
        fields = [line.count(delimiter) for line in lines]
        if fields.count(wanted) < len(lines) or (wanted == 0 and b"" in lines):
            for number, line, found in zip(range(first, self.line), lines, fields, strict=True):
                self._take_line(number, line, found)
            return True
        count = len(lines)
        prefixed = [b"%d%b%b\n" % (number, delimiter, line) for number, line in enumerate(lines, start=first)]
        self.batch.add(b"".join(prefixed), count, (2 * first + count - 1) * count // 2)
        return True

    def _take_line(self, number: int, line: bytes, delimiters: int) -> None:
        if not line:
            return
        if delimiters == len(self.columns) - 1:
            self.batch.add(b"%d%b%b\n" % (number, self.delimiter, line), 1, number)
        else:
            self._reject_shape(number, line, delimiters + 1)

    def _split_rows(self, body: bytes, known: int, *, final: bool) -> int:
        """Rows with quotes or lone CRs: the pattern takes the well-formed, `_odd_row` looks at the others.

        `known` bytes have been read; those after `body` are the beginning of a line.
        """
        position = 0
        while position < len(body):
            position = self._well_formed(body, position)
            if position < len(body):
                after = self._odd_row(body, position, wait=not final and known - position <= self._max_row)
                if after == position:
                    break
                position = after
        return position

    def _well_formed(self, body: bytes, position: int) -> int:
        """Takes well-formed rows one after the other; returns where the first other one begins."""
        parts: list[bytes] = []
        line, delimiter, lines, end = self.line, self.delimiter, 0, position
        single = len(self.columns) == 1
        # `scanner` (which typeshed leaves out) matches again and again where it left off, without a search.
        for match in iter(self._pattern.scanner(body, position).match, None):  # type: ignore[attr-defined]
            row = match[1]
            if len(row) > self._max_cell or (single and not row):
                break
            parts.append(b"%d%b%b\n" % (line, delimiter, row))
            lines += line
            line += row.count(b"\n") + 1
            end = match.end()
        if parts:
            rows = b"".join(parts)
            self.batch.simple = self.batch.simple and line - self.line == len(parts) and b"\r" not in rows
            self.batch.add(rows, len(parts), lines)
        self.line = line
        return end

    def _odd_row(self, body: bytes, start: int, *, wait: bool) -> int:
        """Settles the one row at `start`; returns the position after it.

        With `wait`, returns `start` for a row whose quote is still open: more of it is to come.
        """
        if (blank := _BLANK.match(body, start)) is not None:
            self.line += 1
            return blank.end()
        row = read_row(body, start, self.delimiter)
        if isinstance(row, Row) and row.end - 1 - start <= self._max_row:
            line, self.line = self.line, self.line + body.count(b"\n", start, row.end)
            self._take_row(line, body[start : row.end].rstrip(b"\r\n"), row.fields)
            return row.end
        fault = row.fault if isinstance(row, Broken) else Fault.QUOTE_OPEN
        if wait and fault is Fault.QUOTE_OPEN:
            return start
        end = body.index(b"\n", start) + 1
        fault = Fault.ROW_TOO_LONG if end - 1 - start > self._max_row else fault
        self._reject_row(body[start : end - 1].rstrip(b"\r"), fault)
        self.line += 1
        return end

    def _take_row(self, line: int, raw: bytes, fields: list[bytes]) -> None:
        """A row that was read field by field: into the batch, unless its shape or a cell forbids it."""
        if len(fields) != len(self.columns):
            self._reject_shape(line, raw, len(fields))
            return
        too_long = [i for i, cell in enumerate(fields) if len(cell) > self._max_cell]
        if too_long:
            self.rows_rejected += 1
            for i in too_long:
                text = f"The value is {len(fields[i]):,} bytes long; the limit is {self._max_cell:,}."
                self._reject(Reject(line, self.columns[i], shown(fields[i]), Fault.CELL_TOO_LONG, text))
            return
        part = b"%d%b%b\n" % (line, self.delimiter, write_row(fields, self.delimiter))
        self.batch.simple = self.batch.simple and part.count(b"\n") == 1 and part.find(b"\r") < 0
        self.batch.add(part, 1, line)

    def _reject_shape(self, line: int, raw: bytes, found: int) -> None:
        wanted = len(self.columns)
        fault = Fault.TOO_FEW_FIELDS if found < wanted else Fault.TOO_MANY_FIELDS
        text = f"The row has {found:,} {_fields(found)}; the header names {wanted:,} {_columns(wanted)}."
        self.rows_rejected += 1
        self._reject(Reject(line, None, shown(raw), fault, text))

    def _reject_row(self, raw: bytes, fault: Fault) -> None:
        """Rejects the physical line at which the splitter stands."""
        text = _TEXTS[fault].format(limit=self._max_row)
        self.rows_rejected += 1
        self._reject(Reject(self.line, None, shown(raw[: self._max_row]), fault, text))


def _fields(count: int) -> str:
    return "field" if count == 1 else "fields"


def _columns(count: int) -> str:
    return "column" if count == 1 else "columns"


_TEXTS: Final = {
    Fault.QUOTE_OPEN: "A quote opens on this line and is not closed within {limit:,} bytes or before the file ends.",
    Fault.QUOTE_TEXT: "A quoted value is followed by more text before the delimiter or the end of the row.",
    Fault.ROW_TOO_LONG: "The line is longer than {limit:,} bytes.",
}
