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
WARM_ANSWERS = 3
PATIENCE_SECONDS = 60.0


class Clock:
    """When requests count: from WARM_SECONDS on and not before each connection had some answers, for `seconds`.

    A server's threads make their clients when they are first asked, which may take them seconds.
    """

    def __init__(self, connections: int, seconds: float) -> None:
        self._seconds = seconds
        self._warm_answers = WARM_ANSWERS * connections
        self._warm_at = time.monotonic() + WARM_SECONDS
        self.since = float("inf")
        self.until = float("inf")

    def tick(self, now: float) -> None:
        self._warm_answers -= 1
        if self.since == float("inf") and self._warm_answers <= 0 and now >= self._warm_at:
            self.since, self.until = now, now + self._seconds


class Caller(asyncio.Protocol):
    """One connection, that asks as long as the clock says."""

    def __init__(self, request: bytes, clock: Clock, done: asyncio.Future[None]) -> None:
        self._request, self._clock, self.done = request, clock, done
        self._answer = b""
        self._sent_at = 0.0
        self.seconds: list[float] = []
        self.refused = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self._answered(head)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _ask(self) -> None:
        self._answer, self._sent_at = b"", time.monotonic()
        self._transport.write(self._request)

    def _answered(self, head: bytes) -> None:
        now = time.monotonic()
        if self._sent_at >= self._clock.since:
            self.seconds.append(now - self._sent_at)
            self.refused += not head.startswith(b"HTTP/1.1 202")
        self._clock.tick(now)
        if now < self._clock.until:
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
    """Answered requests a second and how long they took. Raises TimeoutError when the answers do not end."""
    loop, parts = asyncio.get_running_loop(), urlsplit(wanted["url"])
    request, clock = request_bytes(wanted["url"], wanted["headers"], wanted["body"]), Clock(connections, seconds)
    callers = [Caller(request, clock, loop.create_future()) for _ in range(connections)]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, parts.hostname, parts.port)  # type: ignore[misc]
    async with asyncio.timeout(PATIENCE_SECONDS + seconds):
        await asyncio.gather(*(caller.done for caller in callers))
    took = [1e3 * each for caller in callers for each in caller.seconds]
    refused = sum(caller.refused for caller in callers)
    return {
        "per_s": (len(took) - refused) / (time.monotonic() - clock.since),
        "p50_ms": percentile(took, 50),
        "p99_ms": percentile(took, 99),
        "refused": refused,
    }


if __name__ == "__main__":
    connections, seconds = int(sys.argv[1]), float(sys.argv[2])
    print(json.dumps(uvloop.run(call(json.load(sys.stdin), connections, seconds))))
