"""Rows of a CSV by RFC 4180, over bytes: where each begins and ends, and what is wrong with it.

The grammar, stricter than most readers so that nothing is guessed:
- a row ends at LF, before which any number of CR is dropped; a lone CR elsewhere is part of its value;
- a field that begins with a quote ends at the next single quote, `""` inside is one quote; after it comes the
  delimiter or the row's end and nothing else;
- quotes elsewhere in an unquoted field are ordinary characters;
- a blank line is no row.

A row whose quoting is broken rejects the one physical line on which it begins, and reading resumes on the next
line: one stray quote costs a line, not the rest of the file.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_CELL_BYTES: Final = 1024 * 1024
MAX_ROW_BYTES: Final = 2 * 1024 * 1024
"""A longer row is rejected without being held in memory."""
MAX_VALUE_CHARS: Final = 1_000
"""What a reject shows of a value."""

_QUOTED: Final = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
_ROW_END: Final = re.compile(rb"\r*+(?:\n|\Z)")
_UNQUOTED: Final = {d: re.compile(rb"[^\n" + re.escape(d) + rb"]*+") for d in (b",", b";", b"\t", b"|")}


class Fault(StrEnum):
    """Why a row or a value was rejected: the reason's code."""

    TOO_FEW_FIELDS = "row.too_few_fields"
    TOO_MANY_FIELDS = "row.too_many_fields"
    QUOTE_OPEN = "row.quote_open"
    QUOTE_TEXT = "row.quote_text"
    ROW_TOO_LONG = "row.too_long"
    CELL_TOO_LONG = "value.too_long"


@dataclass(frozen=True)
class Row:
    """A row that was read: its fields without their quotes, and the position after its end."""

    fields: list[bytes]
    end: int


@dataclass(frozen=True)
class Broken:
    """A row whose quoting is broken."""

    fault: Fault


def read_row(data: bytes, start: int, delimiter: bytes) -> Row | Broken:
    """The row at `start`. The end of `data` counts as the end of a row."""
    fields: list[bytes] = []
    position = start
    while True:
        quoted = data[position : position + 1] == b'"'
        match = (_QUOTED if quoted else _UNQUOTED[delimiter]).match(data, position)
        if match is None:
            return Broken(Fault.QUOTE_OPEN)
        position = match.end()
        fields.append(match[0][1:-1].replace(b'""', b'"') if quoted else match[0])
        if data[position : position + 1] == delimiter:
            position += 1
            continue
        end = _ROW_END.match(data, position)
        if end is None:
            return Broken(Fault.QUOTE_TEXT)
        if not quoted:
            fields[-1] = fields[-1].rstrip(b"\r")
        return Row(fields, end.end())


def row_pattern(delimiter: bytes, columns: int) -> re.Pattern[bytes]:
    """Matches a well-formed row of exactly `columns` fields (group 1) with its line end.

    The fast lane: it passes over what `read_row` would have to look at (a lone CR, a quote inside an unquoted
    field). Possessive throughout, so no input makes it backtrack.
    """
    plain = rb'[^"\r\n' + re.escape(delimiter) + rb"]*+"
    one = rb'(?>"[^"]*+(?:""[^"]*+)*+"|' + plain + rb")"
    repeated = rb"(?:" + one + re.escape(delimiter) + rb"){%d}" % (columns - 1)
    return re.compile(rb"(" + repeated + one + rb")\r*+\n")


def write_row(fields: list[bytes], delimiter: bytes) -> bytes:
    """The fields as a strict row without a line end: quoted wherever a reader could stumble."""
    special = (delimiter, b'"', b"\n", b"\r")
    return delimiter.join(
        b'"' + field.replace(b'"', b'""') + b'"' if any(char in field for char in special) else field
        for field in fields
    )


def shown(value: bytes) -> str:
    """What a reject keeps of a value: its first MAX_VALUE_CHARS characters."""
    return value[: 4 * MAX_VALUE_CHARS].decode("utf-8", "ignore")[:MAX_VALUE_CHARS]
