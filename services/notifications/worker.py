"""The Celery app of `notifications`. Its jobs wait for other machines: threads."""

from services.notifications.handlers import SUBSCRIPTIONS
from services.notifications.settings import NotificationsSettings
from services.notifications.tasks import tasks
from shared.celery import Service, make_celery

service = Service(
    "notifications",
    NotificationsSettings,
    tasks,
    SUBSCRIPTIONS,
    queues=("notifications.jobs",),
    pool="threads",
    concurrency=8,
)
app = make_celery(service)
