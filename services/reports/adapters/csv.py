"""The table as CSV by RFC 4180: UTF-8 without a mark, comma, CRLF, quotes where needed, values unformatted.

Formula injection: a spreadsheet runs a text cell that begins with = + - @ (also their full-width forms), a tab
or a line break. Such a text is written with an apostrophe in front, the spreadsheets' own sign for "this is
text". Numbers, also negative ones, and texts that are plain numbers stay as they are.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path

from services.reports.domain.document import Heading, Row
from services.reports.domain.values import Value

_STARTS_FORMULA = re.compile("\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def write_csv(headings: Sequence[Heading], rows: Iterable[Row], path: Path) -> None:
    """The rows under their headings, as a file."""
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([defused(heading.text) for heading in headings])
        writer.writerows([cell(value) for value in row] for row in rows)


def cell(value: Value) -> str:
    """The value as a CSV cell: ISO 8601 dates and times (UTC), `true` and `false`, nothing for a missing value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return defused(value)
    return str(value)


def defused(text: str) -> str:
    """The text so that no spreadsheet runs it."""
    if _STARTS_FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text):
        return "'" + text
    return text.replace("\x00", "\ufffd")
