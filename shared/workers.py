"""Bootsteps of a Celery worker: the lease thread, the ear, the guard of the event queue's bindings, the pace of task
events."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import structlog
from celery import bootsteps, signals
from celery.exceptions import TimeLimitExceeded
from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import state
from kombu import Consumer
from sqlalchemy.exc import SQLAlchemyError

from shared import telemetry
from shared.celery import CeleryBroker
from shared.db import Connection
from shared.forks import ForkGate
from shared.ledger import leases

log = structlog.get_logger(__name__)

BINDINGS_SECONDS = 5.0
EVENTS_SECONDS = 0.5
EVENTS_A_BATCH = 500
SAMPLE_SECONDS = 1.0
"""How often it is counted how many slots are busy."""
PROBES = 6
"""So many messages a worker sends itself in the time after which it counts as deaf."""
STUCK_SECONDS = 10.0
"""A main thread that is told to stop and does not even begin to is stuck, in a call that never returns."""
ENTER_SECONDS = 5.0
"""A worker that starts while PostgreSQL is away waits so long for its lease, then goes on without."""


class LeaseStep(bootsteps.StartStopStep):
    """Renews the worker's lease and takes back what its pool lost, also while every slot is busy. Stops the worker,
    when all that it runs is done, once it is to be drained."""

    requires = frozenset({"celery.worker.components:Pool"})  # after the pool forked: no socket is inherited

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._service = worker.app.service
        self._name = worker.hostname
        self._wanted = threading.Event()
        self._entered = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._keeper: leases.Keeper | None = None
        self._samples: list[int] = []
        self._gate = ForkGate()

    def start(self, worker: Any) -> None:
        settings = self._service.settings
        telemetry.start(self._service.name)
        self._keeper = leases.Keeper(
            self._service.database,
            self._service.tasks,
            self._service.worker,
            self._name,
            lease_seconds=settings.lease_seconds,
            max_crashes=settings.max_crashes,
            in_hand=_in_hand,
            about=self._about,
            bench=self._service.bench,
            grace_seconds=settings.stop_grace_seconds,
            kill=lambda pid: worker.pool.terminate_job(pid, signal.SIGKILL),
        )
        signals.task_revoked.connect(self._on_task_killed, weak=False)
        signals.task_failure.connect(self._on_task_failure, weak=False)
        signals.worker_shutdown.connect(self.terminate, weak=False)
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()
        self._entered.wait(ENTER_SECONDS)  # without a lease nothing can be claimed

    def stop(self, worker: Any) -> None:
        """A warm shutdown begins: the pool, which stops after us, still finishes what it runs. Its lease is
        renewed until then; the signal of the worker's end ends it."""

    def terminate(self, *_: Any, **__: Any) -> None:
        """A cold shutdown begins, or a warm one is done: what is still running may be taken at once."""
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        connection: Connection | None = None
        assert self._keeper is not None
        while not self._stopped.is_set():
            try:
                with self._gate:
                    connection = connection or self._service.database.connect()
                    self._keeper.round(connection)
                self._entered.set()
                self._stop_if_drained()
            except (psycopg.Error, SQLAlchemyError) as error:
                log.error("lease not renewed", reason=str(error)[:300])
                _close(connection)
                connection = None
            except Exception:
                log.exception("lease round failed")  # a thread must never die silently
            renewal = min(self._service.settings.renewal_seconds, self._keeper.again_in)
            self._wait(renewal if connection else 1.0)
        if connection is not None:
            with suppress(psycopg.Error):
                leases.end(connection, self._service.worker)
                connection.close()

    def _wait(self, seconds: float) -> None:
        """Until the next round is due, or wanted sooner."""
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0 and not self._wanted.wait(min(left, SAMPLE_SECONDS)):
            self._samples.append(len(_copy(state.active_requests)))
        self._wanted.clear()

    def _about(self) -> leases.About:
        samples, self._samples = self._samples, []
        slots = self._service.concurrency
        busy = min(slots, sum(samples) / len(samples)) if samples else None
        return leases.About(self._service.queues, self._service.pool, slots, busy)

    def _stop_if_drained(self) -> None:
        if self._keeper is not None and self._keeper.is_drained and state.should_stop is None:
            log.warning("drained: no more jobs are taken, and the worker stops when its own are done")
            state.should_stop = EX_OK

    def _on_task_failure(self, exception: BaseException | None = None, args: Any = None, **_: Any) -> None:
        """A pool process died, or was killed at its time limit: its jobs are looked for at once."""
        limit = isinstance(exception, TimeLimitExceeded)
        code = "attempt.time_limit" if limit else "worker.lost"
        detail = f"It ran past its time limit ({exception})." if limit else f"Its worker process died: {exception}"
        self._lost(args, code, detail)

    def _on_task_killed(self, request: Any = None, **_: Any) -> None:
        """The keeper had a pool process killed: what else its message asked for is looked for at once."""
        self._lost(request.args, *leases.BESIDE)

    def _lost(self, args: Any, code: str, detail: str) -> None:
        if self._keeper is not None and args and isinstance(args[0], list):
            with suppress(ValueError, TypeError, AttributeError):
                self._keeper.lost([UUID(job) for job in args[0]], code, detail)
        self._wanted.set()


