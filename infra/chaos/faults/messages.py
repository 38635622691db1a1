"""Messages that nobody should have sent: twice, for no job, malformed, far too large; and events that nobody hears."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from redis.exceptions import RedisError

from infra.chaos.faults.broker import client
from infra.chaos.faults.fault import Fault, Scene

OVERSIZED_BYTES: Final = 30_000_000
DOUBLED: Final = 20
MALFORMED: Final = (
    b"",
    b"\x00\xff\xfe",
    b"not JSON",
    b"[]",
    b"{}",
    b'{"body": 5}',
    b'{"body": "e30=", "headers": {}, "properties": {}, "content-type": "application/json"}',
)
"""Raw entries of the broker's list."""


@contextmanager
def sender(scene: Scene) -> Iterator[Any]:
    """A Celery of our own: sends whatever it is told to the queue of small jobs."""
    app = Celery("chaos", broker=scene.world.broker_url, set_as_current=False)
    app.conf.update(broker_connection_max_retries=0, broker_transport_options={"socket_timeout": 5})
    try:
        yield app
    finally:
        app.close()


def send(app: Any, scene: Scene, name: str, *args: Any, task_id: str | None = None) -> None:
    with suppress(Exception):  # the broker may be away: then there is nothing to send to
        app.send_task(name, args=args, task_id=task_id, queue=scene.world.queue, retry=False)


def double(scene: Scene) -> None:
    """Each message again, while its job may wait, run, or be long done."""
    with sender(scene) as app:
        while scene.window.wait(0.5):
            for job in scene.world.record.jobs[-DOUBLED:]:
                message = scene.world.message_of(job)
                send(app, scene, f"probe.thing.{job.kind}", *message["args"], task_id=message["task_id"])


def name_unknown_jobs(scene: Scene) -> None:
    with sender(scene) as app:
        while scene.window.wait(1.0):
            send(app, scene, "probe.thing.write", [str(uuid4()), str(uuid4())])
            send(app, scene, "probe.thing.unheard_of", [str(uuid4())])


def malform(scene: Scene) -> None:
    wrong: tuple[Any, ...] = ("not a list", 7, None, [7, None, {}], ["no id"], [[]])
    while scene.window.wait(1.0):
        with client(scene.world) as broker, suppress(RedisError):
            for raw in MALFORMED:
                broker.lpush(scene.world.queue, raw)
        with sender(scene) as app:
            for argument in wrong:
                send(app, scene, "probe.thing.write", argument)
                send(app, scene, "millrace.event.receive", argument)


def oversize(scene: Scene) -> None:
    with sender(scene) as app:
        while scene.window.wait(3.0):
            send(app, scene, "probe.thing.write", ["x" * OVERSIZED_BYTES])
            send(app, scene, "millrace.event.receive", [{"data": json.dumps("x" * OVERSIZED_BYTES)}])


def silence_consumer(scene: Scene) -> None:
    """`reports` is down all the time; what the broker then holds for it is thrown away before it comes back."""
    world = scene.world
    while scene.window.wait(0.2):
        for name in ("reports-worker", "reports-beat"):
            world.kill(name)
    with client(world) as broker, suppress(RedisError):
        broker.flushall()


def faults(lease: float) -> list[Fault]:
    return [
        Fault("duplicate-delivery", "messages", 15, double),
        Fault("unknown-job", "messages", 8, name_unknown_jobs, stock=False),
        Fault("malformed", "messages", 8, malform),
        Fault("oversized", "messages", 10, oversize),
        Fault("consumer-down", "messages", 20, silence_consumer, stock=False),
    ]
