"""What can go wrong when talking to Millrace."""

from typing import Any

import httpx2 as httpx


class ProblemError(Exception):
    """The API's own words for a request that it did not fulfil (RFC 9457)."""

    def __init__(
        self, status: int, title: str, detail: str = "", code: str = "", facts: dict[str, Any] | None = None
    ) -> None:
        self.status, self.title, self.detail, self.code = status, title, detail, code
        self.facts = facts or {}
        super().__init__(detail or title)

    @classmethod
    def of(cls, answer: httpx.Response) -> "ProblemError":
        """From an answer that is not a success; one that is no problem document gets its status as title."""
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = {}
        known = ("status", "title", "detail", "code", "type")
        return cls(
            answer.status_code,
            str(body.get("title") or f"{answer.status_code} {answer.reason_phrase}".strip()),
            str(body.get("detail") or ""),
            str(body.get("code") or ""),
            {name: value for name, value in body.items() if name not in known},
        )

    @property
    def is_callers(self) -> bool:
        """Whether the request was at fault: sending it again will not help."""
        return 400 <= self.status < 500


class Unsendable(ValueError):
    """What was given cannot be put into a request: NaN and infinity are no JSON, half a character is no text."""


class Unreachable(Exception):
    """No answer could be had."""

    def __init__(self, url: str, error: Exception) -> None:
        self.url = url
        super().__init__(f"{url} does not answer: {error}")
