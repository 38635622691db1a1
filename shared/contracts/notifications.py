"""Events that `notifications` publishes."""

from typing import ClassVar
from uuid import UUID

from shared.contracts.envelope import Event, Reason


class MessageDelivered(Event):
    """The channel's far end accepted a message."""

    type: ClassVar[str] = "notifications.message.delivered.v1"
    owner: ClassVar[str] = "notifications"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record",)

    message_id: UUID
    delivery_id: UUID
    channel: str
    channel_kind: str
    attempts: int
    event_id: UUID


class MessageFailed(Event):
    """A message will not be delivered on this channel."""

    type: ClassVar[str] = "notifications.message.failed.v1"
    owner: ClassVar[str] = "notifications"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record",)

    message_id: UUID
    delivery_id: UUID
    channel: str
    channel_kind: str
    attempts: int
    event_id: UUID
    reason: Reason
