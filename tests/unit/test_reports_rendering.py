"""Reports: the page, the PDF and the CSV, read back as a browser, a PDF reader and a spreadsheet would."""

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pypdf import PdfReader

from services.reports.adapters.chart import draw, specification
from services.reports.adapters.csv import defused
from services.reports.adapters.pdf import MOST_CELLS, soft
from services.reports.adapters.rendering import Rendered, render
from services.reports.domain.definition import ChartKind, Definition
from services.reports.domain.document import Context, Drawing, Point
from services.reports.errors import ColumnUnknown, RenderFailed

CONTEXT = Context("orders", 3, 900, 100, datetime(2026, 11, 22, 16, 40, tzinfo=UTC), "0192-run")
ORDERS = """SELECT ['North', 'South', 'Café & Söhne'][1 + i % 3] AS region,
    DATE '2024-01-01' + (i % 400)::INT AS ordered_on, 10 * (i % 3 + 1) + 0.25 AS amount FROM range(900) t(i)"""
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '#import "@preview/cetz:0.3": *',
    '#read("/etc/passwd") $x^2$ \\ *b* _i_ `r` @ref <label> // ~ = -',
    "=1+1",
    "שלום עולם",
    "مرحبا بالعالم",
    "日本語",
    "😀👩\u200d👩\u200d👧🎉" * 12,
    "w" * 500,
    "\u202egnp.exe",
    "\x01\x02\x1b[31m",
    "tab\there\nline",
    "\ufffe\uffff",
    '</svg><image href="http://127.0.0.1/"/>',
    '"}],"mark":{"type":"image","url":"http://127.0.0.1/"}}',
    "{{ 7 * 7 }}{% raw %}",
    "&amp;&#x3c;",
]


def write(path: Path, query: str, *parameters: Any) -> Path:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE made AS {query}", parameters or None)
        connection.execute(f"COPY made TO '{path}' (FORMAT parquet)")
    return path


def made(tmp_path: Path, query: str, context: Context = CONTEXT, **fields: Any) -> Rendered:
    parquet = write(tmp_path / "data.parquet", query)
    definition = Definition.model_validate({"name": "summary", "title": "Orders", "dataset": "*", **fields})
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return render(parquet, definition, context, out)


