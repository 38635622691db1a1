"""RQ's SimpleWorker, the quicker of its two; results of None are dropped at once. Run as a module it is a worker."""

import os
import time
from collections.abc import Iterable

from redis import Redis
from rq import Queue, SimpleWorker

from bench.peers import body

ASYNC = False
redis = Redis.from_url(os.environ["BENCH_BROKER_URL"])
queue = Queue("q", connection=redis)


def enqueue(number: int, sent_ns: int) -> None:
    queue.enqueue_call(body.noop, args=(number, sent_ns), result_ttl=0)


def enqueue_many(numbers: Iterable[int]) -> None:
    queue.enqueue_many([Queue.prepare_data(body.noop, (number, time.time_ns()), result_ttl=0) for number in numbers])


if __name__ == "__main__":
    SimpleWorker([queue], connection=redis, log_job_description=False).work(logging_level="WARNING")
