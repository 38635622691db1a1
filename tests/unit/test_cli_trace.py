"""The waterfall."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from clients.cli.trace import Waterfall, arrange, duration


def span(
    name: str, start: float, end: float, parent: str | None = None, service: str = "api", status: str = "ok"
) -> dict[str, Any]:
    return {
        "span_id": name,
        "parent_id": parent,
        "service": service,
        "name": name,
        "kind": "internal",
        "status": status,
        "started_at": f"2026-01-01T00:00:{start:09.6f}Z",
        "finished_at": f"2026-01-01T00:00:{end:09.6f}Z",
        "attributes": {},
    }


SPANS = [
    span("send", 3.0, 4.0, "intake", "notifications"),
    span("upload", 1.0, 2.0),
    span("load", 2.0, 3.0, "upload", "ingest"),
    span("store", 1.25, 1.5, "upload"),
    span("lost parent", 3.5, 3.75, "never arrived", "reports", "ERROR"),
]


def draw(spans: list[dict[str, Any]], width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(Waterfall("abc", spans))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_children_stand_below_their_parents_by_start() -> None:
    lines = [(line.name, line.depth, line.start) for line in arrange(SPANS)]
    assert lines == [
        ("upload", 0, 0.0),
        ("store", 1, 0.25),
        ("load", 1, 1.0),
        ("send", 0, 2.0),
        ("lost parent", 0, 2.5),
    ]


def test_spans_that_are_each_others_parents_are_shown_once() -> None:
    lines = arrange([span("a", 0, 1, "b"), span("b", 0, 1, "a")])
    assert sorted(line.name for line in lines) == ["a", "b"]


def test_bars_stand_where_their_spans_were() -> None:
    head, legend, *rows = draw(SPANS)
    assert head == "trace abc   5 spans, 4 services, 3.00 s"
    assert legend == "■ api   ■ ingest   ■ notifications   ■ reports"
    by_name = {row.split("  ")[0].strip() or row.strip().split()[0]: row for row in rows}
    begins = {name: row.index("█") for name, row in by_name.items() if "█" in row}
    assert begins["upload"] < begins["send"]
    assert rows[0].rstrip().endswith("1.00 s")
    assert any("✗ lost parent" in row for row in rows)
    assert all(len(row) <= 80 for row in rows)


@pytest.mark.parametrize("width", [20, 40, 300])
def test_any_width_is_survived(width: int) -> None:
    assert len(draw(SPANS, width)) >= len(SPANS)


def test_an_empty_trace_is_survived() -> None:
    assert draw([])[0] == "trace abc   0 spans, 0 services, 0 µs"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0000004, "0 µs"), (0.00085, "850 µs"), (0.0123, "12 ms"), (1.239, "1.24 s"), (185.2, "3 m 05 s")],
)
def test_durations_are_short(seconds: float, said: str) -> None:
    assert duration(seconds) == said
