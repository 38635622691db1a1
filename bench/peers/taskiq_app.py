"""Taskiq on a Redis list, its quickest broker. It has no call for many: a hundred calls at once."""

import asyncio
import os
import time
from collections.abc import Sequence

from taskiq_redis import ListQueueBroker

from bench.peers import body

ASYNC = True
AT_ONCE = 100
broker = ListQueueBroker(os.environ["BENCH_BROKER_URL"])
noop = broker.task(task_name="noop")(body.async_noop)


async def start() -> None:
    await broker.startup()


async def stop() -> None:
    await broker.shutdown()


async def enqueue(number: int, sent_ns: int) -> None:
    await noop.kiq(number, sent_ns)


async def enqueue_many(numbers: Sequence[int]) -> None:
    for at in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(noop.kiq(number, time.time_ns()) for number in numbers[at : at + AT_ONCE]))