class Page(HTMLParser):
    """The texts of a page, its tags, and every attribute that could load or run something."""

    def __init__(self, rendered: Rendered) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.risky: list[tuple[str, str | None]] = []
        self.feed(next(file.path for file in rendered.files if file.format == "html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.risky += [(name, value) for name, value in attrs if name in ("src", "href", "action") or name[:2] == "on"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def pdf(rendered: Rendered) -> PdfReader:
    return PdfReader(next(file.path for file in rendered.files if file.format == "pdf"))


def pdf_text(rendered: Rendered) -> str:
    return "\n".join(page.extract_text() for page in pdf(rendered).pages).replace("\u200b", "")


def rows(rendered: Rendered) -> list[list[str]]:
    content = next(file.path for file in rendered.files if file.format == "csv").read_bytes()
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


def hostile_orders(tmp_path: Path) -> Rendered:
    """A report in which everything that a user can name is hostile: title, dataset, columns, labels, values."""
    parquet = tmp_path / "data.parquet"
    columns = ", ".join('"' + name.replace('"', '""') + '" VARCHAR' for name in HOSTILE)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE made ({columns}, amount DOUBLE)")
        for number, value in enumerate(HOSTILE):
            values = HOSTILE[number:] + HOSTILE[:number]
            connection.execute(f"INSERT INTO made VALUES ({'?, ' * len(values)} ?)", [*values, 1.5 * len(value)])
        connection.execute(f"COPY made TO '{parquet}' (FORMAT parquet)")
    labels = [f"{name[:50]} {number}" for number, name in enumerate(HOSTILE) if name.isprintable()][:11]
    measures: list[dict[str, Any]] = [{"label": "=SUM(A1)", "function": "sum", "column": "amount"}]
    measures += [
        {"label": label, "function": "max", "column": column} for label, column in zip(labels, HOSTILE, strict=False)
    ]
    definition = Definition.model_validate(
        {
            "name": "summary",
            "title": '#import "x" <b>bold</b> $x$ שלום 😀 ' + "w" * 100,
            "dataset": "*",
            "figures": measures[1:],
            "table": {"group_by": HOSTILE[:3], "measures": measures},
            "chart": {"kind": "bar", "x": HOSTILE[8], "y": "=SUM(A1)"},
        }
    )
    out = tmp_path / "out"
    out.mkdir()
    return render(parquet, definition, replace(CONTEXT, dataset=HOSTILE[1], run=HOSTILE[0]), out)


# The three formats


def test_the_files_are_described(tmp_path: Path) -> None:
    rendered = made(tmp_path, ORDERS)
    assert [(file.filename, file.media_type) for file in rendered.files] == [
        ("summary-orders-v3.html", "text/html; charset=utf-8"),
        ("summary-orders-v3.pdf", "application/pdf"),
        ("summary-orders-v3.csv", "text/csv; charset=utf-8; header=present"),
    ]
    assert all(file.bytes == file.path.stat().st_size > 0 for file in rendered.files)
    assert [(figure.label, figure.text) for figure in rendered.figures][:3] == [
        ("Rows", "900"),
        ("Total amount", "18,225.00"),
        ("Average amount", "20.25"),
    ]


def test_only_the_formats_asked_for_are_made(tmp_path: Path) -> None:
    rendered = made(tmp_path, ORDERS, formats=["csv"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.csv"] == [rendered.files[0].path.name]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = Page(made(tmp_path, ORDERS))
    assert {"h1", "svg", "table", "title", "dl"} <= page.tags
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "a", "base"}
    assert page.risky == []
    assert "Total amount by month" in page.text
    assert "100 rejected rows (10.0% of the input) are not in these figures." in page.text
    assert "Café & Söhne 300" in page.text


def test_the_pdf_holds_title_figures_chart_table_and_page_numbers(tmp_path: Path) -> None:
    reader = pdf(made(tmp_path, ORDERS, title="Orders of the year"))
    text = reader.pages[0].extract_text()
    assert reader.metadata is not None
    assert reader.metadata.title == "Orders of the year"
    for part in ("Orders of the year", "18,225.00", "Total amount by month", "Café & Söhne", "Jan 2024", "1 / 1"):
        assert part in text


def test_the_csv_holds_the_values_unformatted(tmp_path: Path) -> None:
    rendered = made(tmp_path, ORDERS)
    assert rows(rendered) == [
        ["region", "Rows", "Total amount", "Average amount"],
        ["Café & Söhne", "300", "9075.00", "30.25"],
        ["South", "300", "6075.00", "20.25"],
        ["North", "300", "3075.00", "10.25"],
    ]
    content = rendered.files[2].path.read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 4
    assert not content.startswith(b"\xef\xbb\xbf")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [file.path.read_bytes() for file in made(tmp_path, ORDERS).files]
    assert first == [file.path.read_bytes() for file in made(tmp_path, ORDERS).files]


# Hostile input


def test_hostile_names_and_values_are_text_on_the_page(tmp_path: Path) -> None:
    page = Page(hostile_orders(tmp_path))
    assert not page.tags & {"script", "img", "b", "image"}
    assert page.risky == []
    for text in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}{% raw %}", "&amp;&#x3c;"):
        assert text in page.text
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text


def test_hostile_names_and_values_are_text_in_the_pdf(tmp_path: Path) -> None:
    text = pdf_text(hostile_orders(tmp_path))
    for part in ('#import "x" <b>bold</b> $x$', "alert(1)", "=SUM(A1)", "$x^2$", "*b*", "@ref"):
        assert part in text
    assert "root:" not in text


def test_hostile_values_are_harmless_in_a_spreadsheet(tmp_path: Path) -> None:
    cells = [cell for row in rows(hostile_orders(tmp_path)) for cell in row]
    assert "'=SUM(A1)" in cells
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.strip()[:1] in tuple("=+-@") and not cell.strip()[1:2].isdigit()]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\t=1+1"),
        ("  =1+1", "'  =1+1"),
        ("\r\n=1", "'\r\n=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-5", "-5"),
        ("+49.5", "+49.5"),
        ("a=b", "a=b"),
        ("", ""),
        ("nul\x00", "nul\ufffd"),
    ],
)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str, written: str) -> None:
    assert defused(text) == written


