"""Cutting a file into rows, against a second implementation that reads character by character."""

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.adapters.rows import Fault
from services.ingest.adapters.splitter import Reject, Splitter

MAX_ROW, MAX_CELL = 48, 20
Cut = tuple[list[tuple[int, list[str]]], list[tuple[int, str]]]


def split(data: bytes, columns: int, sizes: list[int]) -> Cut:
    """The rows and rejects that the splitter makes of `data`, fed in blocks of the given sizes in turn."""
    rejects: list[Reject] = []
    names = [f"c{i}" for i in range(columns)]
    splitter = Splitter(b",", names, 1, rejects.append, max_row=MAX_ROW, max_cell=MAX_CELL)
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        splitter.feed(data[at : at + size])
        at += size
    splitter.finish()
    batch = splitter.take()
    strict = io.StringIO(b"".join(batch.parts).decode(), newline="")
    rows = [(int(line), fields) for line, *fields in csv.reader(strict, strict=True)]
    assert (batch.rows, batch.lines) == (len(rows), sum(line for line, _ in rows))
    assert splitter.rows_rejected == len({reject.line for reject in rejects})
    assert splitter.line == 1 + data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))
    return rows, sorted({(reject.line, _code(reject.code)) for reject in rejects})


def reference(text: str, columns: int) -> Cut:
    """The documented grammar once more, line by line and character by character."""
    lines = text.split("\n")
    rows, rejects, i = [], [], 0
    while i < len(lines):
        fields, last = _fields(lines, i)
        size = len("\n".join(lines[i : last + 1]).encode())
        if lines[i].strip("\r") == "":
            i += 1
        elif fields is None or size > MAX_ROW:
            long = len(lines[i].encode()) > MAX_ROW
            rejects.append((i + 1, Fault.ROW_TOO_LONG if long else "quotes"))
            i += 1
        else:
            if len(fields) != columns:
                rejects.append((i + 1, Fault.TOO_FEW_FIELDS if len(fields) < columns else Fault.TOO_MANY_FIELDS))
            elif any(len(field.encode()) > MAX_CELL for field in fields):
                rejects.append((i + 1, Fault.CELL_TOO_LONG))
            else:
                rows.append((i + 1, fields))
            i = last + 1
    return rows, rejects


def _fields(lines: list[str], i: int) -> tuple[list[str] | None, int]:
    """The row that begins on line `i` and the line on which it ends; None where its quotes are broken."""
    fields, field, state = [], "", "start"
    line = lines[i].rstrip("\r") if '"' not in lines[i] else lines[i]
    at = 0
    while True:
        if at == len(line):
            if state != "quoted":
                fields.append(field if state in ("closed", "start") else field.rstrip("\r"))
                return fields, i
            i += 1
            if i == len(lines):
                return None, i
            field, line, at = field + "\n", lines[i], 0
            continue
        char, at = line[at], at + 1
        if state == "quoted":
            if char != '"':
                field += char
            elif line[at : at + 1] == '"':
                field, at = field + '"', at + 1
            else:
                state = "closed"
        elif char == ",":
            fields.append(field)
            field, state = "", "start"
        elif state == "closed":
            if line[at - 1 :].strip("\r"):
                return None, i
        elif state == "start" and char == '"':
            state = "quoted"
        else:
            field, state = field + char, "plain"


def _code(code: str) -> str:
    # Where a row grows too long the two are told apart by how far had been read: both name the same line.
    return "quotes" if code in (Fault.QUOTE_OPEN, Fault.QUOTE_TEXT) else code


texts = st.text(st.sampled_from('aé1,,"""\n\n\r '), max_size=160)
blocks = st.lists(st.integers(1, 70), min_size=1, max_size=5)


@given(texts, st.integers(1, 3), blocks)
@example('a,"b\r\nc",d\r\ne,"f""g",h\r\n', 3, [7])
@example('x,"never closed\n1,2\n3,4\n', 2, [3])
@example('x,"' + "y" * 60 + '\n1,"2"\n', 2, [5])
@example('a\n""\n\r\r\r\nb', 1, [100])
@example("a,b\r\r\nc\rd,e\r", 2, [4])
@example("é" * 30 + "\n" + "a" * 48 + "\n" + "a" * 49 + "\n", 1, [10])
def test_rows_lines_and_rejects_are_those_of_the_grammar_however_the_file_is_cut(text, columns, sizes):
    assert split(text.encode(), columns, sizes) == reference(text, columns)


cells = st.text(st.sampled_from('ab,;"\n é'), max_size=6)


@given(
    st.lists(st.lists(cells, min_size=1, max_size=4), max_size=8),
    st.integers(1, 3),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    blocks,
)
def test_what_the_csv_module_writes_and_reads_is_read_alike(rows, columns, quoting, line_end, sizes):
    written = io.StringIO(newline="")
    csv.writer(written, quoting=quoting, lineterminator=line_end).writerows(rows)
    reader = csv.reader(io.StringIO(written.getvalue(), newline=""), strict=True)
    expected, ragged, begins = [], [], 1
    for fields in reader:
        if len(fields) == columns:
            expected.append((begins, fields))
        elif fields:
            ragged.append(begins)
        begins = reader.line_num + 1
    found, rejects = split(written.getvalue().encode(), columns, sizes)
    long = {line for line, code in rejects if code not in (Fault.TOO_FEW_FIELDS, Fault.TOO_MANY_FIELDS)}
    if not long:
        assert found == expected
        assert [line for line, _ in rejects] == ragged
