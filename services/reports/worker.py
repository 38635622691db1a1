"""The Celery app of `reports`. A render is work for a core, and its libraries are native: processes."""

from services.reports.handlers import SUBSCRIPTIONS
from services.reports.settings import ReportsSettings
from services.reports.tasks import tasks
from shared.celery import Service, make_celery

service = Service(
    "reports", ReportsSettings, tasks, SUBSCRIPTIONS, queues=("reports.jobs",), pool="prefork", concurrency=2
)
app = make_celery(service)
