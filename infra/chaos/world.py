"""A system under test, as load, faults and checks see it: its processes, its servers, its tables."""

import os
import random
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from infra.chaos import schedules
from infra.chaos.proxy import Proxy
from infra.chaos.record import Record, SmallJob
from infra.local.process import Process, View
from infra.probe.record import STARTED, Reader

Row = dict[str, Any]
WATCHER = "chaos-watcher"
"""The application name of the harness's own connections, which faults spare."""


@dataclass(frozen=True)
class Endpoint:
    """Where callers go, and what they send along."""

    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class JobRow:
    """A job as the system's own table has it."""

    job: str
    number: int
    kind: str
    state: str
    """queued, running, succeeded, failed, cancelled"""
    reason: str | None
    """The code of what went wrong with it."""


class World(ABC):
    """What every system under test has. Made by a context manager that also takes it down."""

    name: str
    jobs: Endpoint
    """Takes small jobs: POST /v1/jobs."""
    uploads: Endpoint | None = None
    """Takes files: POST /v1/datasets."""
    broker: Proxy
    broker_url: str
    """The broker itself, without the proxy."""
    admin_url: str
    """PostgreSQL's superuser, in the database that all is in."""
    app_url: str
    """The database as a service's ordinary role."""
    queue: str
    """The broker's queue of small jobs."""
    workers: Sequence[str]
    """Processes that run small jobs."""
    others: Sequence[str] = ()
    """Other workers."""
    https: Sequence[str]
    beats: Sequence[str]
    groups: bool = False
    """Whether requests without an Idempotency-Key share commits, and messages carry several jobs."""
    limits: bool = False
    """Whether it has limits that hold over all workers: then those of `infra.chaos.limits` are set."""
    batches: bool = False
    """Whether jobs may owe batches and go on after them: then some do."""
    schedules: bool = False
    """Whether it has schedules: then those of `infra.chaos.schedules` are made."""
    lease_seconds: float
    """After so long a worker that says nothing has lost its jobs."""
    patience_seconds: float = 400.0
    """Longest wait for everything to end: a destination's third try comes after five minutes."""

    def __init__(self, record: Record, record_file: Path, random_: random.Random, say: Callable[[str], None]) -> None:
        self.record = record
        self.random = random_
        self.say = say
        self.deeds = Reader(record_file)
        self.given_up = 0
        """Jobs that did not end in their part, and are not waited for any more."""
        self.wipe = threading.Event()
        """Set: the broker's next start begins with nothing."""

    @abstractmethod
    def message_of(self, job: SmallJob) -> Row:
        """`args` and `task_id` of the broker message that asks for the job, as the system itself sends it."""

    # The system's own word

    @abstractmethod
    def rows(self) -> list[JobRow]:
        """All small jobs."""

    @abstractmethod
    def still_open(self) -> list[str]:
        """Jobs that wait or run, and events that are not told yet, whoever asked for them; a few words each."""

    def unfinished(self) -> int:
        """How many are still open, without those that were given up, and without what schedules go on to fire."""
        return sum(schedules.KIND not in words for words in self.still_open()) - self.given_up

    @abstractmethod
    def upload_rows(self) -> dict[str, Row]:
        """Dataset → how many `unfinished` jobs its run has, how many `failed`, of these `quarantined`; `versions`,
        `renders`, `deliveries`."""

    @abstractmethod
    def moves(self) -> list[Row]:
        """Every move of every job's state that was committed: service, job, was, became, attempt_was, attempt, at
        (seconds since the epoch)."""

    def fires(self) -> list[Row]:
        """Every job that a schedule fired and that was committed: job, number (its schedule's), at (seconds since the
        epoch); the earliest first."""
        return []

    def together(self) -> set[int]:
        """Numbers of jobs that one worker began at the same instant as another: they came by one message."""
        return set()

    def effects(self) -> list[Row]:
        """Side effects: number, job, attempt."""
        return self.query("SELECT number, job::text AS job, attempt FROM probe.effect_row")

    def clean_up(self) -> None:
        """Called when a part of the run ends without quiet: the next one begins afresh."""
        self.given_up += self.unfinished()

    # Processes

    @abstractmethod
    def views(self) -> list[View]: ...

    @abstractmethod
    def process(self, name: str) -> Process:
        """A process that can be started beside the others: `probe-beat-2` and the like."""

    @abstractmethod
    def mark(self) -> str:
        """What the processes carry in their environment."""

    def pid(self, name: str) -> int | None:
        """None between its end and its next start."""
        return next((view.pid for view in self.views() if view.name == name), None)

    def is_ready(self, name: str) -> bool:
        return next(view.status.holds for view in self.views() if view.name == name)

    def family(self, name: str) -> list[int]:
        """The process and all below it."""
        pid = self.pid(name)
        return [pid, *self.children(name)] if pid is not None else []

    def children(self, name: str) -> list[int]:
        pid = self.pid(name)
        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)] if pid is not None else []
        except psutil.Error:
            return []

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """To the whole process group, as the kernel or an operator does; whether there was one. Its end is noted."""
        pids = self.family(name)
        if not pids:
            return False
        if number in (signal.SIGKILL, signal.SIGSTOP):
            self.record.crashed(pids, frozen=number == signal.SIGSTOP)
        with suppress(ProcessLookupError):
            os.killpg(pids[0], number)
        return True

    def tell(self, name: str, number: signal.Signals) -> bool:
        """To the main process alone, as a supervisor does."""
        pid = self.pid(name)
        if pid is not None:
            if number == signal.SIGKILL and name in self.https:
                self.record.silenced.add(self.record.part)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid is not None

    def kill_one(self, pid: int) -> None:
        self.record.crashed([pid])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def busy(self, pids: Iterable[int], numbers: Collection[int] | None = None) -> list[int]:
        """Those of the processes that have a job in hand (one of `numbers`), by what they wrote themselves."""
        at = {record.pid: record for record in self.deeds.records()}
        return [
            pid
            for pid in pids
            if (last := at.get(pid)) and last.deed == STARTED and (numbers is None or last.number in numbers)
        ]

    # PostgreSQL

    def connect(self, url: str | None = None) -> psycopg.Connection[Row]:
        return psycopg.connect(
            url or self.admin_url, autocommit=True, row_factory=dict_row, application_name=WATCHER, connect_timeout=3
        )

    def query(self, statement: str, *values: Any) -> list[Row]:
        """Raises psycopg.Error while PostgreSQL is away."""
        with self.connect() as connection:
            return connection.execute(statement.encode(), values or None).fetchall()
