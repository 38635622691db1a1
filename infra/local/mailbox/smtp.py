"""The SMTP side: takes every message for every recipient, as long as it fits."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from infra.local.mailbox.store import Messages

MAX_BYTES = 50 * 1024 * 1024  # of a message, offered as SIZE (RFC 1870)


class Handler:
    """aiosmtpd's hooks."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        recipients = [str(recipient) for recipient in envelope.rcpt_tos]
        try:
            # Answered only when the file is on disk: 250 means kept.
            entry = await asyncio.to_thread(self._messages.add, envelope.mail_from or "", recipients, raw)
        except OSError as error:
            return f"452 4.3.1 not kept: {error.strerror}"
        return f"250 2.0.0 kept as {entry}"


def protocol(messages: Messages) -> Callable[[], asyncio.Protocol]:
    """Makes the protocol of one connection."""

    def make() -> Any:
        return SMTP(
            Handler(messages),
            hostname="mailbox",
            ident="mailbox",
            data_size_limit=MAX_BYTES,
            enable_SMTPUTF8=True,
            timeout=60,
        )

    return make
