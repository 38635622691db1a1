"""What a message says: Jinja2 templates in a sandbox, made for the day when users write their own.

Each event type has `<type>.subject.j2`, `<type>.text.j2` and `<type>.html.j2`; `default.*` speaks for the
rest. Values come from events, so from users' files: everything is escaped in HTML, and names are brought
onto one line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.notifications import domain

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

DIRECTORY = Path(__file__).resolve().parent.parent / "templates"
DEFAULT = "default"
PARTS = ("subject", "text", "html")


@dataclass(frozen=True, slots=True)
class Content:
    subject: str  # one line
    text: str
    html: str


def render(event_type: str, context: Mapping[str, Any]) -> Content:
    """The words for an event.

    `context` may hold `event` (a CloudEvent as a mapping, with `data`), `rule` and `channel` (each with a
    `name`), `links` (`run`: a URL) and `files` (`filename`, `bytes`, `attached`, `url`); what is absent is
    left out. Raises jinja2.TemplateError when the template itself is at fault.
    """
    base = event_type if is_known(event_type) else DEFAULT
    values = {"files": [], **context, "data": context.get("event", {}).get("data", {})}
    environment = _environment()
    subject, text, html = (environment.get_template(f"{base}.{part}.j2").render(values) for part in PARTS)
    return Content(domain.one_line(subject, 200), text.strip() + "\n", html)


def is_known(event_type: str) -> bool:
    """Whether an event type has templates of its own. The type is compared with names, never used as one."""
    return event_type in _known()


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    suffix = ".subject.j2"
    names = {path.name.removesuffix(suffix) for path in DIRECTORY.glob(f"*{suffix}")}
    return frozenset(names - {DEFAULT})


@lru_cache(maxsize=1)
def _environment() -> "SandboxedEnvironment":
    from jinja2 import ChainableUndefined, FileSystemLoader
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(DIRECTORY),
        autoescape=lambda name: name is None or name.endswith(".html.j2"),
        undefined=ChainableUndefined,  # an event may lack what a later version of it has
        trim_blocks=True,
    )
    environment.filters |= {"line": _line, "number": _number, "figure": _figure, "size": _size, "moment": _moment}
    return environment


def _line(value: object) -> str:
    return domain.one_line(str(value), 200)


def _number(value: object) -> str:
    """1234567 as 1,234,567; two digits after the point, four significant ones below 1; else as a line."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _line(value)
    if isinstance(value, int) or not isfinite(value):
        return f"{value:,}"
    return f"{value:,.2f}".removesuffix(".00") if abs(value) >= 1 else f"{value:.4g}"


def _figure(value: object) -> str:
    return "–" if value is None else _number(value)


def _size(value: object) -> str:
    """Bytes for people, in powers of ten as file managers show them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def _moment(value: object) -> str:
    """An RFC 3339 time, in UTC, to the minute."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return _line(value)
    return f"{moment.astimezone(UTC):%-d %B %Y, %H:%M} UTC"
