"""Charts: a Vega-Lite specification, drawn to SVG by vl-convert without network access.

The specification is plain data of ours: field names are fixed, what a user named appears only as values and
titles, and no expression is built from it. Colours are fixed words of a small palette, so that the page's
style sheet can exchange them for its dark ones.
"""

import re
import unicodedata
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

from services.reports.domain.definition import Bucket, ChartKind
from services.reports.domain.document import Drawing, Point
from services.reports.errors import RenderFailed

INK = "#1b1f24"
MUTED = "#5b6470"
RULE = "#d9dde3"
ACCENT = "#1f5fbf"
WASH = "#e4edfa"

WIDTH = 640
"""Points, the width of the text column of an A4 page at the scale of the document."""
FONT = "Libertinus Serif"

_LABEL_COLUMNS = 24

_AXIS_FORMAT = {
    Bucket.DAY: "%d %b",
    Bucket.WEEK: "%G-W%V",
    Bucket.MONTH: "%b %Y",
    Bucket.QUARTER: "%Y Q%q",
    Bucket.YEAR: "%Y",
}
_SVG = "{http://www.w3.org/2000/svg}"
_TAGS = {"svg", "g", "path", "text", "tspan", "line", "rect", "defs", "clipPath", "title", "desc"}


def draw(drawing: Drawing) -> str:
    """The drawing as an SVG document of shapes and texts only. Raises RenderFailed."""
    import vl_convert

    try:
        svg: str = vl_convert.vegalite_to_svg(specification(drawing), allowed_base_urls=[])
    except ValueError as error:
        raise RenderFailed(f"The chart cannot be drawn: {str(error)[:300]}") from None
    return _checked(svg)


def specification(drawing: Drawing) -> dict[str, Any]:
    """The drawing in Vega-Lite 6."""
    flat = drawing.kind is ChartKind.BAR and drawing.bucket is None
    layers = _line(drawing) if drawing.kind is ChartKind.LINE else _bars(drawing) if flat else _columns(drawing)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "transparent",
        "width": WIDTH,
        "height": {"step": 24} if flat else 220,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        "data": {"values": _data(drawing.points)},
        "layer": layers,
        "config": _CONFIG,
    }


_CONFIG: dict[str, Any] = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "gridColor": RULE,
        "domainColor": RULE,
        "tickColor": RULE,
        # The engine's own shortening cuts emoji in two and then fails on the half (UTF-16); ours is `_short`.
        "labelLimit": 0,
        "titleLimit": 0,
    },
    "bar": {"color": ACCENT},
}


def _data(points: Sequence[Point]) -> list[dict[str, Any]]:
    """One record a point. Names that read the same, shortened, are told apart by a number."""
    seen: dict[str, int] = {}
    records = []
    for point in points:
        name = _short(point.x_text)
        seen[name] = seen.get(name, 0) + 1
        name += f" ({seen[name]})" if seen[name] > 1 else ""
        records.append({"x": _position(point), "name": name, "y": point.y, "text": _short(point.y_text)})
    return records


def _short(text: str) -> str:
    """The text as a label: at most 24 columns wide, where a Chinese character or an emoji takes two."""
    width = 0
    for at, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > _LABEL_COLUMNS:
            return text[:at] + "…"
    return text


def _position(point: Point) -> str | float | None:
    if isinstance(point.x, date):
        return point.x.isoformat()[:10]
    if isinstance(point.x, int | float | Decimal):
        return float(point.x)
    return point.x_text


def _bars(drawing: Drawing) -> list[dict[str, Any]]:
    """Flat bars, one a group, each with its value beside it; no value axis is needed then."""
    row: dict[str, Any] = {"field": "name", "type": "nominal", "sort": None, "title": None}
    row["axis"] = {"domain": False, "ticks": False, "labelColor": INK, "labelFontSize": 12, "labelPadding": 6}
    size = {"field": "y", "type": "quantitative", "axis": None, "scale": {"nice": False, "domain": _room(drawing)}}
    text = {"field": "text", "type": "nominal"}
    beside = {"type": "text", "baseline": "middle", "color": INK, "fontSize": 12}
    return [
        {"mark": {"type": "bar", "height": {"band": 0.68}}, "encoding": {"y": row, "x": size}},
        {
            "transform": [{"filter": "datum.y >= 0"}],
            "mark": {**beside, "align": "left", "dx": 5},
            "encoding": {"y": row, "x": size, "text": text},
        },
        {
            "transform": [{"filter": "datum.y < 0"}],
            "mark": {**beside, "align": "right", "dx": -5},
            "encoding": {"y": row, "x": size, "text": text},
        },
    ]


