"""Failures that `notifications` names."""

from typing import Any

from shared.errors import Conflict, MillraceError, Unprocessable


class NameTaken(Conflict):
    code, title = "name.taken", "The name is taken"


class ChannelUnknown(Unprocessable):
    code, title = "channel.unknown", "Unknown channel"


class EventTypeUnknown(Unprocessable):
    """The rule would never fire: no event that the service hears of has such a type."""

    code, title = "rule.event_type_unknown", "Unknown event type"


class TooMany(Conflict):
    code, title = "workspace.full", "The workspace has as many as it may"


class ChannelGone(MillraceError):
    """The channel was deleted, or disabled, after the message was made."""

    code = "channel.gone"


class DeliveryUnderWay(Conflict):
    """Another one beside it would be a second mail."""

    code, title = "delivery.under_way", "The delivery is under way"


class DeliveryRefused(MillraceError):
    """The destination will not take the message, now or later. `kind` becomes part of the code."""

    code = "delivery.refused"

    def __init__(self, kind: str, detail: str, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.kind = kind

    def reason(self) -> dict[str, Any]:
        return {**super().reason(), "code": f"delivery.{self.kind}"}


class DeliveryExhausted(MillraceError):
    """Every attempt that the retry schedule has was made."""

    code = "delivery.exhausted"
