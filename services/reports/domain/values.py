"""How a value of the data reads in a report. English digits and ISO 8601 dates, the same on every machine."""

import math
import re
from collections.abc import Iterable
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from services.reports.domain.definition import Bucket, NumberFormat

Value = int | float | Decimal | bool | str | date | datetime | None
"""What a query answers with. Timestamps are in UTC."""

MISSING = "–"
LONGEST_TEXT = 200
"""Characters of a text that a page or a document shows of one cell."""

# C0 and C1 controls, lone surrogates and non-characters break XML; bidirectional overrides (Unicode
# UAX #9) can make a cell read as what it is not.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SCALES = ((1e15, "e15"), (1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"))


def printable(text: str) -> str:
    """The text on one line without characters that do not print, and at most 200 characters of it."""
    text = _OVERRIDES.sub("", _UNPRINTABLE.sub("\ufffd", text[: LONGEST_TEXT * 4]))
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def rounded(value: Value) -> Value:
    """The value with a float kept to 12 significant digits.

    The order in which threads add floats up differs from run to run; past the 12th digit so would the report.
    """
    return float(f"{value:.12g}") if isinstance(value, float) else value


def common_style(values: Iterable[Value]) -> NumberFormat | None:
    """How the numbers of one column read when its definition says nothing: with two places as soon as one of
    them has any, so that they line up."""
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    mixed = any(not value.is_integer() for value in floats) and any(abs(value) >= 1 for value in floats)
    return NumberFormat.DECIMAL if mixed and all(abs(value) < 1e15 for value in floats) else None


def text_of(value: Value, style: NumberFormat | None = None, bucket: Bucket | None = None) -> str:
    """The value as printed: `1,234.50`, `2026-11-22`, `yes`, `–` for none."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, date):
        return _period(value, bucket) if bucket else _moment(value)
    return _number(value, style)


def group_text(value: Value, bucket: Bucket | None = None) -> str:
    """The value as the name of a group."""
    return "(none)" if value is None else text_of(value, bucket=bucket) or "(blank)"


def _moment(value: date) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    whole = value.replace(tzinfo=None).isoformat(" ", "seconds")
    return whole.removesuffix(" 00:00:00")


def _period(value: date, bucket: Bucket) -> str:
    match bucket:
        case Bucket.DAY:
            return f"{value:%Y-%m-%d}"
        case Bucket.WEEK:
            return f"{value:%G-W%V}"
        case Bucket.MONTH:
            return f"{value:%Y-%m}"
        case Bucket.QUARTER:
            return f"{value.year}-Q{(value.month + 2) // 3}"
        case Bucket.YEAR:
            return str(value.year)


def _number(value: int | float | Decimal, style: NumberFormat | None) -> str:
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    match style:
        case NumberFormat.INTEGER:
            return _fixed(value, 0)
        case NumberFormat.DECIMAL:
            return _fixed(value, 2)
        case NumberFormat.PERCENT:
            return _fixed(Decimal(str(value)) * 100, 1) + " %"
        case NumberFormat.COMPACT:
            return _compact(value)
        case None:
            return _natural(value)


def _natural(value: int | float | Decimal) -> str:
    """Whole numbers whole; decimals as the column has them; floats with two places, or four digits below 1."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return _fixed(value, min(-exponent, 6) if isinstance(exponent, int) and exponent < 0 else 0)
    if value.is_integer() and abs(value) < 1e15:
        return _fixed(value, 0)
    if abs(value) >= 1e15 or abs(value) < 1e-4:
        return f"{value:.4g}".replace("-", "−")
    return _fixed(value, 2) if abs(value) >= 1 else f"{value:.4g}".replace("-", "−")


def _fixed(value: int | float | Decimal, places: int) -> str:
    """Rounded half away from zero, as people do, not half to even."""
    try:
        exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    except InvalidOperation:
        return f"{value:.6g}".replace("-", "−")
    return f"{exact + 0:,}".replace("-", "−")


def _compact(value: int | float | Decimal) -> str:
    size = abs(float(value))
    for scale, suffix in _SCALES:
        if size >= scale:
            shown = float(value) / scale
            return (f"{shown:.3g}" if abs(shown) < 999.5 else f"{shown:.0f}").replace("-", "−") + suffix
    return _natural(value if isinstance(value, int) else float(f"{value:.3g}"))
