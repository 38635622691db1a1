"""Named failures. Each carries its facts, its HTTP status and the problem type of RFC 9457."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class MillraceError(Exception):
    """Base of every failure that a person is told about.

    `code` is stable and machine-readable (`noun.reason`), `detail` one sentence for people. Raised in a
    job, it ends the job at once: what is wrong with the input will be wrong on the next attempt too.
    """

    code: ClassVar[str] = "internal.error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts

    def reason(self) -> dict[str, Any]:
        """What jobs, rows and events keep of it."""
        return {"code": self.code, "detail": self.detail, **self.facts}


_IN_JSON = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "Input should be an object"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "Input should be an array"),
    "none_required": "Input should be null",
}
"""What pydantic says in Python's words, by the type of the error."""


def what_is_wrong(errors: Iterable[Mapping[str, Any]], *above: str) -> list[dict[str, str]]:
    """pydantic's errors, each with `where` it is, below `above`, and its `detail`."""
    return [
        {"where": ".".join([*above, *map(str, each["loc"])]), "detail": _IN_JSON.get(each["type"], each["msg"])}
        for each in errors
    ]


class BadRequest(MillraceError):
    code, status, title = "request.invalid", 400, "Bad request"


class Unauthenticated(MillraceError):
    code, status, title = "auth.unauthenticated", 401, "A valid key is needed"


class Forbidden(MillraceError):
    code, status, title = "auth.forbidden", 403, "The key does not allow this"


class NotFound(MillraceError):
    code, status, title = "resource.not_found", 404, "Not found"


class Conflict(MillraceError):
    code, status, title = "resource.conflict", 409, "Conflict"


class TooLarge(MillraceError):
    code, status, title = "request.too_large", 413, "Too large"


class UnsupportedMediaType(MillraceError):
    code, status, title = "request.media_type", 415, "Unsupported media type"


class Unprocessable(MillraceError):
    code, status, title = "request.unprocessable", 422, "Unprocessable"


class KeyReused(MillraceError):
    """draft-ietf-httpapi-idempotency-key-header, section 2.7: same key, another payload."""

    code, status, title = "idempotency.key_reused", 422, "Idempotency key reused for another request"


class Unavailable(MillraceError):
    """Something that is expected to come back; the answer carries Retry-After (`retry_after`, seconds)."""

    code, status, title = "service.unavailable", 503, "Temporarily unavailable"

    def __init__(self, detail: str, retry_after: int = 2, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.retry_after = retry_after


class RetryLater(Exception):
    """Raised in a job: this attempt failed for a passing reason; try again.

    `after` seconds, when the other side named a time (HTTP Retry-After); otherwise the job kind's back-off.
    """

    def __init__(self, detail: str, *, code: str = "attempt.retryable", after: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.after = after


class TimeLimitPassed(RetryLater):
    """Raised in a body that ran longer than its kind may."""

    def __init__(self, detail: str = "It ran past its time limit.") -> None:
        super().__init__(detail, code="attempt.time_limit")


class Snooze(Exception):
    """Raised in a job: not begun for a passing reason of ours; again in `after` seconds, not counted as a try."""

    def __init__(self, detail: str, *, after: float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.after = after


class LeaseLost(Exception):
    """This attempt no longer owns its job: another has begun, or the job has ended. Nothing of it commits."""
