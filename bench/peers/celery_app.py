"""Celery on Redis. BENCH_CELERY: `plain` keeps no results, `adr` is the configuration of the decision record."""

import os
import time
from collections.abc import Iterable

from celery import Celery

from bench.peers import body

ASYNC = False
app = Celery("peers", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
if os.environ.get("BENCH_CELERY") == "adr":
    app.conf.update(
        result_backend="db+" + os.environ["BENCH_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:", 1),
        task_ignore_result=False,
        task_track_started=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
    )
noop = app.task(name="noop")(body.noop)


def enqueue(number: int, sent_ns: int) -> None:
    noop.apply_async((number, sent_ns))


def enqueue_many(numbers: Iterable[int]) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=100):
        for number in numbers:
            noop.apply_async((number, time.time_ns()), producer=producer, retry=False, add_to_parent=False)
