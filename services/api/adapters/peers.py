"""The other services over HTTP: passing requests on, and asking all of them at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import structlog
from opentelemetry import propagate

from shared.errors import Unavailable

log = structlog.get_logger(__name__)

ASK_SECONDS = 5.0
PASS_ON = ("content-type", "content-length", "content-encoding", "idempotency-key", "accept", "range", "if-none-match")
"""Request headers that a service gets; the rest, with all that is hop-by-hop (RFC 9110, 7.6.1), stays here."""
GIVE_BACK_NOT = ("connection", "keep-alive", "transfer-encoding", "server", "date", "www-authenticate")


@dataclass(frozen=True)
class Answer:
    """What a service answered: the headers to give on, and the body as a stream that must be read or closed."""

    status: int
    headers: dict[str, str]
    response: httpx.Response


class Peers:
    """Clients of the other services, one for the process."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = {name: url for name, url in urls.items() if name != "api"}
        # An upload may take long between two reads of the answer: only connecting is bounded there.
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=ASK_SECONDS), limits=_LIMITS)

    async def close(self) -> None:
        await self._client.aclose()

    async def forward(
        self,
        service: str,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        token: str,
        body: AsyncIterator[bytes] | None,
    ) -> Answer:
        """Pass a request on with the caller's token. Raises Unavailable when the service does not answer."""
        passed = {name: headers[name] for name in PASS_ON if name in headers}
        request = self._client.build_request(
            method,
            httpx.URL(self._url(service) + path, query=query.encode()),
            headers={**passed, **_identity(token)},
            content=body,
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise Unavailable(f"The {service} service does not answer; nothing is known to be stored.") from error
        kept = {name: value for name, value in response.headers.items() if name not in GIVE_BACK_NOT}
        return Answer(response.status_code, kept, response)

    async def ask_all(self, path: str, token: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """GET `path` from every other service: their JSON answers by name, and the names of those that failed.

        A 404 is an answer: None.
        """
        names = list(self._urls)
        answers = await asyncio.gather(
            *(self._ask(name, path, token, params) for name in names), return_exceptions=True
        )
        found: dict[str, Any] = {}
        failed: list[str] = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, httpx.HTTPError):
                log.warning("service not asked", peer=name, reason=f"{type(answer).__name__}: {answer}"[:200])
                failed.append(name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = answer
        return found, failed

    async def _ask(self, service: str, path: str, token: str, params: Mapping[str, Any]) -> Any:
        answer = await self._client.get(
            self._url(service) + path, params=dict(params), headers=_identity(token), timeout=ASK_SECONDS
        )
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()

    def _url(self, service: str) -> str:
        try:
            return self._urls[service]
        except KeyError:
            raise Unavailable(f"The {service} service is not set up.", retry_after=60) from None


_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=50)


def _identity(token: str) -> dict[str, str]:
    """The caller's token and the current trace."""
    headers = {"Authorization": f"Bearer {token}"}
    propagate.inject(headers)
    return headers
