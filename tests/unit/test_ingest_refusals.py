"""Files that cannot become a dataset: each has its own code, and a sentence that says what to do about it."""

import gzip

import pytest

from services.ingest.adapters import engine
from services.ingest.domain import MAX_COLUMNS, header_problem
from services.ingest.errors import FileRefused
from tests.unit.ingest_loading import load

MEGABYTE = 1024 * 1024
LINE = b"1,caf\xc3\xa9\n"


def refusal(data: bytes | str) -> FileRefused:
    with pytest.raises(FileRefused) as refused:
        load(data)
    return refused.value


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf", b"  \n \n"])
def test_an_empty_file(data):
    assert refusal(data).code == "csv.empty"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04rest", "Excel"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"a,b\n1,x\0y\n", "NUL byte at offset 7, on line 2"),
        (b"id,v\n" + LINE * 400_000 + b"1,\0\n", "on line 400,002"),
    ],
)
def test_a_binary_file(data, what):
    refused = refusal(data)
    assert refused.code == "csv.binary"
    assert what in refused.detail


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_wide_encoding_is_named(encoding):
    refused = refusal("name,city\nJürgen,Köln\n".encode(encoding))
    assert refused.code == "csv.encoding"
    assert encoding[:6].upper() in refused.detail


@pytest.mark.parametrize(
    ("before", "after"), [(b"id,v\n", b"\n"), (b"id,v\n" + LINE * 400_000, LINE * 10), (b"v\n1,\xc3", b"")]
)
def test_the_first_byte_that_is_not_utf8_is_named(before, after):
    cut = before.endswith(b"\xc3")
    refused = refusal(before + (b"" if cut else b"1,caf\xe9") + after)
    offset = len(before) - 1 if cut else len(before) + 5
    assert refused.code == "csv.encoding"
    assert refused.facts == {"line": before.count(b"\n") + 1, "offset": offset}
    assert f"0x{'C3' if cut else 'E9'} at offset {offset:,}" in refused.detail


def test_a_character_across_two_blocks_is_no_error():
    head = b"id,v\n1," + b"x" * (MEGABYTE - 8) + b"\n"
    assert len(head) == MEGABYTE
    assert load(head[:-1] + "é\n2,ü\n".encode()).result.rows_loaded == 2


def test_lines_that_end_in_cr_alone():
    assert refusal("id,name\r1,Ada\r2,Bob\r").code == "csv.line_endings"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("1,2,3\n4,5,6\n", "only numbers"),
        ("1,ada,2024-01-01\n2,bob,2024-01-02\n", "looks like data ('1', '2024-01-01')"),
        ("ada,30\nbob,40\n", "looks like data ('30')"),
        ("id,,name\n1,2,3\n", "Column 2 has no name"),
        ("id,name,\n1,Ada,\n", "Column 3 has no name"),
        ("id,Name,name\n1,2,3\n", "Columns 2 and 3 have the same name: 'name'"),
        ('id,"two\nlines"\n1,2\n', "line break"),
        ("id,a\tb\n1,2\n", "control character"),
        ("id," + "n" * 201 + "\n1,2\n", "201 characters"),
        (",".join(f"c{i}" for i in range(MAX_COLUMNS + 1)) + "\n", "1,001 columns"),
        ('id,"name\n1,2\n', "quotes of the header row are broken"),
        ("x" * 3 * MEGABYTE, "longer than 2,097,152 bytes"),
        ("x" * 3 * MEGABYTE + "\n1\n", "longer than 2,097,152 bytes"),
    ],
)
def test_a_header_that_is_missing_or_unusable(data, said):
    refused = refusal(data)
    assert refused.code == "csv.header"
    assert said in refused.detail


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["region", "2021", "2022"], [["north", "1", "2"]]),
        (["product", "2024-01-01", "2024-02-01"], [["tea", "5", "6"]]),
        (["day", "1", "2", "3"], [["mon", "4", "5", "6"]]),
        (["name", "city"], [["Ada", "London"]]),
        (["id", "count"], [["1", "2"]]),
        (["id"], []),
    ],
)
def test_a_header_of_names_is_one(names, rows):
    assert header_problem(names, rows) is None


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb\nx, y\tz\n", "\t"),
        ("a|b|c\n1|2|3\n", "|"),
        ("name\nDoe; Jane\n", ","),
        ('"a,b";c;d\n1;2;3\n', ";"),
        ("a,b;c\n1,x;y\n2,z\n", ","),
    ],
)
def test_the_delimiter_is_the_one_under_which_the_rows_agree(data, delimiter):
    assert load(data).result.delimiter == delimiter


def test_the_engine_reaches_nothing_but_its_scratch_and_the_files_it_was_given(tmp_path):
    import duckdb

    (tmp_path / "scratch").mkdir()
    (tmp_path / "secret.csv").write_text("x\n1\n")
    with engine.opened(tmp_path / "scratch", [tmp_path / "given"]) as opened:
        for forbidden in (
            f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
            f"SELECT * FROM read_text('{tmp_path}/scratch/../secret.csv')",
            "SELECT * FROM read_text('/etc/passwd')",
            f"COPY (SELECT 1) TO '{tmp_path}/elsewhere.csv'",
            f"ATTACH '{tmp_path}/other.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET memory_limit = '8GB'",
        ):
            with pytest.raises(duckdb.Error):
                opened.rows(forbidden)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch", "secret.csv"]
