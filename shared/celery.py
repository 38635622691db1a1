"""The one place that knows Celery's settings, its messages and its signals.

A service's Celery app has one task a job kind. A message is a wake-up: the ids of a few jobs of that kind,
never a payload. So the broker needs no acknowledgements and no results: what a message asked for stands in
the ledger, and what nobody claimed is dispatched again.
"""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from billiard.process import current_process
from celery import Celery, signals
from kombu import Exchange, Queue
from kombu.entity import binding

from shared import ids, telemetry
from shared.contracts.envelope import Envelope
from shared.db import Database
from shared.ledger.bench import Bench
from shared.ledger.execute import Executor
from shared.ledger.intake import Intake
from shared.ledger.messages import Subscriptions
from shared.ledger.retention import Aged
from shared.ledger.tasks import Tasks
from shared.settings import Settings

EVENTS = Exchange("millrace.events", type="topic", durable=True)
RECEIVE = "millrace.event.receive"
"""The task by which every service takes events in; each from its own queue."""
OWN_QUEUE_SECONDS = 300
"""The broker forgets the queue of a worker that is gone after so long."""
HARD_LIMIT_GRACE_SECONDS = 15
BROKER_SECONDS = 3.0
"""A broker that does not answer a publisher for so long is treated as away."""


class Service:
    """Everything that the processes of one service share. Nothing of it connects before it is used."""

    def __init__(
        self,
        name: str,
        settings: Callable[[], Settings],
        tasks: Tasks,
        subscriptions: Subscriptions,
        *,
        queues: tuple[str, ...],
        pool: str,
        concurrency: int,
        aged: Callable[[Any], Sequence[Aged]] = lambda settings: (),
    ) -> None:
        """`aged`: tables of its own whose old rows are deleted, by its settings."""
        self.name = name
        self.aged = aged
        self.tasks = tasks
        self.subscriptions = subscriptions
        self.queues = queues
        self.pool = pool
        self.concurrency = concurrency
        self.bench = Bench(_process_number if pool == "prefork" else None)
        self.worker = ids.draw()
        """This worker incarnation; drawn before the pool forks, so that its children share it, as they do `bench`."""
        self._load_settings = settings
        self._settings: Settings | None = None
        self._database: Database | None = None
        self._executor: Executor | None = None
        self._refuse_what_never_runs()

    def _refuse_what_never_runs(self) -> None:
        """A job of another queue would be dispatched by nobody, one without a body dropped by Celery."""
        for task in self.tasks.by_kind.values():
            if task.args.queue not in self.queues:
                raise ValueError(f"{task.args.kind} goes to {task.args.queue}, which {self.name} does not work off")
        for kind in (kind for kinds in self.subscriptions.values() for kind in kinds):
            if kind.kind not in self.tasks.by_kind:
                raise ValueError(f"{kind.kind} is subscribed to an event and has no body")

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = self._load_settings()
        return self._settings

    @property
    def database(self) -> Database:
        if self._database is None:
            size = self.concurrency if self.pool == "threads" else 2
            self._database = Database(
                self.settings.dsn,
                application=f"millrace-{self.name}",
                pool_size=size,
                silent_seconds=self.settings.lease_seconds,  # then a frozen attempt's job is another's to take
            )
        return self._database

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            self._executor = Executor(self.database, self.tasks, self.worker, self.bench)
        return self._executor

    @property
    def intake(self) -> Intake:
        return Intake(self.database, self.subscriptions)

    def event_queue(self) -> Queue | None:
        """The queue of its own that the subscribed types are bound to; None when it subscribes to none."""
        if not self.subscriptions:
            return None
        bindings = [binding(EVENTS, routing_key=event.type) for event in self.subscriptions]
        return Queue(f"{self.name}.events", bindings=bindings)

    def own_queue(self) -> Queue:
        """The queue of this worker incarnation alone: what it sends itself, to know that it hears."""
        name = f"{self.name}.worker.{self.worker}"
        return Queue(name, Exchange(""), routing_key=name, expires=OWN_QUEUE_SECONDS)


def _process_number() -> int:
    """Of the calling pool process: one that takes another's place gets its number."""
    number: int = current_process().index
    return number


def make_celery(service: Service) -> Celery:
    """The service's Celery app. Settings are read from the environment when it is first used."""
    app = Celery(service.name, set_as_current=False)
    app.service = service
    app.add_defaults(lambda: _configuration(service))
    for kind, task in service.tasks.by_kind.items():
        app.task(
            _wake_up(service, kind),
            name=kind,
            shared=False,
            ignore_result=True,
            soft_time_limit=task.time_limit,
            time_limit=task.time_limit + HARD_LIMIT_GRACE_SECONDS,
        )
    app.task(_receive(service), name=RECEIVE, shared=False, ignore_result=True)
    _install(app, service)
    return app


