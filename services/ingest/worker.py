"""The Celery app of `ingest`. A load is work for a core, and its engine is native: processes."""

from services.ingest.handlers import SUBSCRIPTIONS
from services.ingest.settings import IngestSettings
from services.ingest.tasks import tasks
from shared.celery import Service, make_celery

service = Service(
    "ingest", IngestSettings, tasks, SUBSCRIPTIONS, queues=("ingest.jobs",), pool="prefork", concurrency=2
)
app = make_celery(service)
