"""The Celery app of `api`. Its jobs are short writes: threads."""

from services.api.handlers import SUBSCRIPTIONS
from services.api.settings import ApiSettings
from services.api.tasks import tasks
from shared.celery import Service, make_celery
from shared.ledger.retention import Aged


def _aged(settings: ApiSettings) -> list[Aged]:
    return [Aged("span", "started_at", settings.span_days), Aged("run_event", "time", settings.retention_days)]


service = Service(
    "api", ApiSettings, tasks, SUBSCRIPTIONS, queues=("api.jobs",), pool="threads", concurrency=4, aged=_aged
)
app = make_celery(service)
