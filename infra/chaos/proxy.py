"""A TCP proxy of ours before a server: passes on, refuses, swallows or delays, as it is told."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from infra.local import ports

T = TypeVar("T")
PORTION_BYTES: Final = 65536
PATIENCE_SECONDS: Final = 10.0


class Proxy:
    """Listens on a free loopback port from `start` to `close`. Any thread may call."""

    def __init__(self, upstream: int) -> None:
        """`upstream`: the server's own port."""
        self.port = 0
        self._upstream = upstream
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._thread.start()
        self._do(self._listen())
        self._loop.call_soon_threadsafe(self._open.set)

    def pass_on(self) -> None:
        """As if it were not there; what was swallowed goes on its way now."""
        self._delay = 0.0
        self._do(self._listen())
        self._loop.call_soon_threadsafe(self._open.set)

    def refuse(self) -> None:
        """No connection can be made, and those that there were are broken off."""
        self._do(self._break_off())

    def swallow(self) -> None:
        """Connections are accepted, and nothing on them is ever answered: a black hole."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def delay(self, seconds: float) -> None:
        """Everything takes so much longer, each way."""
        self._delay = seconds

    def close(self) -> None:
        self._do(self._break_off())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_SECONDS)

    # From here on: the proxy's thread.

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, ports.HOST, self.port, reuse_address=True)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _break_off(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            upstream, onward = await asyncio.open_connection(ports.HOST, self._upstream)
            try:
                await asyncio.gather(self._pump(reader, onward), self._pump(upstream, writer))
            finally:
                onward.transport.abort()
        except (OSError, asyncio.CancelledError):
            return  # broken off, by either side or by us
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while portion := await reader.read(PORTION_BYTES):
            await self._open.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            writer.write(portion)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()
