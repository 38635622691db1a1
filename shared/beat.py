"""Celery Beat's scheduler, ours: the leading Beat of a service fires its schedules, dispatches its jobs and looks
after its ledger.

Any number of Beats may run. One leads, by a lock that PostgreSQL holds for its connection and gives to the
next as soon as that connection is gone.
"""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2 as httpx
import psycopg
import structlog
from celery.beat import Scheduler as CeleryScheduler
from sqlalchemy.exc import SQLAlchemyError

from shared import telemetry
from shared.celery import CeleryBroker, Service
from shared.db import Connection, is_outage
from shared.ledger import leases, limits, outages, partitions
from shared.ledger.dispatch import Dispatcher, EventPublisher
from shared.ledger.feed import Follower
from shared.ledger.firing import Firer
from shared.ledger.retention import Retention
from shared.ledger.steps import Stepper

log = structlog.get_logger(__name__)

LEAD = "SELECT pg_try_advisory_lock(hashtext('lead ' || current_schema())) AS leads"
IDLE_SECONDS = 1.0
"""Longest wait for a notification: the poll that finds work whose announcement was lost."""
BUSY_SECONDS = 0.02
"""Wait while due jobs wait for room in the broker and claims make it; longer and longer when they do not."""
BREATH_SECONDS = (0.005, 0.025)
"""Wait after a round that gave something: as long as the round took, within these bounds. What comes meanwhile shares
the next round's messages, the more the busier the machine is."""
FROZEN_SECONDS = 10
"""A leader that asks PostgreSQL nothing for so long is frozen, or its machine is gone: another may lead."""
REAP_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 3600.0
RETENTION_SECONDS = 60.0
"""After it began to lead, and after a failure: there is no hurry, and its feeds are to be read first."""


