"""The Celery app of `api`. Its jobs are short writes: threads."""

from services.api.handlers import SUBSCRIPTIONS
from services.api.settings import ApiSettings
from services.api.tasks import tasks
from shared.celery import Service, make_celery

service = Service("api", ApiSettings, tasks, SUBSCRIPTIONS, queues=("api.jobs",), pool="threads", concurrency=4)
app = make_celery(service)
