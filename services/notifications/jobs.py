"""What `notifications` says to itself."""

from typing import ClassVar
from uuid import UUID

from shared.ledger.messages import EventArgs, JobArgs, Retry


class MatchEvent(EventArgs):
    """Find the rules that want an event, and owe a delivery to each of their destinations."""

    kind: ClassVar[str] = "notifications.event.match"
    queue: ClassVar[str] = "notifications.jobs"


class RepeatDelivery(JobArgs):
    """Make a delivery that has ended once more, to the same destination, when somebody or a schedule asks; goes on as
    SendMessage."""

    kind: ClassVar[str] = "notifications.delivery.repeat"
    queue: ClassVar[str] = "notifications.jobs"
    public: ClassVar[bool] = True

    delivery_id: UUID


class SendMessage(JobArgs):
    """Bring one message to one destination.

    How often and when a destination is tried again is the delivery's own matter (domain.RETRY_DELAYS). The
    policy here is for what fails on our side: the rest of the attempts.
    """

    kind: ClassVar[str] = "notifications.message.send"
    queue: ClassVar[str] = "notifications.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=25, base=5.0, cap=600.0)
    together: ClassVar[int] = 1

    delivery_id: UUID
    host: str | None = None
    """Of a webhook, with its port: deliveries to one are limited together. Mails have none: all go by one server."""

    def limit_key(self) -> str | None:
        return f"host:{self.host}" if self.host else None
