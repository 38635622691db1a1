"""The toy's Celery app. TOY_POOL chooses the pool."""

import os
from typing import Any

from celery.worker.control import control_command

from shared.celery import Service, make_celery
from shared.settings import Settings
from tests.integration.toy.events import SUBSCRIPTIONS
from tests.integration.toy.tasks import tasks

service = Service(
    "toy",
    Settings,
    tasks,
    SUBSCRIPTIONS,
    queues=("toy.jobs",),
    pool=os.environ.get("TOY_POOL", "prefork"),
    concurrency=2,
)
app = make_celery(service)


@control_command()
def go_deaf(state: Any) -> None:
    """What happens to a worker whose kombu has lost track of its connection: it is there, and takes nothing."""
    state.consumer.task_consumer.channel.qos.can_consume = lambda: False
