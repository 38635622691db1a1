"""Procrastinate on PostgreSQL. Run as a module it is a worker; with the argument `setup` it makes its tables."""

import asyncio
import os
import sys
import time
from collections.abc import Iterable

import procrastinate

from bench.peers import body

ASYNC = True
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=2, max_size=8)
)
noop = app.task(name="noop")(body.async_noop)


async def start() -> None:
    await app.open_async()


async def stop() -> None:
    await app.close_async()


async def enqueue(number: int, sent_ns: int) -> None:
    await noop.defer_async(number=number, sent_ns=sent_ns)


async def enqueue_many(numbers: Iterable[int]) -> None:
    await noop.batch_defer_async(*({"number": number, "sent_ns": time.time_ns()} for number in numbers))


async def _run(setup: bool) -> None:
    async with app.open_async():
        if setup:
            await app.schema_manager.apply_schema_async()
        else:
            await app.run_worker_async(concurrency=10)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1:] == ["setup"]))
