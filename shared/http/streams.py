"""Event streams (server-sent events, WHATWG HTML 9.2): how many a process holds open, and when each ends."""

import asyncio
import json
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

from anyio import CancelScope
from fastapi import Header, Query
from fastapi.responses import StreamingResponse

from shared.errors import Unavailable

STREAM_SECONDS = 300.0
"""A stream ends after so long, as a token does: a key that was revoked reads no further. Readers come back."""
HEARTBEAT_SECONDS = 15.0
"""A stream with nothing to say sends a comment so often: who is behind it sees that it lives, we that they do."""
MOST_STREAMS, MOST_OF_A_WORKSPACE = 200, 50
"""About so many are open at a time in one process, and of one workspace."""
HEARTBEAT = b":\n\n"
LAST = "end"
"""The id of the event behind which nothing comes. A reader that comes back with it is told to stay away (204)."""
HEARD_OUT: dict[int | str, dict[str, Any]] = {204: {"description": "All was heard: do not come back."}}

StreamSeconds = Annotated[
    float, Query(gt=0, le=STREAM_SECONDS, allow_inf_nan=False, description="End the stream after so long.")
]
LastEventId = Annotated[str | None, Header(max_length=100, description="What a reader that comes back heard last.")]


class EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        # No cache and no proxy may keep what is meant to be seen at once.
        super().__init__(pieces, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._pieces = pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # at once, also when the reader left while a piece was on its way
            with CancelScope(shield=True):
                await self._pieces.aclose()


def event(name: str, data: str, id: str | None = None) -> bytes:
    """One event; `data` is a single line."""
    head = f"event: {name}\n" if id is None else f"event: {name}\nid: {id}\n"
    return f"{head}data: {data}\n\n".encode()


def end(state: str) -> bytes:
    return event("end", json.dumps({"state": state}), LAST)


class Streams:
    """The open streams of one process. For its event loop alone."""

    def __init__(self) -> None:
        self._open: Counter[UUID] = Counter()
        self._ends: set[asyncio.Future[None]] = set()
        self._closed = False

    def check_room(self, workspace: UUID) -> None:
        """Raises Unavailable."""
        if self._closed:
            raise Unavailable("The service is being stopped.")
        if self._open[workspace] >= MOST_OF_A_WORKSPACE or self._open.total() >= MOST_STREAMS:
            raise Unavailable("Too many event streams are open.", retry_after=10)

    async def bounded(
        self, source: AsyncGenerator[bytes, None], workspace: UUID, seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """What `source` says until it ends, `seconds` are over, the reader leaves, or the process is told to stop."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, over)
        self._open[workspace] += 1
        self._ends.add(over)
        try:
            while (piece := await _next(source, over)) is not None:
                yield piece
        finally:
            timer.cancel()
            self._ends.discard(over)
            self._open[workspace] -= 1
            with CancelScope(shield=True):
                await source.aclose()

    def close(self) -> None:
        """End all streams; there will be no others."""
        self._closed = True
        for over in self._ends:
            _resolve(over)

    @contextmanager
    def closing_on_signal(self) -> Iterator[None]:
        """A server that is told to stop waits for its open answers before it says so to the application: streams have
        to hear the signal themselves."""
        if threading.current_thread() is not threading.main_thread():
            yield  # a test's server, which gets no signals
            return
        loop = asyncio.get_running_loop()
        servers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def heard(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.close)
            handler = servers[signal.Signals(number)]
            assert callable(handler)
            handler(number, frame)

        changed = [number for number, handler in servers.items() if callable(handler)]
        for number in changed:
            signal.signal(number, heard)
        try:
            yield
        finally:
            for number in changed:
                signal.signal(number, servers[number])


async def _next(source: AsyncGenerator[bytes, None], over: asyncio.Future[None]) -> bytes | None:
    """The next piece; None when there is none, or `over` came first."""
    piece = asyncio.ensure_future(_take(source))
    try:
        await asyncio.wait((piece, over), return_when=asyncio.FIRST_COMPLETED)
        return piece.result() if piece.done() else None
    finally:
        if not piece.done():
            piece.cancel()
            with CancelScope(shield=True):
                await asyncio.wait((piece,))


async def _take(source: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(source, None)


def _resolve(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
