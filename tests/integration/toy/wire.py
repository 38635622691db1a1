"""A broker in memory, first in, first out, that a test can look into, empty and take away."""

from collections import defaultdict, deque
from dataclasses import dataclass
from uuid import UUID

from shared.contracts.envelope import Envelope


class Away(Exception):
    """As a broker's own errors: of no class that the dispatcher knows."""


@dataclass
class Message:
    kind: str
    jobs: list[UUID]


class Wire:
    def __init__(self) -> None:
        self.queues: defaultdict[str, deque[Message]] = defaultdict(deque)
        self.sent: list[Message] = []
        self.events: list[list[Envelope]] = []
        self.away = False
        self.away_after: int | None = None
        """So many more events are taken, then the broker is away."""

    def send_jobs(self, kind: str, queue: str, jobs: list[UUID]) -> None:
        self._answer()
        message = Message(kind, jobs)
        self.sent.append(message)
        self.queues[queue].append(message)

    def send_events(self, events: list[Envelope]) -> None:
        self._answer()
        self.events.append(events)
        if self.away_after is not None:
            self.away_after -= 1
            self.away = self.away_after <= 0

    def depth(self, queue: str) -> int:
        self._answer()
        return len(self.queues[queue])

    def close(self) -> None:
        """As the real one's: the next call connects again."""

    def jobs(self) -> list[UUID]:
        """All that was ever sent, in order."""
        return [job for message in self.sent for job in message.jobs]

    def _answer(self) -> None:
        if self.away:
            raise Away


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