class Scheduler(CeleryScheduler):
    """`tick()` is one round of the leader; it waits inside, for a notification, so that work starts at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._leader: Leader | None = None

    def setup_schedule(self) -> None:
        return None

    def tick(self, *_: Any, **__: Any) -> float:
        if self._leader is None:
            self._leader = Leader(self.app.service, CeleryBroker(self.app))
        return self._leader.tick()

    def sync(self) -> None:
        return None

    def close(self) -> None:
        if self._leader is not None:
            self._leader.close()
        telemetry.stop()

    @property
    def schedule(self) -> dict[str, Any]:
        return {}

    @schedule.setter
    def schedule(self, _: Any) -> None:
        return None

    @property
    def info(self) -> str:
        return "    . db -> the ledger"


class Leader:
    """Tries to lead; while it leads, it fires schedules, dispatches jobs, places and publishes events, reaps leases
    and follows feeds."""

    def __init__(self, service: Service, broker: CeleryBroker) -> None:
        self._service = service
        self._broker = broker
        self._connection: Connection | None = None
        self._began = 0.0
        self._due: dict[str, float] = {}
        self._broker_away_until = 0.0
        self._broker_was_away = False
        self._pause = BUSY_SECONDS
        self._followers: threading.Thread | None = None
        self._forgetter: threading.Thread | None = None
        self._stopped = threading.Event()

    def tick(self) -> float:
        """One round; answers how many seconds to wait before the next."""
        try:
            if self._connection is None:
                return self._try_to_lead()
            return self._round(self._connection)
        except (psycopg.Error, SQLAlchemyError, OSError) as error:
            log.error("the database is away", reason=str(error)[:300])
            self._step_down()
            return IDLE_SECONDS

    def close(self) -> None:
        self._stopped.set()
        if self._followers is not None:
            self._followers.join(2)  # it may wait for a producer's answer; being cut off there loses nothing
        if self._forgetter is not None:
            self._forgetter.join(2)
        self._step_down()
        self._broker.close()

    def _try_to_lead(self) -> float:
        telemetry.start(self._service.name)
        connection = self._service.database.connect()
        row = connection.execute(LEAD).fetchone()
        if row is None or not row["leads"]:
            connection.close()
            return IDLE_SECONDS
        log.info("leading")
        self._connection = connection
        connection.execute(
            """SELECT set_config('application_name', current_setting('application_name') || '-leader', false),
                      set_config('idle_session_timeout', %(frozen)s, false),
                      set_config('idle_in_transaction_session_timeout', %(frozen)s, false)""",
            {"frozen": f"{FROZEN_SECONDS}s"},
        )
        self._listen(connection)
        settings = self._service.settings
        self._began = time.monotonic()
        self._broker_was_away = True  # until this leader knows better: the last one may have left a note
        self._due = {}
        self._dispatcher = Dispatcher(
            self._service.name,
            self._service.queues,
            self._broker,
            window=settings.dispatch_window,
            redispatch_seconds=settings.redispatch_seconds,
            slots=self._service.concurrency,
            together={kind: task.args.together for kind, task in self._service.tasks.by_kind.items()},
        )
        self._publisher = EventPublisher(self._service.name, self._broker)
        self._firer = Firer(self._service.database, self._service.tasks)
        self._stepper = Stepper(self._service.database, self._service.tasks)
        self._follow()
        self._forget()
        return 0.0

    def _listen(self, connection: Connection) -> None:
        row = connection.execute("SELECT 'millrace_' || current_schema() AS channel").fetchone()
        assert row is not None
        connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(row["channel"])))

    def _round(self, connection: Connection) -> float:
        began = time.monotonic()
        if self._is_due("housekeeping", HOUSEKEEPING_SECONDS):
            self._keep_house(connection)
        moved = self._move_on(connection)
        if self._is_due("reap", REAP_SECONDS):
            self._reap(connection)
        placed = self._publisher.place(connection)
        given = self._give(connection)
        if placed or given or moved:
            self._pause = BUSY_SECONDS
            shortest, longest = BREATH_SECONDS
            self._stopped.wait(min(max(shortest, time.monotonic() - began), longest))
        else:
            self._pause = self._next_pause()
            pause = min(self._pause, self._firer.wait, self._stepper.wait, self._dispatcher.again_in)
            for _ in connection.notifies(timeout=pause, stop_after=1):
                pass
        return 0.0

    def _move_on(self, connection: Connection) -> int:
        """Schedules and batches; answers how many of them something was done about."""
        moved = 0
        for what, work in (("schedules", self._firer.fire), ("batches", self._stepper.go_on)):
            try:
                moved += work(connection)
            except Exception as error:
                if is_outage(error):
                    raise
                log.exception("not worked on", what=what)  # whatever it is: jobs are dispatched on
        return moved

    def _next_pause(self) -> float:
        if not self._dispatcher.waiting:
            return IDLE_SECONDS
        return BUSY_SECONDS if self._dispatcher.claimed else min(2 * self._pause, IDLE_SECONDS)

    def _keep_house(self, connection: Connection) -> None:
        try:
            partitions.ensure(connection, datetime.now(UTC))
        except psycopg.Error as error:  # often the default one is being read: what comes stays in it
            if connection.closed:
                raise
            log.warning("partitions not made this time", reason=str(error)[:300])
        leases.forget(connection)
        limits.forget(connection)

    def _give(self, connection: Connection) -> int:
        """Jobs and events to the broker; while it is away they stay where they are, in PostgreSQL."""
        if time.monotonic() < self._broker_away_until:
            return 0
        try:
            given = self._dispatcher.dispatch(connection) + self._publisher.publish(connection)
        except psycopg.Error:
            raise
        except Exception as error:  # kombu's and redis' errors have no common base
            log.warning("the broker is away", reason=f"{type(error).__name__}: {error}"[:300])
            self._broker.close()
            self._broker_away_until = time.monotonic() + 1.0
            outages.note(connection, "broker", type(error).__name__)
            self._broker_was_away = True
            return 0
        if self._broker_was_away:
            outages.clear(connection, "broker")
            self._broker_was_away = False
        return given

    def _reap(self, connection: Connection) -> None:
        settings = self._service.settings
        if time.monotonic() - self._began > settings.renewal_seconds:
            # A leader that has just begun may have been away together with the database: workers get
            # the time of one renewal before their leases count.
            leases.reap(self._service.database, connection, self._service.tasks, settings.max_crashes)
        leases.expire(self._service.database, connection, self._service.tasks)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def _step_down(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _follow(self) -> None:
        """Feeds are read beside the rounds: a producer that does not answer must not hold dispatch up."""
        if self._followers is None and self._service.subscriptions:
            self._followers = threading.Thread(target=self._run_followers, name="followers", daemon=True)
            self._followers.start()

    def _run_followers(self) -> None:
        settings = self._service.settings
        producers = sorted({event.producer() for event in self._service.subscriptions})
        with httpx.Client(timeout=10.0) as client:
            while not self._stopped.is_set():
                for producer in producers if self._connection is not None else ():
                    self._catch_up(producer, client)
                self._stopped.wait(settings.follow_seconds)

    def _catch_up(self, producer: str, client: httpx.Client) -> None:
        settings = self._service.settings
        types = sorted(event.type for event in self._service.subscriptions if event.producer() == producer)
        url = settings.service_urls.get(producer)
        if url is None:
            return
        follower = Follower(producer, url, settings.service_key.get_secret_value(), types)
        try:
            follower.catch_up(self._service.database, self._service.intake, client)
        except (httpx.HTTPError, ValueError, psycopg.Error, SQLAlchemyError, OSError) as error:
            log.warning("feed not read", producer=producer, reason=str(error)[:300])
        except Exception:
            log.exception("feed not read", producer=producer)  # a thread must never die silently

    def _forget(self) -> None:
        """What has aged goes beside the rounds: a lock that is waited for must not hold dispatch up."""
        if self._forgetter is None:
            self._forgetter = threading.Thread(target=self._run_forgetter, name="forgetter", daemon=True)
            self._forgetter.start()

    def _run_forgetter(self) -> None:
        settings = self._service.settings
        followed = {event.producer() for event in self._service.subscriptions} & settings.service_urls.keys()
        retention = Retention(settings.retention_days, followed, self._service.aged(settings), time.monotonic)
        pause = RETENTION_SECONDS
        while not self._stopped.wait(pause):
            pause = RETENTION_SECONDS
            if self._connection is None:
                continue
            try:
                with self._service.database.connect() as connection:
                    pause = retention.round(connection, datetime.now(UTC))
            except psycopg.Error as error:
                log.warning("nothing was forgotten this time", reason=str(error)[:300])
            except Exception:
                log.exception("nothing was forgotten this time")  # a thread must never die silently
