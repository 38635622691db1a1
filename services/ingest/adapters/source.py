"""The file as it came: is it text, is it UTF-8, which delimiter, which columns."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from services.ingest.adapters.rows import MAX_ROW_BYTES, Row, read_row
from services.ingest.domain import DELIMITERS, Kind, choose_delimiter, guess, header_problem
from services.ingest.errors import BadHeader, BinaryFile, EmptyFile, WrongEncoding, WrongLineEndings

BLOCK_BYTES: Final = 1024 * 1024
SAMPLE_ROWS: Final = 100
"""Rows after the header that help to choose the delimiter and to tell a header from data."""

_MAGIC: Final = {
    b"PK\x03\x04": "a ZIP archive (perhaps an Excel workbook)",
    b"\xd0\xcf\x11\xe0": "an old Office document (perhaps an Excel workbook)",
    b"\x1f\x8b": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"PAR1": "a Parquet file",
    b"%PDF-": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"SQLite format 3": "an SQLite database",
    b"\x7fELF": "a program",
}
_WIDE: Final = {
    # UTF-32 first: its little-endian mark begins with UTF-16's.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Header:
    """What the first row says, and what the first columns look like.

    `line` is the physical line after the header, `rest` what was read beyond it.
    """

    delimiter: bytes
    columns: tuple[str, ...]
    guesses: tuple[Kind, ...]
    line: int
    rest: bytes


class Source:
    """Reads a file in blocks and refuses it where it stops being UTF-8 text."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = 0
        self._lines = 1

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes without a byte order mark. Raises BinaryFile or WrongEncoding at the first bad one."""
        while block := self._file.read(BLOCK_BYTES):
            first = self._offset == 0
            if first:
                _check_signature(block)
            self._check(block)
            self._offset += len(block)
            self._lines += block.count(b"\n")
            yield block.removeprefix(codecs.BOM_UTF8) if first else block
        self._check(b"", final=True)

    def _check(self, block: bytes, *, final: bool = False) -> None:
        if (nul := block.find(b"\0")) >= 0:
            raise _nul(block, self._lines + block.count(b"\n", 0, nul), self._offset + nul)
        pending = self._decoder.getstate()[0]
        if not pending and block.isascii():
            return
        try:
            self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            at = error.start - len(pending)
            bad = (pending + block)[error.start]
            raise WrongEncoding(
                f"The byte 0x{bad:02X} at offset {self._offset + at:,}, on line "
                f"{self._lines + block.count(10, 0, max(at, 0)):,}, is not UTF-8. "
                "The file may be Windows-1252 or Latin-1: export it as UTF-8.",
                line=self._lines + block.count(10, 0, max(at, 0)),
                offset=self._offset + at,
            ) from None


def _check_signature(block: bytes) -> None:
    for mark, encoding in _WIDE.items():
        if block.startswith(mark):
            raise WrongEncoding(f"The file is {encoding}: export it as UTF-8.", line=1, offset=0)
    for magic, what in _MAGIC.items():
        if block.startswith(magic):
            raise BinaryFile(f"The file is {what}, not CSV text.")


def _nul(block: bytes, line: int, offset: int) -> BinaryFile | WrongEncoding:
    head = block[:4096]
    halves = (head[0::2].count(0), head[1::2].count(0))
    if len(head) > 3 and max(halves) * 4 > len(head) and min(halves) * 16 < len(head):
        return WrongEncoding("The file looks like UTF-16: export it as UTF-8.", line=line, offset=offset)
    return BinaryFile(f"There is a NUL byte at offset {offset:,}, on line {line:,}: this is not CSV text.")


def read_header(blocks: Iterator[bytes]) -> Header:
    """The header of the file. Raises EmptyFile, WrongLineEndings or BadHeader."""
    head, whole, line = _head(blocks)
    first = head[: MAX_ROW_BYTES + 1].find(b"\n")
    if first < 0 and (len(head) > MAX_ROW_BYTES or not whole):
        raise BadHeader(f"The first line is longer than {MAX_ROW_BYTES:,} bytes.")
    if first < 0 and b"\r" in head.rstrip(b"\r"):
        raise WrongLineEndings("The lines end in CR alone: save the file with LF or CRLF line endings.")
    tried = {delimiter: _sample(head, delimiter.encode(), whole=whole) for delimiter in DELIMITERS}
    rows = {delimiter: [row for row, _ in sample] for delimiter, sample in tried.items()}
    delimiter = choose_delimiter({d: [len(row) for row in sample] for d, sample in rows.items()})
    names, *sample = rows[delimiter] or [[]]
    if not names:
        raise BadHeader("The quotes of the header row are broken.")
    names = [name.strip() for name in names]
    if problem := header_problem(names, sample):
        raise BadHeader(problem)
    rows_alike = [row for row in sample if len(row) == len(names)]
    guesses = tuple(guess([row[i] for row in rows_alike]) for i in range(len(names)))
    end = tried[delimiter][0][1]
    return Header(delimiter.encode(), tuple(names), guesses, line + head.count(b"\n", 0, end), head[end:])


def _head(blocks: Iterator[bytes]) -> tuple[bytes, bool, int]:
    """The file's beginning without its leading blank lines, whether that is all of it, and the line it is on.

    At least MAX_ROW_BYTES and one block, where the file is that long.
    """
    head, line = b"", 1
    for block in blocks:
        head += block
        text = head.lstrip(b"\r\n")
        line += head.count(b"\n", 0, len(head) - len(text))
        head = text
        if len(head) > MAX_ROW_BYTES:
            return head, False, line
    if not head.strip():
        raise EmptyFile("The file is empty.")
    return head, True, line


def _sample(head: bytes, delimiter: bytes, *, whole: bool) -> list[tuple[list[str], int]]:
    """The header and the rows after it as fields (none for a broken row), each with its end in `head`."""
    rows: list[tuple[list[str], int]] = []
    position = 0
    while position < len(head) and len(rows) <= SAMPLE_ROWS:
        row = read_row(head, position, delimiter)
        if isinstance(row, Row) and (row.end < len(head) or whole or not rows):
            if row.fields != [b""]:
                rows.append(([cell.decode("utf-8", "ignore") for cell in row.fields], row.end))
            position = row.end
            continue
        end = head.find(b"\n", position) + 1
        if isinstance(row, Row) or not end:
            break
        rows.append(([], end))
        position = end
    return rows
