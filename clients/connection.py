"""The way to a gateway: a key, patience, and answers as JSON or as a problem."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpx2 as httpx

from clients.problems import ProblemError, Unreachable, Unsendable

Json = dict[str, Any]
TRIES: Final = 6
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 10.0
# A GET and an upload under its key may be sent again whatever became of the first; others only when they
# certainly did not arrive.
REPEATABLE: Final = (httpx.TransportError,)
NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)


class Connection:
    """Talks to the gateway at `url` with an API key. Safe to use from one thread at a time.

    Every method raises ProblemError for an answer that is not a success (RFC 9457), Unsendable for what no request can
    hold, and Unreachable when no answer could be had. A 503 and a failed connection are tried again, waiting as
    Retry-After says.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        tries: int = TRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` in seconds for each wait on the network, not for a whole upload."""
        self.unreachable: set[str] = set()
        """Services that the gateway could not ask for a page that was read: what they have is missing in it."""
        self._tries = tries
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
            transport=transport,
            # The key goes to the gateway alone: neither a proxy named in the environment nor another host.
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _get(self, path: str, **query: Any) -> Json:
        wanted = {name: value for name, value in query.items() if value is not None}
        return json_of(self._persist(lambda: self._http.get(path, params=wanted), REPEATABLE))

    def _pages(self, path: str, **query: Any) -> Iterator[Json]:
        """The items of all pages, fetched as they are asked for."""
        while True:
            page = self._get(path, **query)
            self.unreachable.update(page.get("unreachable", ()))
            yield from page["items"]
            if not page.get("next"):
                return
            query["after"] = page["next"]

    def _post(self, path: str, body: Json) -> Json:
        return json_of(self._persist(lambda: self._http.post(path, json=body), NEVER_SENT))

    def _owe(self, path: str, body: Json, key: str | None) -> Json:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return json_of(self._persist(lambda: self._http.post(path, json=body, headers=headers), REPEATABLE))

    def _delete(self, path: str) -> None:
        self._persist(lambda: self._http.delete(path), REPEATABLE)

    def _persist(
        self, send: Callable[[], httpx.Response], repeatable: tuple[type[httpx.TransportError], ...]
    ) -> httpx.Response:
        """Sends until there is an answer other than 503, or the tries are used up."""
        for tries_left in reversed(range(self._tries)):
            try:
                answer = send()
            except httpx.TransportError as error:
                if not tries_left or not isinstance(error, repeatable):
                    raise Unreachable(str(self._http.base_url), error) from error
                self._pause(self._tries - tries_left)
                continue
            except ValueError as error:
                raise Unsendable(f"this cannot be sent: {error}") from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or not tries_left:
                if not answer.is_success:
                    raise ProblemError.of(answer)
                return answer
            self._pause(self._tries - tries_left, answer.headers.get("Retry-After"))
        raise AssertionError("unreachable: the last try returns or raises")

    @staticmethod
    def _pause(tries: int, wanted: str | None = None) -> None:
        """Waits Retry-After's seconds, or longer at each try, spread so that clients do not come in step."""
        seconds = _FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        if wanted and wanted.isdecimal():
            seconds = float(wanted)
        time.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))


def json_of(answer: httpx.Response) -> Json:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ProblemError(answer.status_code, "Not Millrace", f"{answer.url.host} did not answer with JSON")
    return body
