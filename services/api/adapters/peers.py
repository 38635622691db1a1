"""The other services over HTTP: passing requests on, and asking all of them at once."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import structlog
from opentelemetry import propagate

from shared.errors import Unavailable
from shared.http.streams import MOST_STREAMS

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a service is waited for, in seconds."""

    connect: float = 5.0
    """For a connection, a free one of ours included."""
    read: float = 120.0
    """For the next piece of the answer; its first comes after the whole upload was worked through."""
    write: float = 60.0
    """For a piece of the request to be taken."""
    ask: float = 5.0
    """For the whole answer to a question of ours."""
    silence: float = 60.0
    """For the next piece of an event stream, which says something more often."""


PASSED_ON, ASKED, FOLLOWED = 100, 20, MOST_STREAMS
"""Connections to each service, for requests passed on, for questions of ours and for event streams. Every service has
its own, so that one that hangs takes nothing from the others."""
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
    """The process' clients of the other services."""

    def __init__(self, urls: Mapping[str, str], patience: Patience = Patience()) -> None:
        self._urls = {name: url for name, url in urls.items() if name != "api"}
        self._patience = patience
        passing = httpx.Timeout(
            connect=patience.connect, pool=patience.connect, read=patience.read, write=patience.write
        )
        tls = httpx.create_ssl_context()  # takes 20 ms to make: one for all
        self._passing = {name: _client(passing, PASSED_ON, tls) for name in self._urls}
        following = httpx.Timeout(connect=patience.connect, pool=patience.connect, read=patience.silence, write=5.0)
        self._following = {name: _client(following, FOLLOWED, tls) for name in self._urls}
        self._asking = {name: _client(httpx.Timeout(patience.ask), ASKED, tls) for name in self._urls}

    async def close(self) -> None:
        for client in (*self._passing.values(), *self._asking.values(), *self._following.values()):
            await client.aclose()

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
        """Pass a request on with the caller's token; `path` is percent-encoded already.

        Raises Unavailable when the service does not answer in time.
        """
        passed = {name: headers[name] for name in PASS_ON if name in headers}
        url = httpx.URL(self._url(service) + path, query=query.encode())
        client = self._passing[service]
        request = client.build_request(method, url, headers={**passed, **_identity(token)}, content=body)
        try:
            return await self._opened(client, request)
        except httpx.TransportError as error:
            raise not_answered(service) from error

    async def follow(self, service: str, path: str, token: str, params: Mapping[str, Any]) -> Answer:
        """An event stream of the service. Raises Unavailable when it does not answer in time."""
        client = self._following[service]
        request = client.build_request("GET", self._url(service) + path, params=dict(params), headers=_identity(token))
        try:
            return await self._opened(client, request)
        except httpx.TransportError as error:
            raise Unavailable(f"The {service} service does not answer.") from error

    async def _opened(self, client: httpx.AsyncClient, request: httpx.Request) -> Answer:
        response = await client.send(request, stream=True)
        kept = {name: value for name, value in response.headers.items() if name not in GIVE_BACK_NOT}
        return Answer(response.status_code, kept, response)

    async def ask_all(self, path: str, token: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """GET `path` from every other service: their JSON answers by name, and the names of those that failed.

        A 404 is an answer: None.
        """
        return await self._gather({name: self._ask(name, path, token, params) for name in self._urls})

    async def tell_all(self, path: str, token: str, body: Any) -> tuple[dict[str, tuple[int, Any]], list[str]]:
        """POST `body` to `path` of every other service: status and JSON answer by name, and the names of those that
        did not answer, of which it is not known what they did."""
        return await self._gather({name: self._tell(name, path, token, body) for name in self._urls})

    async def _gather(self, asked: Mapping[str, Awaitable[Any]]) -> tuple[dict[str, Any], list[str]]:
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        found: dict[str, Any] = {}
        failed: list[str] = []
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, httpx.HTTPError | TimeoutError | ValueError):  # the last: it answers no JSON
                log.warning("service not asked", peer=name, reason=f"{type(answer).__name__}: {answer}"[:200])
                failed.append(name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = answer
        return found, failed

    async def _ask(self, service: str, path: str, token: str, params: Mapping[str, Any]) -> Any:
        async with asyncio.timeout(self._patience.ask):
            answer = await self._asking[service].get(
                self._url(service) + path, params=dict(params), headers=_identity(token)
            )
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()

    async def _tell(self, service: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        """Waits as long as for a request that is passed on: it may move many rows."""
        answer = await self._passing[service].post(self._url(service) + path, json=body, headers=_identity(token))
        if answer.status_code >= 500:
            answer.raise_for_status()
        return answer.status_code, answer.json()

    def _url(self, service: str) -> str:
        try:
            return self._urls[service]
        except KeyError:
            raise Unavailable(f"The {service} service is not set up.", retry_after=60) from None


def _client(timeout: httpx.Timeout, connections: int, tls: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections // 2)
    return httpx.AsyncClient(timeout=timeout, limits=limits, verify=tls)


def not_answered(service: str, *, takes_key: bool = True) -> Unavailable:
    """The problem of a request that was passed on and perhaps carried out; some take no Idempotency-Key."""
    what = ": repeat it with the same Idempotency-Key" if takes_key else ""
    return Unavailable(f"The {service} service does not answer. It is not known whether the request took effect{what}.")


def _identity(token: str) -> dict[str, str]:
    """The caller's token and the current trace."""
    headers = {"Authorization": f"Bearer {token}"}
    propagate.inject(headers)
    return headers
