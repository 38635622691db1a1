"""One producer process: `python -m bench.peers.producer APP COUNT [RATE]`. Prints one JSON object.

Without a rate (jobs a second, one at a time) the jobs go by the app's call for many, CHUNK at a time.
The first job, FIRST, opens the connections; it comes before the clock starts.
"""

import asyncio
import importlib
import inspect
import json
import sys
import time
from typing import Any

from bench.peers import FIRST

CHUNK = 500
LINGER_SECONDS = 0.3
"""A client may announce, or send, from a thread of its own, that would end with the process."""


async def _maybe(answer: Any) -> None:
    if inspect.isawaitable(answer):
        await answer


async def produce(app: Any, count: int, rate: float) -> dict[str, Any]:
    """Numbers 0 to `count`; answers times in nanoseconds since the epoch, and this process's CPU seconds."""
    if app.ASYNC:
        await app.start()
    await _maybe(app.enqueue(FIRST, time.time_ns()))
    returned: list[int] = []
    began, cpu, origin = time.time_ns(), time.process_time(), time.perf_counter()
    if rate:
        for number in range(count):
            await asyncio.sleep(max(0.0, origin + number / rate - time.perf_counter()))
            await _maybe(app.enqueue(number, time.time_ns()))
            returned.append(time.time_ns())
    else:
        for at in range(0, count, CHUNK):
            await _maybe(app.enqueue_many(range(at, min(at + CHUNK, count))))
    done = {"began_ns": began, "ended_ns": time.time_ns(), "cpu_s": time.process_time() - cpu, "returned_ns": returned}
    await asyncio.sleep(LINGER_SECONDS)
    if app.ASYNC:
        await app.stop()
    return done


if __name__ == "__main__":
    name, count, *rate = sys.argv[1:]
    print(json.dumps(asyncio.run(produce(importlib.import_module(name), int(count), float(rate[0]) if rate else 0.0))))
