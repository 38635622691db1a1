"""Reading mail, which is hostile: whatever is broken in it, something is shown and nothing is raised."""

import email
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage, Message
from email.policy import default
from functools import lru_cache
from typing import TypeVar, cast

from infra.local.mailbox.store import Messages, received_at

T = TypeVar("T")
MAX_SHOWN = 2_000_000  # characters of a body
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


@dataclass(frozen=True)
class Attachment:
    filename: str
    media_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Mail:
    """A message as people see it. Its text is not escaped."""

    id: str
    sender: str
    recipients: list[str]
    """The envelope's: who it was delivered to, whatever the header says."""
    to: str
    subject: str
    message_id: str
    received_at: str
    headers: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[Attachment]


class Reader:
    """Parsed messages, of which the latest used are kept in memory: a message never changes."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self.get = lru_cache(maxsize=256)(self._get)

    def newest(self, limit: int) -> list[Mail]:
        return [self.get(entry) for entry in self._messages.ids()[:limit]]

    def _get(self, entry: str) -> Mail:
        """Raises NotFound."""
        return parse(entry, self._messages.read(entry))


def parse(entry: str, raw: bytes) -> Mail:
    message = _try(lambda: email.message_from_bytes(raw, policy=default), EmailMessage())
    parts = _parts(message)
    text: str | None = None
    html: str | None = None
    attachments: list[Attachment] = []
    for part in parts:
        kind = _try(part.get_content_type, "application/octet-stream")
        is_file = _try(part.get_filename, None) or _try(part.get_content_disposition, None) == "attachment"
        if kind == "text/plain" and text is None and not is_file:
            text = _text(part)
        elif kind == "text/html" and html is None and not is_file:
            html = _text(part)
        else:
            attachments.append(_attachment(part, kind, len(attachments) + 1))
    if not parts:
        text = raw.decode("utf-8", "replace")[:MAX_SHOWN]
    return Mail(
        id=entry,
        sender=_header(message, "From"),
        recipients=_try(lambda: [str(value) for value in message.get_all("Delivered-To", [])], []),
        to=_header(message, "To"),
        subject=_header(message, "Subject"),
        message_id=_header(message, "Message-ID"),
        received_at=received_at(entry).isoformat(),
        headers=_try(lambda: [(name, _line(value)) for name, value in message.raw_items()], []),
        text=text,
        html=html,
        attachments=attachments,
    )


def _try(read: Callable[[], T], otherwise: T) -> T:
    """The email package raises all kinds of errors on malformed mail (RecursionError among them)."""
    try:
        return read()
    except Exception:
        return otherwise


def _parts(message: Message) -> list[Message]:
    try:
        return list(_leaves(message))
    except Exception:
        return []


def _leaves(message: Message) -> Iterator[Message]:
    """The parts that have content; a forwarded message is one part."""
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        for part in cast(list[Message], message.get_payload()):
            yield from _leaves(part)
    else:
        yield message


def _header(message: Message, name: str) -> str:
    return _try(lambda: _line(message.get(name, "")), "")


def _line(value: object) -> str:
    """On one line, encodable; other control characters are the page's and JSON's to escape."""
    return " ".join(str(value).split()).encode("utf-8", "replace").decode()


def _text(part: Message) -> str:
    def decoded() -> str:
        return str(cast(EmailMessage, part).get_content())

    def as_utf8() -> str:
        return _content(part).decode("utf-8", "replace")

    text = _try(decoded, None) or _try(as_utf8, "")
    return text[:MAX_SHOWN].encode("utf-8", "replace").decode()


def _content(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else part.as_bytes()


def _attachment(part: Message, kind: str, number: int) -> Attachment:
    content = _try(lambda: _content(part), b"")
    name = _line(_try(part.get_filename, None) or "").replace("/", "_").replace("\\", "_")[:200]
    media_type = kind if _MEDIA_TYPE.fullmatch(kind) else "application/octet-stream"
    return Attachment(name or f"part-{number}", media_type, content)