class Ear:
    """Whether a worker is deaf. Times are given, in seconds of any clock that is not set back."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.has_heard = False
        self._unheard_since: float | None = None

    def told(self, now: float) -> None:
        """The broker has taken a message for it."""
        if self._unheard_since is None:
            self._unheard_since = now

    def hears(self) -> None:
        self.has_heard, self._unheard_since = True, None

    def excuse(self) -> None:
        """It need not hear at this moment: its slots are full, the broker is away, a connection is being made."""
        self._unheard_since = None

    def is_deaf(self, now: float) -> bool:
        """Never one that has not heard yet: where it cannot, it would start again and again."""
        return self.has_heard and self._unheard_since is not None and now - self._unheard_since > self._patience


class HearingStep(bootsteps.StartStopStep):
    """Starts the worker again when it is deaf: it holds a connection and has slots free, the broker takes messages, and
    nothing arrives. After trouble with the broker that has happened with many a pair of kombu and redis-py
    (celery#8030, celery#10205), and it is silent.

    So the worker sends itself a message now and then, over a connection of its own, to a queue of its own that it
    consumes by the very channel of its jobs. When none comes through for `deaf_seconds` it stops as if told to: what it
    runs is seen to its end, and what supervises it starts another. A main thread that does not even hear that is ended.
    """

    requires = frozenset({"celery.worker.consumer.tasks:Tasks"})

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._app = consumer.app
        self._queue = consumer.app.service.own_queue()
        self._gate = ForkGate()
        self._heard_of_it = threading.Event()
        self._stopped = threading.Event()
        self._consumer: Any = None
        self._ear: Ear | None = None

    def start(self, consumer: Any) -> None:
        """A connection was made; the first time, the thread begins as well."""
        if self._ear is None:
            self._ear = Ear(self._app.service.settings.deaf_seconds)
            signals.worker_shutdown.connect(self._end, weak=False)
            threading.Thread(target=self._run, name="hearing", daemon=True).start()
        self._ear.excuse()
        channel = consumer.task_consumer.channel
        self._consumer = Consumer(channel, [self._queue], on_message=self._hear, no_ack=True)
        self._consumer.consume()

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker is about to stop."""
        self._heard_of_it.set()
        own, self._consumer = self._consumer, None
        if own is not None:
            with suppress(*consumer.connection_errors, *consumer.channel_errors):
                own.cancel()

    shutdown = stop

    def _hear(self, *_: Any) -> None:
        assert self._ear is not None
        if not self._ear.has_heard:
            log.info("hears itself")
        self._ear.hears()

    def _end(self, *_: Any, **__: Any) -> None:
        self._stopped.set()

    def _run(self) -> None:
        broker = CeleryBroker(self._app)
        patience = self._app.service.settings.deaf_seconds
        assert self._ear is not None
        while not self._stopped.wait(patience / PROBES):
            if self._consumer is None or state.should_stop is not None or self._is_full():
                self._ear.excuse()
                continue
            self._ear.told(time.monotonic())
            try:
                with self._gate:
                    broker.send_to_self(self._queue)
            except Exception as error:  # kombu's and redis' errors have no common base
                log.warning("the broker is away", reason=f"{type(error).__name__}: {error}"[:300])
                broker.close()
                self._ear.excuse()
                continue
            if self._ear.is_deaf(time.monotonic()):
                self._start_again(patience)

    def _is_full(self) -> bool:
        concurrency: int = self._app.service.concurrency
        return len(_copy(state.reserved_requests)) >= concurrency

    def _start_again(self, patience: float) -> None:
        log.error("deaf: the broker takes what this worker sends itself, and nothing arrives", seconds=patience)
        self._heard_of_it.clear()
        state.should_stop = EX_FAILURE
        if not self._heard_of_it.wait(STUCK_SECONDS):
            log.error("deaf, and stuck: ended")
            os._exit(EX_FAILURE)


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()


def _in_hand() -> set[UUID]:
    """The jobs of all messages that this worker has taken and not yet done with.

    Celery's main thread changes both sets meanwhile; it empties the first for an instant when it reconnects.
    """
    found: set[UUID] = set()
    for request in (*_copy(state.reserved_requests), *_copy(state.active_requests)):
        for job in request.args[0] if request.args and isinstance(request.args[0], list) else ():
            with suppress(ValueError, TypeError, AttributeError):
                found.add(UUID(job))
    return found


def _copy(requests: Any) -> list[Any]:
    while True:
        with suppress(RuntimeError):  # changed while it was read
            return list(requests)


class EventPacing(bootsteps.StartStopStep):
    """Sends Celery's own task events (Flower reads them) in batches; by default each turn of the worker's loop sends
    its few, at half the CPU time of the whole main process."""

    requires = frozenset({"celery.worker.consumer.events:Events"})

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None and dispatcher.on_send_buffered is not None:
            dispatcher.on_send_buffered, dispatcher.buffer_limit = None, EVENTS_A_BATCH
            self._timer = consumer.timer.call_repeatedly(EVENTS_SECONDS, dispatcher.flush)

    def stop(self, consumer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop


class BindingGuard(bootsteps.StartStopStep):
    """Makes the broker's bindings of this service's event queue equal to the declared ones, every few seconds.

    On Redis a binding is a member of a set: FLUSHALL removes it and publishers go on into the void, and one
    of an older release stays for ever. On other brokers bindings are the broker's, and this does nothing.
    """

    requires = frozenset({"celery.worker.consumer.tasks:Tasks"})

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        if consumer.connection.transport.driver_type == "redis":
            self._timer = consumer.timer.call_repeatedly(BINDINGS_SECONDS, self._check, (consumer,))

    def stop(self, consumer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def _check(self, consumer: Any) -> None:
        queue = consumer.app.service.event_queue()
        if queue is not None:
            with suppress(*consumer.connection_errors):
                reconcile(consumer.task_consumer.channel, queue)


def reconcile(channel: Any, queue: Any) -> None:
    """Make the Redis bindings of `queue` exactly its declared ones."""
    exchange = queue.bindings and next(iter(queue.bindings)).exchange
    wanted = {bound.routing_key for bound in queue.bindings}
    for key in wanted:
        exchange(channel).declare()
        channel._queue_bind(
            exchange.name, *channel.typeof(exchange.name).prepare_bind(queue.name, exchange.name, key, None)
        )
    with channel.conn_or_acquire() as client:
        for key, pattern, name in channel.get_table(exchange.name):
            if name == queue.name and key not in wanted:
                member = channel.sep.join([key, pattern, name])
                client.srem(channel.keyprefix_queue % exchange.name, member)