def test_the_chart_engine_reaches_no_network_and_no_file(tmp_path: Path) -> None:
    import vl_convert

    secret = tmp_path / "data.json"
    secret.write_text('[{"a": "a secret"}]')
    specification = {"mark": "text", "encoding": {"text": {"field": "a"}}}
    with pytest.raises(ValueError, match="External data url not allowed"):
        vl_convert.vegalite_to_svg({"data": {"url": "http://127.0.0.1:9/"}, **specification}, allowed_base_urls=[])
    svg = vl_convert.vegalite_to_svg({"data": {"url": secret.as_uri()}, **specification}, allowed_base_urls=[])
    assert "a secret" not in svg


def test_a_drawing_with_anything_but_shapes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    root = '<svg xmlns="http://www.w3.org/2000/svg">'
    for content in (
        "<script/>",
        "<image/>",
        '<g onclick="x"/>',
        '<g href="x"/>',
        '<path fill="url(http://x)"/>',
        "<g>",
    ):
        monkeypatch.setattr(vl_convert, "vegalite_to_svg", lambda *_, svg=f"{root}{content}</svg>", **__: svg)
        with pytest.raises(RenderFailed):
            draw(drawing(("a", 1)))


# Charts


def drawing(*points: tuple[str, float | None], kind: ChartKind = ChartKind.BAR) -> Drawing:
    made = tuple(Point(x, y, x, str(y)) for x, y in points)
    return Drawing(kind, "x", "y", None, False, made, "y by x", "summary")


@pytest.mark.parametrize("kind", ChartKind)
@pytest.mark.parametrize(
    "points",
    [
        [("a", 0)],
        [("a", -5), ("b", 5)],
        [("a", -5), ("b", -7)],
        [("a", None), ("b", 1e300)],
        [("a", 1e-9)],
        [(f"group {n}", n) for n in range(60)],
    ],
    ids=["zero", "both signs", "negative", "a gap", "tiny", "many"],
)
def test_every_chart_can_be_drawn(kind: ChartKind, points: list[Any]) -> None:
    assert draw(drawing(*points, kind=kind)).startswith("<svg")


def test_groups_that_read_the_same_are_told_apart() -> None:
    records = specification(drawing(("a" * 80, 1), ("a" * 90, 2)))["data"]["values"]
    assert [record["name"] for record in records] == ["a" * 24 + "…", "a" * 24 + "… (2)"]


def test_a_long_emoji_label_is_cut_between_characters() -> None:
    assert "…" in draw(drawing(("😀" * 50, 1)))


# Every dataset renders


