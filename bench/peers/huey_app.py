"""Huey on Redis, results off. It has no call for many."""

import os
import time
from collections.abc import Iterable

from huey import RedisHuey

from bench.peers import body

ASYNC = False
huey = RedisHuey("peers", url=os.environ["BENCH_BROKER_URL"], results=False)
noop = huey.task(name="noop")(body.noop)


def enqueue(number: int, sent_ns: int) -> None:
    noop(number, sent_ns)


def enqueue_many(numbers: Iterable[int]) -> None:
    for number in numbers:
        noop(number, time.time_ns())