def _wake_up(service: Service, kind: str) -> Callable[[list[str]], None]:
    def wake_up(jobs: list[str]) -> None:
        service.executor.run(kind, [UUID(job) for job in jobs])

    return wake_up


def _receive(service: Service) -> Callable[[list[Any]], None]:
    def receive(events: list[Any]) -> None:
        service.intake.receive(events)

    return receive


def _configuration(service: Service) -> dict[str, Any]:
    settings = service.settings
    queues = [Queue(queue) for queue in service.queues]
    events = service.event_queue()
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "result_backend": "shared.results:LedgerBackend",
        "result_backend_always_retry": True,
        "result_backend_max_retries": 3,
        # Leases and re-dispatch stand in for acknowledgements, and with them for the visibility timeout.
        "broker_transport_options": {"ack_emulation": False, "socket_connect_timeout": BROKER_SECONDS},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_ignore_result": True,
        "task_queues": queues + ([events] if events else []),
        "task_default_queue": service.queues[0],
        "task_create_missing_queues": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_pool": service.pool,
        "worker_concurrency": service.concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,  # a worker takes no more messages than it can begin
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "beat_scheduler": "shared.beat:Scheduler",
        "beat_max_loop_interval": 1,
        "enable_utc": True,
        "timezone": "UTC",
    }


def _install(app: Celery, service: Service) -> None:
    """Bootsteps and signals. Signals are process-wide, and a process has one service's app."""
    from shared import transport
    from shared.workers import BindingGuard, EventPacing, HearingStep, LeaseStep

    transport.install()
    app.steps["worker"].add(LeaseStep)
    app.steps["consumer"].update((BindingGuard, EventPacing, HearingStep))
    signals.setup_logging.connect(_on_logging(service), weak=False)
    signals.worker_process_init.connect(_on_pool_process(service), weak=False)
    signals.worker_process_shutdown.connect(_on_stop, weak=False)
    signals.worker_shutdown.connect(_on_stop, weak=False)


def _on_logging(service: Service) -> Callable[..., None]:
    def configure(**_: Any) -> None:
        telemetry.configure_logs(service.name, service.settings.log_level, service.settings.log_format)

    return configure


def _on_pool_process(service: Service) -> Callable[..., None]:
    def begin(**_: Any) -> None:
        telemetry.start(service.name)

    return begin


def _on_stop(**_: Any) -> None:
    telemetry.stop()


class CeleryBroker:
    """The dispatcher's way to the broker. A broker that is away raises within seconds."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Any = None
        self._producer: Any = None

    def send_jobs(self, kind: str, queue: str, jobs: list[UUID]) -> None:
        """One wake-up. For a single job the message carries the job's id as its own, and Flower shows it."""
        task_id = str(jobs[0]) if len(jobs) == 1 else str(ids.draw())
        self._send(kind, [str(job) for job in jobs], task_id, queue=queue)

    def send_events(self, events: list[Envelope]) -> None:
        """Events of one type, to the topic exchange; the routing key is their type."""
        producer = self._ready()
        producer.maybe_declare(EVENTS)  # the exchange's type is the connection's knowledge, not the broker's
        bodies = [event.model_dump(mode="json") for event in events]
        self._send(RECEIVE, bodies, str(events[0].id), exchange=EVENTS, routing_key=events[0].type)

    def send_to_self(self, queue: Queue) -> None:
        """A message that says nothing, to a worker's own queue."""
        producer = self._ready()
        producer.maybe_declare(queue)
        producer.publish("", exchange="", routing_key=queue.name, serializer="json", retry=False)

    def depth(self, queue: str) -> int:
        try:
            return int(self._ready().channel.queue_declare(queue, passive=True).message_count)
        except self._app.connection_for_write().channel_errors:
            return 0  # a queue that is not there holds nothing

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception:  # a broken connection may fail to say goodbye
                return

    def _send(self, name: str, argument: list[Any], task_id: str, **route: Any) -> None:
        producer = self._ready()
        if "queue" in route:
            route["queue"] = self._app.amqp.queues[route["queue"]]
        message = self._app.amqp.create_task_message(task_id, name, (argument,), {}, ignore_result=True)
        self._app.amqp.send_task_message(producer, name, message, retry=False, **route)

    def _ready(self) -> Any:
        if self._producer is None:
            options = {**self._app.conf.broker_transport_options, "socket_timeout": BROKER_SECONDS}
            self._connection = self._app.connection_for_write(transport_options=options, connect_timeout=BROKER_SECONDS)
            self._connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer
