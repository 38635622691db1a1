"""From a CSV file to Parquet, rejects and profile."""

import csv
import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.adapters import load_csv, loader, read_rejects
from services.ingest.adapters.rows import MAX_CELL_BYTES, MAX_ROW_BYTES
from services.ingest.errors import NoValidRows
from tests.unit.ingest_loading import load, load_in

cells = st.text(st.sampled_from('ab1,;"\n\t é€'), max_size=8)
rows = st.lists(st.lists(cells, min_size=1, max_size=4), max_size=30)


@settings(max_examples=25, deadline=None)
@given(rows, st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_stored_rows_are_those_of_the_csv_module(rows, delimiter, line_end, quote_all):
    """Three columns of text: each stored row, each ragged row's line, and the counts."""
    written = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([["first", "second", "third"], ["x", "y", "z"], *rows])
    reader = csv.reader(io.StringIO(written.getvalue(), newline=""), delimiter=delimiter, strict=True)
    next(reader)
    expected, ragged, begins = [], [], 2
    for fields in reader:
        if len(fields) == 3:
            expected.append(fields)
        elif fields:
            ragged.append(begins)
        begins = reader.line_num + 1
    stored = load(written.getvalue())
    assert stored.result.delimiter == delimiter
    assert [_text(row) for row in stored.rows] == [[field or None for field in row] for row in expected]
    assert [reject[0] for reject in stored.rejects] == ragged
    assert (stored.result.rows_loaded, stored.result.rows_rejected) == (len(expected), len(ragged))


def _text(row):
    return [None if value is None else str(value) for value in row]


def test_lines_are_counted_in_the_file_and_not_in_rows():
    note = '"two\r\nlines"'
    good = "".join(f"{i},{note}\r\n" for i in range(30))
    stored = load(f"id,note\r\n{good}\r\nbad,x\r\n1,2,3\r\n{good}oops,x")
    assert stored.refused == [
        (63, "id", "bad", "value.not_bigint"),
        (64, None, "1,2,3", "row.too_many_fields"),
        (125, "id", "oops", "value.not_bigint"),
    ]
    assert stored.rows[0] == (0, "two\r\nlines")
    assert (stored.result.rows_loaded, stored.result.rows_rejected, stored.result.rejects) == (60, 3, 3)


def test_a_row_may_have_several_rejects_and_is_rejected_once():
    good = "1,2.5,2024-01-01\n" * 40
    stored = load("n,amount,day\n" + good + "x,y,2024-02-30\n")
    assert stored.refused == [
        (42, "n", "x", "value.not_bigint"),
        (42, "amount", "y", "value.not_decimal"),
        (42, "day", "2024-02-30", "value.not_date"),
    ]
    assert (stored.result.rows_loaded, stored.result.rows_rejected, stored.result.rejects) == (40, 1, 3)


def test_every_reject_says_why_in_words():
    stored = load("a,b\n" + "1,2\n" * 40 + 'x,2\n1\n1,2,3\n1,"2"x\n1,"never closed\n')
    assert [(line, text) for line, _, _, _, text in stored.rejects] == [
        (42, "The value is not a whole number of at most 64 bits."),
        (43, "The row has 1 field; the header names 2 columns."),
        (44, "The row has 3 fields; the header names 2 columns."),
        (45, "A quoted value is followed by more text before the delimiter or the end of the row."),
        (46, "A quote opens on this line and is not closed within 2,097,152 bytes or before the file ends."),
    ]


def test_a_stray_quote_costs_one_line_and_not_the_rest_of_the_file():
    stored = load('id,name\n1,"open\n' + "".join(f"{i},n{i}\n" for i in range(2, 1000)))
    assert stored.refused == [(2, None, '1,"open', "row.quote_open")]
    assert stored.result.rows_loaded == 998


def test_quotes_inside_an_unquoted_value_are_part_of_it():
    stored = load('id,size\n1,5" pipe\n2,"3"" pipe"\n')
    assert stored.rows == [(1, '5" pipe'), (2, '3" pipe')]


def test_a_carriage_return_inside_a_value_is_part_of_it():
    stored = load("id,v\r\n1,a\rb\r\n2,c\r\r\n")
    assert stored.rows == [(1, "a\rb"), (2, "c")]


def test_an_empty_value_is_null_quoted_or_not():
    stored = load('id,n,t\n1,,\n2,"",""\n3,4,x\n')
    assert stored.rows == [(1, None, None), (2, None, None), (3, 4, "x")]


def test_a_single_column_may_hold_empty_values_only_in_quotes():
    stored = load('name\nAda\n\n""\nBob\n')
    assert stored.rows == [("Ada",), (None,), ("Bob",)]


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    assert list(load(b"\xef\xbb\xbfid,v\n1,x\n").types) == ["id", "v"]


def test_a_file_with_a_header_alone_is_a_dataset_of_no_rows():
    stored = load("id,name\n")
    assert (stored.result.rows_loaded, stored.result.rows_rejected, stored.rows) == (0, 0, [])
    assert stored.types == {"id": "text", "name": "text"}


def test_hostile_names_are_names_and_nothing_else():
    names = ["a'b", 'x"y', "; DROP TABLE t --", "Größe (€)", "select", "c0", "line", "{x}", "\\", "%s"]
    header = io.StringIO(newline="")
    csv.writer(header).writerow(names)
    good = ",".join("1" for _ in names) + "\n"
    stored = load(header.getvalue() + good * 40 + good.replace("1,1", "1,x", 1))
    assert list(stored.types) == names
    assert stored.refused == [(42, 'x"y', "x", "value.not_bigint")]
    assert stored.rows == [(1,) * len(names)] * 40


def test_a_reject_shows_the_first_thousand_characters():
    stored = load("id,n\n" + "1,1\n" * 40 + f"1,{'é' * 5000}\n")
    assert stored.refused == [(42, "n", "é" * 1000, "value.not_bigint")]


def test_a_cell_over_the_limit_is_rejected_with_its_column():
    just, over = "x" * MAX_CELL_BYTES, "y" * (MAX_CELL_BYTES + 1)
    stored = load(f'id,v\n1,{just}\n2,{over}\n3,"{over}"\n4,z\n')
    assert [row[0] for row in stored.rows] == [1, 4]
    assert stored.refused == [
        (3, "v", "y" * 1000, "value.too_long"),
        (4, "v", "y" * 1000, "value.too_long"),
    ]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_over_the_limit_is_passed_over_without_being_held(tmp_path, quote):
    """60 MB in one line; Python's own allocations stay at a few blocks."""
    (tmp_path / "in.csv").write_bytes(b"id,v\n1,a\n2," + quote.encode() + b"x" * 60_000_000 + b"\n3,b\n")
    (tmp_path / "scratch").mkdir()
    tracemalloc.start()
    try:
        places = [tmp_path / name for name in ("in.csv", "out.parquet", "rejects.parquet")]
        result = load_csv(*places, scratch=tmp_path / "scratch", progress=lambda done, total: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (reject,) = read_rejects(places[2], 0, 10)
    assert (result.rows_loaded, reject["line"], reject["code"]) == (2, 3, "row.too_long")
    assert peak < 8 * MAX_ROW_BYTES


def test_cells_of_a_megabyte_go_through_in_bounded_memory():
    stored = load("id,v\n" + "".join(f"{i},{chr(97 + i % 26) * (MAX_CELL_BYTES - 8)}\n" for i in range(40)))
    assert [row[0] for row in stored.rows] == list(range(40))
    assert all(len(row[1]) == MAX_CELL_BYTES - 8 for row in stored.rows)


def test_a_thousand_columns_go_through():
    header = ",".join(f"c{i}" for i in range(1000))
    stored = load(header + "\n" + (",".join(["1"] * 999 + ["x"]) + "\n") * 50)
    assert stored.result.rows_loaded == 50
    assert set(stored.types.values()) == {"bigint", "text"}


def test_types_hold_over_the_whole_file_and_not_over_its_beginning(tmp_path, monkeypatch):
    """Many parts: a column that turns to text late, and one whose only fraction stands in the last part."""
    monkeypatch.setattr(loader, "PART_BYTES", 4_000)
    rows = 5_000
    lines = [f"{i},{i if i < rows * 9 // 10 else 'late'},{i}" for i in range(rows)]
    lines[-1] = f"{rows - 1},late,0.5"
    stored = load_in(tmp_path, "id,v,n\n" + "\n".join(lines))
    assert stored.types == {"id": "bigint", "v": "text", "n": "bigint"}
    assert stored.refused == [(rows + 1, "n", "0.5", "value.not_bigint")]
    assert [row[0] for row in stored.rows] == list(range(rows - 1)), "in the file's order"


def test_when_every_row_is_rejected_the_reason_says_so_and_the_rejects_are_kept(tmp_path):
    with pytest.raises(NoValidRows) as failed:
        load_in(tmp_path, "a,b,c\n1,2\n3,4\n5,6,7,8\n")
    assert failed.value.reason() == {
        "code": "csv.no_valid_rows",
        "detail": "All 3 rows were rejected; 2 times as on line 2: The row has 2 fields; the header names 3 columns.",
        "rows_rejected": 3,
    }
    assert [reject["line"] for reject in read_rejects(tmp_path / "rejects", 0, 10)] == [2, 3, 4]


def test_the_profile_tells_each_column():
    rows = "".join(f"{i},{i % 4}.50,{'DE' if i % 4 else 'FR'},{'' if i % 10 == 0 else 'x' * 300}\n" for i in range(100))
    columns = {column.name: column for column in load("id,amount,country,note\n" + rows).result.columns}
    amount, country, note = columns["amount"], columns["country"], columns["note"]
    assert (amount.type, amount.nulls, amount.min, amount.max, amount.mean) == ("decimal", 0, "0.50", "3.50", 2.0)
    assert country.top == [{"value": "DE", "count": 75}, {"value": "FR", "count": 25}]
    assert (country.min, country.max, country.mean, country.distinct) == ("DE", "FR", None, 2)
    assert (note.nulls, note.max, note.top) == (10, "x" * 200, [])
    assert columns["id"].distinct == pytest.approx(100, rel=0.1)


def test_progress_never_falls_and_ends_at_the_whole(tmp_path):
    (tmp_path / "in.csv").write_text("id,v\n" + "1,x\n" * 500_000)
    (tmp_path / "scratch").mkdir()
    told = []
    places = [tmp_path / name for name in ("in.csv", "out.parquet", "rejects.parquet")]
    load_csv(*places, scratch=tmp_path / "scratch", progress=lambda done, total: told.append((done, total)))
    done = [at for at, _ in told]
    assert done == sorted(done)
    assert told[-1] == (places[0].stat().st_size,) * 2
    assert {total for _, total in told} == {places[0].stat().st_size}


def test_what_progress_raises_ends_the_load(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        raise Cancelled

    (tmp_path / "in.csv").write_text("id,v\n" + "1,x\n" * 500_000)
    (tmp_path / "scratch").mkdir()
    places = [tmp_path / name for name in ("in.csv", "out.parquet", "rejects.parquet")]
    with pytest.raises(Cancelled):
        load_csv(*places, scratch=tmp_path / "scratch", progress=cancel)


def test_rejects_are_read_in_pages(tmp_path):
    load_in(tmp_path, "a,b\n1,2\n" + "".join(f"x{i}\n" for i in range(7)))
    first, second = (read_rejects(tmp_path / "rejects", after, 4) for after in (0, 4))
    assert [reject["value"] for reject in first + second] == [f"x{i}" for i in range(7)]
    assert first[0] == {
        "line": 3,
        "column": None,
        "value": "x0",
        "code": "row.too_few_fields",
        "reason": "The row has 1 field; the header names 2 columns.",
    }


def test_a_page_of_many_long_rejects_takes_little_memory(tmp_path):
    load_in(tmp_path, "a,b\n1,2\n" + "".join(f"{i:05}{chr(97 + i % 26) * 2000}\n" for i in range(40_000)))
    page = read_rejects(tmp_path / "rejects", 39_000, 500)
    assert [reject["value"][:5] for reject in page] == [f"{i:05}" for i in range(39_000, 39_500)]


def test_a_row_of_the_wrong_shape_may_hold_a_lone_cr():
    stored = load("a,b\n\rx\n1,2\n")
    assert stored.refused == [(2, None, "\rx", "row.too_few_fields")]
    assert len(stored.rows) == 1
