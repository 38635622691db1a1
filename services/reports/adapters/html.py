"""The report as one self-contained page: inline style and SVG, no script, nothing loaded from anywhere."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.reports.adapters import chart
from services.reports.domain.document import Document

if TYPE_CHECKING:
    from jinja2 import Template

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the page allows itself; also sent as a header, with `sandbox`, by the route that serves it."""


def write_html(document: Document, svg: str | None, path: Path) -> None:
    """The page as a file. Everything in `document` is escaped; `svg` is a checked drawing of ours."""
    from markupsafe import Markup

    page = _template().render(
        document=document,
        svg=None if svg is None else Markup(svg),  # noqa: S704 - drawn by us and checked by adapters.chart
        policy=CONTENT_SECURITY_POLICY,
        colour={"ink": chart.INK, "muted": chart.MUTED, "rule": chart.RULE, "accent": chart.ACCENT, "wash": chart.WASH},
    )
    path.write_text(page, encoding="utf-8", errors="replace")


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")
