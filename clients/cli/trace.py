"""A trace drawn as a waterfall: one line a span, its bar where and as long as it was."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]
COLOURS: Final = {"api": "cyan", "ingest": "green", "reports": "magenta", "notifications": "yellow"}
_FAILED: Final = "bold red"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_NARROWEST_BAR: Final = 12


@dataclass(frozen=True)
class Line:
    """A span in its place; times in seconds from the trace's first start."""

    service: str
    name: str
    depth: int
    start: float
    end: float
    failed: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


def arrange(spans: list[Json]) -> list[Line]:
    """The spans as a tree read from the top: children below their parent, by start.

    A span whose parent is not there (not arrived, or outside Millrace) stands at the top.
    """
    known = {span["span_id"] for span in spans}
    below: dict[str | None, list[Json]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: _time(span["started_at"])):
        parent = span["parent_id"] if span["parent_id"] in known else None
        below[parent].append(span)
    zero = min(_time(span["started_at"]) for span in spans) if spans else 0.0

    def walk(parent: str | None, depth: int) -> Iterator[Line]:
        for span in below.pop(parent, []):
            yield Line(
                span["service"],
                span["name"],
                depth,
                _time(span["started_at"]) - zero,
                _time(span["finished_at"]) - zero,
                span["status"].lower() == "error",
            )
            yield from walk(span["span_id"], depth + 1)

    lines = list(walk(None, 0))
    while below:
        # Spans that name each other as parents: shown anyway.
        lines += walk(next(iter(below)), 0)
    return lines


class Waterfall:
    """Draws itself as wide as the terminal."""

    def __init__(self, trace_id: str, spans: list[Json]) -> None:
        self._trace_id = trace_id
        self._lines = arrange(spans)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        services = list(dict.fromkeys(line.service for line in self._lines))
        total = max((line.end for line in self._lines), default=0.0)
        yield Text.assemble(
            ("trace ", "bold"),
            self._trace_id,
            f"   {len(self._lines)} spans, {len(services)} services, {duration(total)}",
        )
        yield Text("   ").join(Text(f"■ {service}", COLOURS.get(service, "white")) for service in services)
        yield self._table(total, options)

    def _table(self, total: float, options: ConsoleOptions) -> Table:
        names = [_name(line) for line in self._lines]
        widest = min(max((name.cell_len for name in names), default=0), options.max_width // 2)
        bar = max(options.max_width - widest - 2 - 10, _NARROWEST_BAR)
        table = Table.grid(padding=(0, 1))
        table.add_column(width=widest, no_wrap=True, overflow="ellipsis")
        table.add_column(width=bar, no_wrap=True, overflow="crop")
        table.add_column(width=8, justify="right", no_wrap=True)
        for line, name in zip(self._lines, names, strict=True):
            table.add_row(name, _bar(line, total, bar), Text(duration(line.seconds), "dim"))
        return table


def duration(seconds: float) -> str:
    """Short and readable: 850 µs, 12 ms, 1.24 s, 3 m 05 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"


def _name(line: Line) -> Text:
    style = _FAILED if line.failed else COLOURS.get(line.service, "white")
    return Text(" " * line.depth + ("✗ " if line.failed else "") + line.name, style)


def _bar(line: Line, total: float, width: int) -> Text:
    """A bar from start to end, exact to an eighth of a cell at its right end; never invisible."""
    scale = width / total if total else 0.0
    start = min(int(line.start * scale), width - 1)
    eighths = max(round((line.end * scale - start) * 8), 1)
    full, rest = divmod(min(eighths, (width - start) * 8), 8)
    bar = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text(" " * start + bar, _FAILED if line.failed else COLOURS.get(line.service, "white"))


def _time(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
