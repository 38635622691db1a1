"""What the toy service says to itself, and to the others."""

from typing import Any, ClassVar

from shared.contracts.envelope import Event
from shared.ledger.messages import EventArgs, JobArgs, Retry


class Do(JobArgs):
    """Whatever the test's body does with it."""

    kind: ClassVar[str] = "toy.thing.do"
    queue: ClassVar[str] = "toy.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=3, base=0.1, cap=0.4)

    name: str = ""
    value: Any = None


class Asked(JobArgs):
    """Callers may ask for it by name."""

    kind: ClassVar[str] = "toy.thing.asked"
    queue: ClassVar[str] = "toy.jobs"
    public: ClassVar[bool] = True

    count: int
    name: str = ""


class Called(JobArgs):
    """Callers may ask for it by name; what limits count it by is the kind's own affair."""

    kind: ClassVar[str] = "toy.host.called"
    queue: ClassVar[str] = "toy.jobs"
    public: ClassVar[bool] = True

    host: str

    def limit_key(self) -> str:
        return f"host:{self.host}"


class Other(JobArgs):
    kind: ClassVar[str] = "toy.other.do"
    queue: ClassVar[str] = "toy.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=3, base=0.1, cap=0.4)

    name: str = ""


class Brief(JobArgs):
    """A kind with a short time limit."""

    kind: ClassVar[str] = "toy.thing.brief"
    queue: ClassVar[str] = "toy.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=2, base=0.1, cap=0.4)


class ThingDone(Event):
    type: ClassVar[str] = "toy.thing.done.v1"
    owner: ClassVar[str] = "tests"
    consumers: ClassVar[tuple[str, ...]] = ("toy.thing.note",)

    name: str


class Unheard(Event):
    """Nobody subscribes to it."""

    type: ClassVar[str] = "toy.thing.ignored.v1"
    owner: ClassVar[str] = "tests"
    consumers: ClassVar[tuple[str, ...]] = ()

    name: str


class NoteThing(EventArgs):
    kind: ClassVar[str] = "toy.thing.note"
    queue: ClassVar[str] = "toy.jobs"
