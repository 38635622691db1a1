"""The report as PDF, set by typst. The template is ours and fixed; the data reaches it as JSON and as nothing else.

Texts are set in Libertinus Serif, which ships inside the typst wheel. For characters that it does not have
(Chinese, emoji …) fonts that the machine has are used, so such a text can look different elsewhere.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.reports.adapters.chart import ACCENT, FONT, INK, MUTED, RULE, WASH
from services.reports.domain.document import Document, Heading
from services.reports.errors import RenderFailed

MOST_CELLS = 5000
"""Cells of a table that a PDF shows: setting one takes about 25 kB of memory, and nobody reads page 40."""

_LONG_WORD = re.compile(r"\S{17,}")
_TEMPLATE = Path(__file__).parent / "templates" / "report.typ"
_TYPESETTER = Path(__file__).parent / "typesetter.py"

_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
"""What an interpreter may need to start; no secret is among it."""

SECONDS = 180
"""Wall-clock seconds that a document may take; 5,000 cells take less than one."""


def write_pdf(document: Document, svg: str | None, path: Path) -> None:
    """The PDF as a file, dated by the document and identical for an identical document. Raises RenderFailed."""
    import subprocess

    with tempfile.TemporaryDirectory(dir=path.parent) as root:
        date = str(int(document.generated_at.timestamp()))
        try:
            process = subprocess.run(  # noqa: S603 - our own script and paths; the data goes in by standard input
                [sys.executable, "-I", str(_TYPESETTER), str(_TEMPLATE), str(path), root, date],
                input=json.dumps(_data(document, svg)),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RenderFailed(f"The PDF was not set within {SECONDS} seconds.") from None
    if process.returncode == 2:
        raise RenderFailed(f"The PDF cannot be set: {process.stderr.strip()[:300]}")
    if process.returncode != 0:
        raise RenderFailed(f"The PDF cannot be set: the document engine ended with status {process.returncode}.")


def _data(document: Document, svg: str | None) -> dict[str, Any]:
    drawing = document.drawing
    rows = document.rows[: MOST_CELLS // max(1, len(document.headings))]
    widths = _widths(document.headings, rows)
    wide = len(widths) > 6 or sum(widths) > 110
    cut = f"This document shows the first {len(rows):,} of the table's {len(document.rows):,} rows."
    notes = document.notes if len(rows) == len(document.rows) else (cut, *document.notes)
    return {
        "title": soft(document.title),
        "facts": [[label, soft(text)] for label, text in document.facts],
        "figures": [{"label": soft(figure.label), "text": soft(figure.text)} for figure in document.figures],
        "table_title": soft(document.table_title),
        "headings": [{"text": soft(heading.text), "number": heading.is_number} for heading in document.headings],
        "widths": widths,
        "wide": wide,
        "size": max(5.5, min(9.5, (700 if wide else 460) / (sum(widths) * 0.56))),
        "rows": [[soft(text) for text in row] for row in rows],
        "chart": svg and drawing and {"svg": svg, "title": soft(drawing.title), "alt": drawing.summary},
        "notes": [soft(note) for note in notes],
        "name": document.title[:60],
        "run": document.run,
        "font": FONT,
        "colour": {"ink": INK, "muted": MUTED, "rule": RULE, "accent": ACCENT, "wash": WASH},
    }


def _widths(headings: Sequence[Heading], rows: Sequence[Sequence[str]]) -> list[int]:
    """The shares of the table's width that its columns get, in characters. Numbers never break; texts may."""
    widths = []
    for at, heading in enumerate(headings):
        word = max((len(word) for word in heading.text.split()), default=1)
        cell = max((len(row[at]) for row in rows), default=1)
        widths.append(2 + (max(cell, min(word, 16)) if heading.is_number else min(max(word, cell, 6), 24)))
    return widths


def soft(text: str) -> str:
    """The text with a place to break (U+200B) every 16 characters of a word that has none, so that it stays in
    its cell."""
    return _LONG_WORD.sub(lambda word: "\u200b".join(re.findall(".{1,16}", word[0])), text)
