"""The toy's Celery app. TOY_POOL chooses the pool."""

import os

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
