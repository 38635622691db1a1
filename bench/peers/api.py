"""The same bare server for all: POST /jobs enqueues one job and answers 202. BENCH_APP names the peer's module.

A client with an async API is awaited on the event loop; one that blocks runs in the thread pool.
"""

import importlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

peer = importlib.import_module(os.environ["BENCH_APP"])
numbers = itertools.count()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if peer.ASYNC:
        await peer.start()
    yield
    if peer.ASYNC:
        await peer.stop()


api = FastAPI(lifespan=lifespan)


@api.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ok": True}


if peer.ASYNC:

    @api.post("/jobs", status_code=202)
    async def submit() -> dict[str, int]:
        number = next(numbers)
        await peer.enqueue(number, time.time_ns())
        return {"id": number}

else:

    @api.post("/jobs", status_code=202)
    def submit() -> dict[str, int]:
        number = next(numbers)
        peer.enqueue(number, time.time_ns())
        return {"id": number}