@pytest.mark.parametrize(
    "query",
    [
        ORDERS + " LIMIT 0",
        "SELECT NULL::VARCHAR AS a, NULL::DOUBLE AS b, NULL::DATE AS c, NULL::BOOLEAN AS d FROM range(9)",
        "SELECT ['x', 'y'][1 + i % 2] AS kind, 'n' || i AS name FROM range(100) t(i)",
        "SELECT random() AS x FROM range(9)",
        "SELECT i % 2 = 0 AS yes, CASE WHEN i < 2 THEN 'nan'::DOUBLE WHEN i < 4 THEN 'inf' ELSE i END AS x "
        "FROM range(9) t(i)",
        "SELECT DATE '1900-01-01' + (40 * i)::INT AS d, CASE WHEN i = 5 THEN DATE 'infinity' WHEN i = 6 "
        "THEN DATE '44-01-01 (BC)' ELSE DATE '9999-12-31' END AS e FROM range(1000) t(i)",
        "SELECT [1] AS l, {'a': 1} AS s, 'x'::BLOB AS b, uuid() AS u FROM range(9)",
        "SELECT " + ", ".join(f"i % 7 AS n{n}, 'v' || (i % 5) AS t{n}" for n in range(500)) + " FROM range(50) t(i)",
        "SELECT repeat('x', 1000000) || i AS big, i AS n FROM range(20) t(i)",
    ],
    ids=["0 rows", "all NULL", "no numbers", "one float", "NaN", "odd dates", "exotic", "1,000 columns", "big cells"],
)
def test_a_bare_definition_renders_any_dataset(tmp_path: Path, query: str) -> None:
    rendered = made(tmp_path, query)
    assert rendered.figures[0].label == "Rows"
    assert "1 / " in pdf_text(rendered)
    assert len(rows(rendered)) >= 2
    assert sum(file.bytes for file in rendered.files) < 500_000


def test_an_unknown_column_ends_the_render_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ColumnUnknown):
        made(tmp_path, ORDERS, figures=[{"label": "x", "function": "sum", "column": "gone"}])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_long_table_is_whole_in_the_csv_and_cut_in_the_pdf(tmp_path: Path) -> None:
    query = "SELECT 'row ' || i AS name, " + ", ".join(f"i AS n{n}" for n in range(9)) + " FROM range(1200) t(i)"
    measures = [{"label": f"n{n}", "function": "sum", "column": f"n{n}"} for n in range(9)]
    rendered = made(tmp_path, query, table={"group_by": ["name"], "measures": measures, "limit": 1000}, chart="none")
    assert len(rows(rendered)) == 1001
    text = pdf_text(rendered)
    assert f"This document shows the first {MOST_CELLS // 10} of the table's 1,000 rows." in text
    assert "The table shows the first 1,000 groups; there are more." in text


def test_a_word_without_an_end_can_be_broken() -> None:
    assert soft("short " + "w" * 40) == "short " + "\u200b".join(["w" * 16, "w" * 16, "w" * 8])


# The document engine's process


def test_a_document_engine_that_fails_fails_the_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.typ"
    bad.write_text('#read("/etc/passwd")')
    monkeypatch.setattr("services.reports.adapters.pdf._TEMPLATE", bad)
    with pytest.raises(RenderFailed, match="The PDF cannot be set"):
        made(tmp_path, ORDERS, formats=["pdf"])


def test_a_document_engine_that_crashes_fails_the_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import os; os.abort()")
    monkeypatch.setattr("services.reports.adapters.pdf._TYPESETTER", crash)
    with pytest.raises(RenderFailed, match="status -6"):
        made(tmp_path, ORDERS, formats=["pdf"])


def test_a_document_engine_that_hangs_fails_the_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = tmp_path / "hang.py"
    hang.write_text("import threading; threading.Event().wait()")
    monkeypatch.setattr("services.reports.adapters.pdf._TYPESETTER", hang)
    monkeypatch.setattr("services.reports.adapters.pdf.SECONDS", 0.5)
    with pytest.raises(RenderFailed, match=r"within 0\.5 seconds"):
        made(tmp_path, ORDERS, formats=["pdf"])


def test_the_document_engine_is_given_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text("import os, sys; sys.stderr.write(' '.join(os.environ)); sys.exit(2)")
    monkeypatch.setattr("services.reports.adapters.pdf._TYPESETTER", spy)
    monkeypatch.setenv("MILLRACE_SERVICE_KEY", "secret")
    with pytest.raises(RenderFailed) as failure:
        made(tmp_path, ORDERS, formats=["pdf"])
    assert "MILLRACE" not in failure.value.detail


def test_the_heavy_libraries_are_loaded_by_a_render_and_not_at_start(tmp_path: Path) -> None:
    code = (
        "import sys, services.reports.adapters.rendering;"
        "print([m for m in ('duckdb', 'vl_convert', 'typst', 'jinja2', 'altair') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
