"""Stock Celery as a careful team runs it: acknowledged late, tasks of dead workers given back, results in PostgreSQL.

The bodies do what the probe's do, so that the same record counts them.
"""

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from kombu import Queue

from infra.probe import mischief
from infra.probe.record import FINISHED, HEARD, RAN, STARTED, Writer

QUEUE = "probe.jobs"
VISIBILITY_SECONDS = 30
"""As long as the lease that stands in its place on our side; Celery's default is an hour."""
HANG_SECONDS = 2

app = Celery("stock", set_as_current=False)
app.conf.update(
    broker_url=os.environ["STOCK_BROKER_URL"],
    result_backend="db+" + os.environ["STOCK_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:", 1),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
    task_queues=[Queue(QUEUE)],
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=True,
    worker_prefetch_multiplier=1,
)
RETRIED: dict[str, Any] = {
    "bind": True,
    "autoretry_for": (psycopg.Error,),
    "max_retries": 8,
    "retry_backoff": True,
    "retry_backoff_max": 5,
}


@app.task(name="probe.thing.noop")
def noop(number: int) -> int:
    _record(RAN, number)
    return number


@app.task(name="probe.thing.write", **RETRIED)
def write(task: Any, number: int) -> None:
    _have_effect(task, number)
    _record(RAN, number)


@app.task(name="probe.thing.tell")
def tell(number: int, effect: bool = True) -> None:
    note.apply_async((number,))
    _record(RAN, number)


@app.task(name="probe.thing.note", **RETRIED)
def note(task: Any, number: int) -> None:
    _have_effect(task, number)
    _record(HEARD, number)


@app.task(name="probe.thing.take", **RETRIED)
def take(task: Any, number: int, seconds: float = 1.0) -> None:
    _record(STARTED, number)
    time.sleep(seconds)
    _have_effect(task, number)
    _record(FINISHED, number)


@app.task(name="probe.thing.misbehave")
def misbehave(number: int, how: str) -> object:
    _record(STARTED, number)
    return mischief.BODIES[how]()


@app.task(name="probe.thing.hang", soft_time_limit=HANG_SECONDS, time_limit=HANG_SECONDS + 15)
def hang(number: int) -> None:
    _record(STARTED, number)
    mischief.hang()


def _have_effect(task: Any, number: int) -> None:
    with psycopg.connect(os.environ["STOCK_DATABASE_URL"], connect_timeout=5) as connection:
        connection.execute(
            "INSERT INTO effect_row (number, job, attempt) VALUES (%s, %s, %s)",
            (number, task.request.id, task.request.retries),
        )


def _record(deed: bytes, number: int) -> None:
    _writer().write(deed, number, 0)


@cache
def _writer() -> Writer:
    return Writer(Path(os.environ["PROBE_RECORD_FILE"]))
