"""The embedded mailbox, asked what really arrived: the witness that is not the system's own word."""

from types import TracebackType
from typing import Any, Final, Self

import httpx2 as httpx

from clients.problems import ProblemError, Unreachable

Json = dict[str, Any]
HOOK: Final = "demo"


class Mailbox:
    """Reads mail and webhooks that arrived. Raises ProblemError and Unreachable as the client does."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, auth=("millrace", key), timeout=10.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def hook_url(self) -> str:
        """Where the receiver of the demo's webhooks listens."""
        return f"{self.url}/hooks/{HOOK}"

    def set_hook_secret(self, secret: str) -> None:
        """Lets the receiver verify signatures that were made with this secret."""
        self._ask("PUT", f"/hooks/{HOOK}", json={"secret": secret})

    def mails(self) -> list[Json]:
        """The newest first: message_id, recipients, subject, attachments."""
        mails: list[Json] = self._ask("GET", "/messages").json()
        return mails

    def hooks(self) -> list[Json]:
        """What the receiver got, the newest first: headers, body, and whether the signature was right."""
        arrivals: list[Json] = self._ask("GET", f"/hooks/{HOOK}").json()
        return arrivals

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(self.url, error) from error
        if not answer.is_success:
            raise ProblemError.of(answer)
        return answer
