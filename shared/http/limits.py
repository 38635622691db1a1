"""A bound on request bodies that are read into memory before a route sees them."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException

BODY_BYTES = 1_000_000
"""Largest body of a request that is not a stream."""
LARGER = {"/v1/jobs:batch": 16_000_000, "/v1/batches": 16_000_000}
"""Paths whose bodies may be larger, and how large."""


class BodyLimit:
    """Refuses larger bodies (413) as they come, whether they say their size or not.

    Paths that `streams` names pass: their routes bound what they read themselves.
    """

    def __init__(self, app: Any, streams: Callable[[str], bool]) -> None:
        self.app = app
        self.streams = streams

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        bounded = scope["type"] == "http" and not self.streams(scope["path"])
        await self.app(scope, _bounded(receive, LARGER.get(scope["path"], BODY_BYTES)) if bounded else receive, send)


def _bounded(receive: Any, limit: int) -> Any:
    total = 0

    async def receive_some() -> Any:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise HTTPException(413, f"The body is larger than {limit:,} bytes.")
        return message

    return receive_some
