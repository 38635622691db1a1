"""What the probe says to itself, and to itself by an event. Its callers name the public kinds."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from shared.contracts.envelope import Event
from shared.ledger.messages import EventArgs, JobArgs, Retry

How = Literal[
    "segfault",
    "oom_killed",
    "memory",
    "error",
    "unpicklable",
    "unspeakable",
    "base",
    "exit",
    "interrupt",
    "huge",
    "unprintable",
    "recursion",
    "group",
    "result",
]


class Numbered(JobArgs):
    """`number` and `sent_ns` are the caller's own; they come back in the records and in the effects."""

    queue: ClassVar[str] = "probe.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=8, base=0.5, cap=5.0)
    public: ClassVar[bool] = True

    number: int = Field(default=0, ge=0, lt=2**63)
    sent_ns: int = Field(default=0, ge=0, lt=2**63)


class Noop(Numbered):
    """Nothing; answers its number."""

    kind: ClassVar[str] = "probe.thing.noop"


class Keyed(Numbered):
    """Nothing; limits may count it by its thing."""

    kind: ClassVar[str] = "probe.thing.keyed"

    thing: str = Field(default="one", pattern=r"^[a-z0-9]{1,20}$")

    def limit_key(self) -> str:
        return f"thing:{self.thing}"


class Write(Numbered):
    """One effect row, in a transaction of the job's own."""

    kind: ClassVar[str] = "probe.thing.write"


class Tick(Numbered):
    """What schedules fire: one effect row, and no record."""

    kind: ClassVar[str] = "probe.thing.tick"


class Tell(Numbered):
    """Nothing, and the event says so. `effect`: its subscriber writes an effect row."""

    kind: ClassVar[str] = "probe.thing.tell"

    effect: bool = False


class Say(Numbered):
    """Nothing, and an event that nobody subscribes to says so."""

    kind: ClassVar[str] = "probe.thing.say"


class Take(Numbered):
    """Takes so many seconds, asleep, then writes one effect row."""

    kind: ClassVar[str] = "probe.thing.take"
    together: ClassVar[int] = 1

    seconds: float = Field(default=1.0, ge=0, le=600)


class Hold(Numbered):
    """Asleep for so many seconds in a transaction that holds its row, then writes one effect row."""

    kind: ClassVar[str] = "probe.thing.hold"
    together: ClassVar[int] = 1

    seconds: float = Field(default=1.0, ge=0, le=600)


class Share(Keyed):
    """Shares its thing, for so many seconds, with as many as the limit lets in; then writes one effect row."""

    kind: ClassVar[str] = "probe.thing.share"
    together: ClassVar[int] = 1

    seconds: float = Field(default=0.3, ge=0, le=600)


class Gather(Numbered):
    """Owes a batch of parts, goes on when all of them have ended, and then writes one effect row."""

    kind: ClassVar[str] = "probe.thing.gather"

    parts: int = Field(default=3, ge=1, le=100)


class Part(JobArgs):
    """One of them: nothing."""

    kind: ClassVar[str] = "probe.thing.part"
    queue: ClassVar[str] = "probe.jobs"
    retry: ClassVar[Retry] = Numbered.retry


class Gathered(Numbered):
    """What Gather goes on as."""

    kind: ClassVar[str] = "probe.thing.gathered"
    public: ClassVar[bool] = False

    batch: UUID


class Misbehave(Numbered):
    """Goes wrong in the way that is asked for, each time; a job that only crashes its process is quarantined."""

    kind: ClassVar[str] = "probe.thing.misbehave"
    retry: ClassVar[Retry] = Retry(max_attempts=2, base=0.2, cap=0.5)

    how: How


class Hang(Numbered):
    """Does not end, whatever its time limit says to it."""

    kind: ClassVar[str] = "probe.thing.hang"
    retry: ClassVar[Retry] = Retry(max_attempts=1, base=0.2, cap=0.5)
    together: ClassVar[int] = 1


class ThingDone(Event):
    type: ClassVar[str] = "probe.thing.done.v1"
    owner: ClassVar[str] = "infra"
    consumers: ClassVar[tuple[str, ...]] = ("probe.thing.note",)

    number: int
    sent_ns: int
    effect: bool = False


class ThingSaid(Event):
    type: ClassVar[str] = "probe.thing.said.v1"
    owner: ClassVar[str] = "infra"
    consumers: ClassVar[tuple[str, ...]] = ()

    number: int


class NoteThing(EventArgs):
    """The subscriber: nothing, or an effect row where the event asks for one."""

    kind: ClassVar[str] = "probe.thing.note"
    queue: ClassVar[str] = "probe.jobs"
