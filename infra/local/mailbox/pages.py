"""The pages, drawn by the server; Jinja2 escapes everything that arrived."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.local.mailbox.mail import Reader
from infra.local.mailbox.store import Arrival, Hooks, Messages, NotFound

if TYPE_CHECKING:
    from jinja2 import Environment

LISTED = 200


class Pages:
    def __init__(self, messages: Messages, reader: Reader, hooks: Hooks, smtp_address: str) -> None:
        self._messages, self._reader, self._hooks, self._smtp_address = messages, reader, hooks, smtp_address

    def inbox(self, entry: str | None, show: str) -> str:
        """The list and one message, the newest when none is named. Raises NotFound."""
        listed = self._reader.newest(LISTED)
        opened = self._reader.get(entry) if entry else next(iter(listed), None)
        shown = show
        if opened and not (opened.html if show == "html" else opened.text if show == "text" else True):
            shown = "text" if show == "html" else "html"
        return self._draw("inbox.html.j2", listed=listed, opened=opened, show=shown, smtp=self._smtp_address)

    def webhooks(self, name: str | None, entry: str | None) -> str:
        """The list and one request, the newest when none is named. Raises NotFound."""
        listed = sorted(self._arrivals(), key=lambda arrival: arrival.id, reverse=True)[:LISTED]
        opened = self._hooks.get(name, entry) if name and entry else next(iter(listed), None)
        return self._draw("webhooks.html.j2", listed=listed, opened=opened, names=self._hooks.names())

    def _arrivals(self) -> Iterator[Arrival]:
        for name in self._hooks.names():
            for entry in self._hooks.ids(name)[:LISTED]:
                try:
                    yield self._hooks.get(name, entry)
                except NotFound:  # made room for a newer one meanwhile
                    continue

    def _draw(self, template: str, **values: Any) -> str:
        counts = {
            "messages": len(self._messages.ids()),
            "webhooks": sum(len(self._hooks.ids(name)) for name in self._hooks.names()),
        }
        return _environment().get_template(template).render(counts=counts, now=datetime.now(UTC), **values)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": ago,
        "moment": lambda value: f"{datetime.fromisoformat(value):%-d %B %Y, %H:%M:%S} UTC",
        "size": size,
        "pretty": pretty,
        "event_type": event_type,
    }
    return environment


def ago(moment: str, now: datetime) -> str:
    """How long since, coarsely; after a day, the date."""
    passed = now - datetime.fromisoformat(moment)
    if passed < timedelta(minutes=1):
        return "just now"
    if passed < timedelta(hours=1):
        return f"{passed // timedelta(minutes=1)} min ago"
    if passed < timedelta(days=1):
        return f"{passed // timedelta(hours=1)} h ago"
    return f"{datetime.fromisoformat(moment):%-d %b %Y}"


def size(count: int) -> str:
    """Bytes for people, in powers of ten."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def pretty(body: str) -> str:
    """JSON, indented; anything else as it is."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body


def event_type(body: str) -> str:
    """The `type` of an event; empty for another body."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(event.get("type", ""))[:200] if isinstance(event, dict) else ""
