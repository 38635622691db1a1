"""What a supervised process is: its command, what it waits for, how it is known to be ready, how it ends."""

import enum
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MARK: Final = "MILLRACE_STACK"
"""Environment variable that every process of a stack carries, to find those that a crash left running."""


class Status(enum.StrEnum):
    """waiting -> starting -> ready -> stopping -> stopped; starting, ready -> restarting -> starting."""

    WAITING = "waiting"
    """Held back until the processes it comes after are ready."""
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """Ended by itself; started again after a pause."""
    DONE = "done"
    """A step that ran to its end with exit code 0."""
    FAILED = "failed"
    """Could not be brought up; it is not tried again."""
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def holds(self) -> bool:
        """Whether what comes after it may go ahead."""
        return self in (Status.READY, Status.DONE)


@dataclass(frozen=True)
class User:
    """Another system user to run a process as (PostgreSQL refuses to run as root)."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Running:
    """What a probe may look at: the process, and its log from where this start began to write (bytes)."""

    pid: int
    log: Path
    log_start: int


Probe = Callable[[Running], bool]
"""Says whether the process serves. It must answer within a second and not raise."""


@dataclass(frozen=True)
class Process:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The whole of its environment: nothing is inherited but the mark."""
    after: tuple[str, ...] = ()
    """Names of the processes that must be ready before it starts; they are stopped after it."""
    ready: Probe | None = None
    """None: ready as soon as it runs."""
    ready_seconds: float = 60.0
    """Not ready after so long since its start: it is killed and counts as crashed."""
    prepare: Callable[[], None] | None = None
    """Runs before each start; may raise StackError."""
    step: bool = False
    """Runs to its end once; exit code 0 is its readiness."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    """So long after the stop signal, its whole process group is killed."""
    user: User | None = None
    directory: Path | None = None


@dataclass(frozen=True)
class View:
    """How a process stands at a moment; times are seconds since the epoch (UTC)."""

    name: str
    status: Status
    pid: int | None
    restarts: int
    reason: str | None
    """Why it ended or failed the last time; None when it never did."""
    since: float
    """When it entered this state."""
    started_seconds: float | None
    """How long its last start took until it was ready."""
