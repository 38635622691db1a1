"""The harness's own record: what the API accepted, and what it saw arrive. Nothing here was told by the system."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from infra.chaos.schedules import Made

Ending = Literal["succeeded", "failed"]


@dataclass(frozen=True)
class Call:
    """One request; `at` is when it was begun (seconds since the epoch), `status` None when no answer came."""

    at: float
    seconds: float
    status: int | None
    says_when: bool
    """A 503 with Retry-After."""

    @property
    def is_error(self) -> bool:
        return self.status is None or self.status >= 500


@dataclass(frozen=True)
class SmallJob:
    """A job that the API accepted."""

    number: int
    kind: str
    ending: Ending
    """How it is to end when all promises are kept."""
    part: str
    """The part of the run in which it was asked for."""
    job: str
    at: float


@dataclass(frozen=True)
class Unknown:
    """A job that was asked for once, without an Idempotency-Key, and not confirmed: it is there once, or not at all."""

    number: int
    kind: str
    part: str


@dataclass(frozen=True)
class Upload:
    """A file that the API accepted. Its dataset's name is its own: what is told of it shows by that name."""

    dataset: str
    part: str
    run: str
    at: float


@dataclass(frozen=True)
class Crash:
    """Processes that were ended or frozen; nanoseconds since the epoch."""

    part: str
    at_ns: int
    pids: frozenset[int]
    frozen: bool = False


@dataclass
class Arrivals:
    """What came to the mail sink or the webhook receiver."""

    ids: Counter[str] = field(default_factory=Counter)
    """Message-ID or webhook-id → how often it was taken."""
    datasets: dict[str, str] = field(default_factory=dict)
    """Id → the dataset that it is about."""
    rejected: set[str] = field(default_factory=set)
    """Datasets whose message was refused for good: that it does not arrive is right."""

    def take(self, id: str, dataset: str) -> None:
        self.ids[id] += 1
        self.datasets[id] = dataset

    def about(self, dataset: str) -> list[str]:
        return [id for id, of in list(self.datasets.items()) if of == dataset]


class Record:
    """Written by many threads."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.jobs: list[SmallJob] = []
        self.uploads: list[Upload] = []
        self.refused: list[int] = []
        """Numbers of jobs whose transaction was rolled back."""
        self.unresolved: list[int] = []
        """Numbers of jobs that were given up before any answer said what became of the request."""
        self.unknown: list[Unknown] = []
        self.crowds: list[tuple[str, frozenset[int]]] = []
        """Parts, and numbers of jobs that were asked for at once: messages of several are to come of them."""
        self.things: dict[int, str] = {}
        """Numbers of jobs that are limited, each with the thing that it shares."""
        self.schedules: list[Made] = []
        self.ended = 0
        """Slots of schedules count up to this second since the epoch."""
        self.crashes: list[Crash] = []
        self.silenced: set[str] = set()
        """Parts in which an API process was killed: there, a request may go without any answer."""
        self.mails = Arrivals()
        self.hooks = Arrivals()
        self.part = ""
        self._parts: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._numbers = 0

    def enter(self, part: str) -> None:
        """From now on, what is accepted belongs to this part of the run."""
        self.part = part
        self._parts.append((time.time(), part))

    def part_at(self, at: float) -> str:
        """What falls due before the first part belongs to that."""
        begun = [part for began, part in self._parts if began <= at]
        return begun[-1] if begun else self._parts[0][1]

    def draw(self) -> int:
        """A number of its own for a job."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def crashed(self, pids: Iterable[int], *, frozen: bool = False) -> None:
        self.crashes.append(Crash(self.part, time.time_ns(), frozenset(pids), frozen))

    def calls_between(self, start: float, end: float) -> list[Call]:
        return [call for call in list(self.calls) if start <= call.at < end]
