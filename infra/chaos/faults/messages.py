"""Messages that nobody should have sent: twice, for no job, malformed, far too large; and events that nobody hears."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from infra.chaos.faults.broker import client
from infra.chaos.faults.fault import Fault, NotInjected, Scene

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
AWAY: Final = (OperationalError, RedisError, OSError)


class Sender:
    """Sends whatever it is told to the queue of small jobs, by a Celery of its own or as raw entries.

    The broker may be away, by another fault; any other error is the fault's own and is raised.
    """

    def __init__(self, scene: Scene) -> None:
        self._queue = scene.world.queue
        self._broker = client(scene.world)
        self._app = Celery("chaos", broker=scene.world.broker_url, set_as_current=False)
        self._app.conf.update(broker_connection_max_retries=0, broker_transport_options={"socket_timeout": 5})
        self.sent = 0
        self.why = "there was nothing to send"

    def send(self, name: str, *args: Any, task_id: str | None = None) -> None:
        self._try(lambda: self._app.send_task(name, args=args, task_id=task_id, queue=self._queue, retry=False))

    def push(self, raw: bytes | str) -> None:
        self._try(lambda: self._broker.lpush(self._queue, raw))

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except AWAY as error:
            self.why = f"{type(error).__name__}: {error}"
        else:
            self.sent += 1

    def close(self) -> None:
        self._app.close()
        self._broker.close()


@contextmanager
def sending(scene: Scene) -> Iterator[Sender]:
    """Raises NotInjected when no message went out."""
    with closing(Sender(scene)) as sender:
        yield sender
    if not sender.sent:
        raise NotInjected(f"no message could be sent: {sender.why}"[:300])


def double(scene: Scene) -> None:
    """Each message again, while its job may wait, run, or be long done."""
    with sending(scene) as sender:
        while scene.window.wait(0.5):
            for job in scene.world.record.jobs[-DOUBLED:]:
                message = scene.world.message_of(job)
                sender.send(f"probe.thing.{job.kind}", *message["args"], task_id=message["task_id"])


def name_unknown_jobs(scene: Scene) -> None:
    with sending(scene) as sender:
        while scene.window.wait(1.0):
            sender.send("probe.thing.write", [str(uuid4()), str(uuid4())])
            sender.send("probe.thing.unheard_of", [str(uuid4())])


def malform(scene: Scene) -> None:
    wrong: tuple[Any, ...] = ("not a list", 7, None, [7, None, {}], ["no id"], [[]])
    with sending(scene) as sender:
        while scene.window.wait(1.0):
            for raw in MALFORMED:
                sender.push(raw)
            for argument in wrong:
                sender.send("probe.thing.write", argument)
                sender.send("millrace.event.receive", argument)


def oversize(scene: Scene) -> None:
    with sending(scene) as sender:
        while scene.window.wait(3.0):
            sender.send("probe.thing.write", ["x" * OVERSIZED_BYTES])
            sender.send("millrace.event.receive", [{"data": json.dumps("x" * OVERSIZED_BYTES)}])


def silence_consumer(scene: Scene) -> None:
    """`reports` is down all the time; what the broker then holds for it is thrown away before it comes back."""
    world = scene.world
    while scene.window.wait(0.2):
        for name in ("reports-worker", "reports-beat"):
            world.kill(name)
    try:
        with client(world) as broker:
            broker.flushall()
    except RedisError as error:
        raise NotInjected(f"the broker could not be emptied: {error}"[:300]) from error


def faults(lease: float) -> list[Fault]:
    return [
        Fault("duplicate-delivery", "messages", 15, double),
        Fault("unknown-job", "messages", 8, name_unknown_jobs, stock=False),
        Fault("malformed", "messages", 8, malform),
        Fault("oversized", "messages", 10, oversize),
        Fault("consumer-down", "messages", 20, silence_consumer, stock=False),
    ]