def _room(drawing: Drawing) -> tuple[float, float]:
    """The range of the bars with room for the values beside them, about 8 of some 440 points a character."""
    sizes = [point.y for point in drawing.points if point.y is not None]
    share = min(0.3, 8 * max(len(_short(point.y_text)) for point in drawing.points) / 440)
    low, high = min(0.0, *sizes), max(0.0, *sizes)
    sides = (low < 0) + (high > 0)
    room = (high - low) * share / (1 - sides * share)
    return (low - room * (low < 0), high + room * (high > 0)) if sides else (0.0, 1.0)


def _columns(drawing: Drawing) -> list[dict[str, Any]]:
    """Upright bars over time, oldest first."""
    x: dict[str, Any] = {"field": "name", "type": "ordinal", "sort": None, "title": None}
    x["axis"] = {"labelAngle": 0 if len(drawing.points) <= 10 else -45, "labelOverlap": True, "ticks": False}
    return [{"mark": "bar", "encoding": {"x": x, "y": _height(drawing)}}]


def _line(drawing: Drawing) -> list[dict[str, Any]]:
    x: dict[str, Any] = {"field": "x", "title": None if drawing.bucket else _short(drawing.x_label)}
    if drawing.bucket:
        x |= {"type": "temporal", "scale": {"type": "utc"}}
        x["axis"] = {"format": _AXIS_FORMAT[drawing.bucket], "grid": False, "labelOverlap": True, "tickCount": 8}
    elif drawing.is_number:
        x |= {"type": "quantitative", "scale": {"zero": False}, "axis": {"grid": False}}
    else:
        x |= {"field": "name", "type": "ordinal", "sort": None, "axis": {"labelOverlap": True, "labelAngle": -45}}
    encoding = {"x": x, "y": _height(drawing)}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "area", "color": WASH, "fillOpacity": 0.6}, "encoding": encoding},
        {"mark": {"type": "line", "color": ACCENT, "strokeWidth": 2.2}, "encoding": encoding},
    ]
    if len(drawing.points) <= 40:
        layers.append({"mark": {"type": "point", "color": ACCENT, "filled": True, "size": 30}, "encoding": encoding})
    return layers


def _height(drawing: Drawing) -> dict[str, Any]:
    most = max(abs(point.y) for point in drawing.points if point.y is not None)
    axis: dict[str, Any] = {"domain": False, "ticks": False, "tickCount": 5, "labelPadding": 6}
    if most >= 10_000:
        # d3 says G (giga) where money says B (billion).
        axis["labelExpr"] = "replace(format(datum.value, '~s'), 'G', 'B')"
    else:
        axis["format"] = ",~g" if most >= 1e-4 else "~g"
    return {"field": "y", "type": "quantitative", "title": None, "axis": axis}


def _checked(svg: str) -> str:
    """The SVG if it holds nothing but shapes and texts.

    The engine escapes what it is given; this is the second lock, for the page in which the SVG stands inline.
    """
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - written by the engine in this process, without a DTD
    except ElementTree.ParseError as error:
        raise RenderFailed(f"The chart engine wrote what is not XML: {error}") from None
    for element in root.iter():
        tag = str(element.tag).removeprefix(_SVG)
        if tag not in _TAGS:
            raise RenderFailed(f"The chart engine wrote an element {tag[:40]!r} that charts do not have.")
        for name, value in element.attrib.items():
            reference = "href" in name or name.startswith("on") or name == "style"
            if reference or re.search(r"url\((?!#)", value):
                raise RenderFailed(f"The chart engine wrote an attribute {name[:40]!r} that charts do not have.")
    return svg
