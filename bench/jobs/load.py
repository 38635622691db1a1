"""Load on an HTTP route: `python -m bench.jobs.load CONNECTIONS SECONDS < request`. Prints one JSON object.

The request is a JSON object with `url`, `headers` and `body`. Each connection sends it again as soon as it is
answered. It speaks just as much HTTP/1.1 as uvicorn's answers need, because it shares two cores with the server.
"""

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.jobs.meters import percentile

WARM_SECONDS = 1.0


class Caller(asyncio.Protocol):
    """One connection that asks until `until` (monotonic)."""

    def __init__(self, request: bytes, since: float, until: float, done: asyncio.Future[None]) -> None:
        self._request, self._since, self._until, self._done = request, since, until, done
        self._answer = b""
        self._sent_at = 0.0
        self.seconds: list[float] = []
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self._answered(head)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _ask(self) -> None:
        self._answer, self._sent_at = b"", time.monotonic()
        self._transport.write(self._request)

    def _answered(self, head: bytes) -> None:
        now = time.monotonic()
        if self._sent_at >= self._since:
            self.seconds.append(now - self._sent_at)
            self.refused += not head.startswith(b"HTTP/1.1 202")
        if now < self._until:
            self._ask()
        else:
            self._transport.close()


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def request_bytes(url: str, headers: dict[str, str], body: str) -> bytes:
    parts = urlsplit(url)
    sent = {"host": parts.netloc, "content-length": str(len(body.encode())), **headers}
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", body]
    return "\r\n".join(lines).encode()


async def call(wanted: dict[str, Any], connections: int, seconds: float) -> dict[str, float]:
    """Requests that began after the first WARM_SECONDS count."""
    loop, parts = asyncio.get_running_loop(), urlsplit(wanted["url"])
    request = request_bytes(wanted["url"], wanted["headers"], wanted["body"])
    since = time.monotonic() + WARM_SECONDS
    callers: list[Caller] = []
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        ends.append(loop.create_future())
        callers.append(Caller(request, since, since + seconds, ends[-1]))
        await loop.create_connection(lambda: callers[-1], parts.hostname, parts.port)
    await asyncio.wait(ends, timeout=WARM_SECONDS + seconds + 30)
    took = [1e3 * each for caller in callers for each in caller.seconds]
    refused = sum(caller.refused for caller in callers)
    return {
        "per_s": (len(took) - refused) / (time.monotonic() - since),
        "p50_ms": percentile(took, 50),
        "p99_ms": percentile(took, 99),
        "refused": refused + sum(not end.done() for end in ends),
    }


if __name__ == "__main__":
    connections, seconds = int(sys.argv[1]), float(sys.argv[2])
    print(json.dumps(uvloop.run(call(json.load(sys.stdin), connections, seconds))))
