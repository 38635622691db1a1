"""The Celery app of the probe: processes, because some of its jobs end theirs."""

from infra.probe.handlers import SUBSCRIPTIONS
from infra.probe.settings import ProbeSettings
from infra.probe.tasks import tasks
from shared.celery import Service, make_celery

service = Service(
    "probe",
    ProbeSettings,
    tasks,
    SUBSCRIPTIONS,
    queues=("probe.jobs",),
    pool="prefork",
    concurrency=2,
)
app = make_celery(service)
