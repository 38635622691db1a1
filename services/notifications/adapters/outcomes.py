"""What became of one attempt to deliver: every adapter answers one of these three and raises nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

RESPONSE_CHARACTERS = 1024  # how much of a destination's answer is kept for the record


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination took the message. `response` is what it said."""

    response: str = ""
    # E-mail to several recipients: address -> the server's refusal, for those it did not take.
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retryable:
    """Not delivered, may succeed later. `retry_after`: seconds that the destination asked to wait."""

    code: str
    detail: str
    retry_after: float | None = None
    response: str = ""


@dataclass(frozen=True, slots=True)
class Permanent:
    """Not delivered and never will be. `gone`: nothing must be sent to this destination again."""

    code: str
    detail: str
    gone: bool = False
    response: str = ""


Outcome = Delivered | Retryable | Permanent
