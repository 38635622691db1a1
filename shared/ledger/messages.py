"""What a service says to itself: typed arguments of a job, apart from the code that runs it."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.contracts.envelope import Envelope, Event

Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]
"""A time that somebody names: with an offset, and of a year that ids, Python and PostgreSQL all can hold."""


class Lane(IntEnum):
    """Priority lanes; the lower number goes first."""

    URGENT = 0
    NORMAL = 5
    BULK = 9

    @classmethod
    def named(cls, name: "LaneName") -> "Lane":
        return cls[name.upper()]


LaneName = Literal["urgent", "normal", "bulk"]


@dataclass(frozen=True)
class Retry:
    """How often and how late a kind is tried again. Times in seconds."""

    max_attempts: int = 8
    base: float = 2.0
    cap: float = 600.0

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after `attempt` (1, 2, …) failed: exponential, with jitter over its upper half."""
        ceiling = min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return ceiling * (rng or random).uniform(0.5, 1.0)


class JobArgs(BaseModel):
    """Arguments of one job kind. Subclasses name the kind (`service.noun.verb`) and the queue that carries it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: ClassVar[str]
    queue: ClassVar[str]
    lane: ClassVar[Lane] = Lane.NORMAL
    retry: ClassVar[Retry] = Retry()
    together: ClassVar[int] = 128
    """At most so many jobs of the kind share a message, and so a process or thread, one after the other."""
    public: ClassVar[bool] = False
    """Whether callers may enqueue the kind by name, and schedules fire it; others are the service's own affair."""

    def limit_key(self) -> str | None:
        """What limits may count this job by, `prefix:name`, beside its queue, kind and workspace: such as
        `host:example.org`, so that one slow destination does not take every slot."""
        return None


class EventArgs(JobArgs):
    """Arguments of a job that an event caused: the event itself, read when the job runs."""

    envelope: Envelope


Subscriptions = dict[type[Event], tuple[type[EventArgs], ...]]
"""Event type → job kinds. An event becomes one job a kind; the foot of a service's `handlers.py`."""
