"""Dramatiq on Redis, without the Prometheus middleware. It has no call for many."""

import os
import time
from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers import body

ASYNC = False
dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_BROKER_URL"]))
noop = dramatiq.actor(body.noop)


def enqueue(number: int, sent_ns: int) -> None:
    noop.send(number, sent_ns)


def enqueue_many(numbers: Iterable[int]) -> None:
    for number in numbers:
        noop.send(number, time.time_ns())
