"""Where the system's mails and webhooks go: they are taken and noted, or refused in the way that is asked for."""

import asyncio
import email
import json
import re
import socket
import threading
import time
from contextlib import suppress
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal

from aiosmtpd.smtp import SMTP, Envelope, Session

from infra.chaos.record import Arrivals
from infra.local import ports

Mood = Literal["take", "busy", "reject", "hang"]
"""All but the first treat a message so when they see it first, and take it when it comes again."""

MAIL_HANG_SECONDS: Final = 70.0
HOOK_HANG_SECONDS: Final = 20.0
"""Somewhat more than the sender's own limits."""
MAIL_BYTES: Final = 50 << 20


class MailSink:
    """An SMTP server on a free loopback port."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.mood: Mood = "take"
        self.port = 0
        self._arrivals = arrivals
        self._seen: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mail sink", daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        self._thread.start()
        self.open()

    def open(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def shut(self) -> None:
        """Connections are refused until `open`."""
        asyncio.run_coroutine_threadsafe(self._unlisten(), self._loop).result(10)

    def close(self) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(self._protocol, ports.HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _protocol(self) -> Any:
        return SMTP(self, hostname="sink", ident="sink", data_size_limit=MAIL_BYTES, enable_SMTPUTF8=True, timeout=90)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        message = email.message_from_bytes(raw, policy=default)
        id, dataset = str(message["Message-ID"]), str(message["Subject"]).rpartition(" ")[2]
        mood = "take" if id in self._seen else self.mood
        self._seen.add(id)
        match mood:
            case "busy":
                return "451 4.3.0 not now"
            case "reject":
                self._arrivals.rejected.add(dataset)
                return "554 5.7.1 never"
            case "hang":
                await asyncio.sleep(MAIL_HANG_SECONDS)
                return "451 4.3.0 too late"
        self._arrivals.take(id, dataset)
        return "250 2.0.0 taken"


class HookSink:
    """A webhook receiver on a free loopback port."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.mood: Mood = "take"
        self.port = 0
        self._arrivals = arrivals
        self._seen: set[str] = set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"{ports.url(self.port)}/hook"

    def start(self) -> None:
        self.open()

    def open(self) -> None:
        if self._server is None:
            sink = self

            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    sink.answer(self)

                def log_message(self, format: str, *values: Any) -> None:
                    return

            self._server = _Server((ports.HOST, self.port), Handler)
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="hook sink", daemon=True).start()

    def shut(self) -> None:
        """Connections are refused until `open`."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    close = shut

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        id, dataset = str(request.headers.get("webhook-id")), _dataset(body)
        mood = "take" if id in self._seen else self.mood
        self._seen.add(id)
        if mood == "hang":
            time.sleep(HOOK_HANG_SECONDS)
        if mood == "reject":
            self._arrivals.rejected.add(dataset)
        if mood == "take":
            self._arrivals.take(id, dataset)
        with suppress(OSError):
            request.send_response({"take": 204, "reject": 404}.get(mood, 503))
            request.send_header("content-length", "0")
            request.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request: Any, address: Any) -> None:
        return  # a sender that went away

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().server_bind()


def _dataset(body: bytes) -> str:
    """The dataset that a CloudEvent is about; empty for what is none."""
    try:
        named = json.loads(body)["data"]["dataset"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(named) if re.fullmatch(r"[\w.-]+", str(named)) else ""
