"""Webhooks by Standard Webhooks 1.0, to URLs that users name.

Guarantee: at least once, one `webhook-id` over all retries, by which the receiver drops a second copy.

A user's URL must not become a way into the network the worker runs in (SSRF), so the name is resolved here,
every address is judged before anything is sent to it, and the connection goes to the very address that was
judged: a name that resolves differently the next moment (DNS rebinding) changes nothing. httpx-secure judges
once more at the socket. No redirect is followed, no proxy or .netrc from the environment is used.
"""

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from services.notifications import domain
from services.notifications.adapters.outcomes import (
    RESPONSE_CHARACTERS,
    Delivered,
    Outcome,
    Permanent,
    Retryable,
)

if TYPE_CHECKING:
    import httpx

DEADLINE = 15.0  # seconds for the whole exchange, however slowly the endpoint talks
CONNECT_TIMEOUT = 5.0  # seconds for each address of the host
RESPONSE_TIMEOUT = 2.0  # seconds for the body, which is only kept for the record: the status decides
CLOSING_TIME = 0.5  # seconds kept free before the deadline, so that a slow body cannot void the status
MAX_ADDRESSES = 4  # tried one after the other
RETRYABLE_STATUSES = frozenset((408, 425, 429))  # besides every 5xx
USER_AGENT = "Millrace-Webhooks/1"

T = TypeVar("T")


def send_webhook(
    url: str,
    secret: str,
    webhook_id: str,
    payload: bytes,
    traceparent: str | None = None,
    allowed_networks: Sequence[domain.Network] = (),
    *,
    media_type: str = "application/json",
    deadline: float = DEADLINE,
) -> Outcome:
    """POST `payload`, signed, and say what became of it. Never takes longer than `deadline` seconds.

    2xx is delivered. 408, 425, 429, 5xx, silence and connection errors may be retried, after what
    Retry-After asks for. 410 is permanent and `gone`: the channel should be disabled. Any other status, a
    redirect included, and a URL or an address that may not be reached are permanent.
    """
    try:
        domain.check_webhook_url(url)
    except ValueError as problem:
        return Permanent("invalid_url", str(problem))
    headers = sign(secret, webhook_id, payload, datetime.now(UTC))
    headers |= {"content-type": media_type, "user-agent": USER_AGENT, "accept-encoding": "identity"}
    if traceparent:
        headers["traceparent"] = traceparent
    return _run(_exchange(url, headers, payload, tuple(allowed_networks), deadline))


def sign(secret: str, webhook_id: str, payload: bytes, now: datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks 1.0. `now` is aware; the receiver allows some minutes of drift."""
    from standardwebhooks import Webhook

    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, payload.decode("utf-8")),
    }


def _run(work: Coroutine[object, object, T]) -> T:
    """Run `work` on a loop of its own.

    Unlike asyncio.run, does not wait for the resolver's thread: getaddrinfo cannot be cancelled and may take
    half a minute, which would hold the worker past the deadline.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _exchange(
    url: str, headers: Mapping[str, str], payload: bytes, allowed: tuple[domain.Network, ...], deadline: float
) -> Outcome:
    try:
        async with asyncio.timeout(deadline) as limit:
            return await _send(url, headers, payload, allowed, limit)
    except TimeoutError:
        return Retryable("timed_out", f"the endpoint did not answer within {deadline:g} s")


async def _send(
    url: str,
    headers: Mapping[str, str],
    payload: bytes,
    allowed: tuple[domain.Network, ...],
    limit: asyncio.Timeout,
) -> Outcome:
    import httpx

    try:
        target = httpx.URL(url)
        host = target.raw_host.decode("ascii")
        addresses = await _resolve(host, target.port or (443 if target.scheme == "https" else 80))
    except (httpx.InvalidURL, UnicodeError):
        return Permanent("invalid_url", "the URL's host is not a valid name or address")
    except OSError:
        return Retryable("name_unresolved", "the URL's host could not be resolved")
    # One address that may not be reached condemns the name: an attacker's DNS could mix a public one in. The
    # answer names no address and no connection was tried, so it maps nothing of the inner network.
    if not all(domain.is_reachable(ip_address(address), allowed) for address in addresses):
        return _forbidden()
    outcome: Outcome = Retryable("connection_failed", "the URL's host has no address")
    for address in addresses[:MAX_ADDRESSES]:
        outcome = await _post(target, address, host, headers, payload, allowed, limit)
        if not isinstance(outcome, Retryable) or outcome.code not in ("connection_failed", "connection_refused"):
            break
    return outcome


def _forbidden() -> Permanent:
    return Permanent("destination_forbidden", "the URL's host leads to an address that webhooks may not reach")


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _post(
    target: "httpx.URL",
    address: str,
    host: str,
    headers: Mapping[str, str],
    payload: bytes,
    allowed: tuple[domain.Network, ...],
    limit: asyncio.Timeout,
) -> Outcome:
    """Send to exactly this address; Host and TLS name (and so the certificate check) stay the URL's."""
    import httpx
    from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

    timeout = httpx.Timeout(DEADLINE, connect=CONNECT_TIMEOUT)
    client = httpx_ssrf_protection(
        httpx.AsyncClient(verify=_tls_context(), timeout=timeout, follow_redirects=False, trust_env=False),
        check_globally_reachable=False,  # ours is stricter, and knows the allowed networks
        custom_validator=lambda _host, ip, _port: domain.is_reachable(ip, allowed),
    )
    async with client:
        request = client.build_request(
            "POST",
            target.copy_with(host=address, fragment=None),
            headers={**headers, "host": target.netloc.decode("ascii")},
            content=payload,
            extensions={"sni_hostname": host, "timeout": timeout.as_dict()},
        )
        try:
            response = await client.send(request, stream=True)
        except SSRFProtectionError:
            return _forbidden()
        except httpx.ConnectTimeout:
            return Retryable("connection_failed", "the endpoint's host did not take the connection in time")
        except httpx.TimeoutException:
            return Retryable("timed_out", "the endpoint did not answer in time")
        except httpx.ConnectError as error:
            return _no_connection(error)
        except httpx.HTTPError as error:
            return Retryable("connection_lost", f"no answer from the endpoint: {_reason(error)}")
        try:
            body = await _beginning(response, (limit.when() or 0.0) - CLOSING_TIME)
            return judge(response.status_code, response.headers.get("retry-after"), body)
        finally:
            await response.aclose()


def _no_connection(error: "httpx.ConnectError") -> Retryable:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return Retryable("tls_failed", f"no trusted TLS with the endpoint: {_reason(cause)}")
        if isinstance(cause, ConnectionRefusedError):
            return Retryable("connection_refused", "the endpoint's host refused the connection")
        cause = cause.__cause__ or cause.__context__
    return Retryable("connection_failed", f"no connection to the endpoint: {_reason(error)}")


async def _beginning(response: "httpx.Response", latest: float) -> str:
    """The first characters of the body, read until `latest` on the loop's clock at most. Whatever goes wrong
    here, the status has already decided."""
    import httpx

    body = b""
    until = min(latest, asyncio.get_running_loop().time() + RESPONSE_TIMEOUT)
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout_at(until):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= RESPONSE_CHARACTERS:
                    break
    return domain.printable(body[:RESPONSE_CHARACTERS].decode("utf-8", "replace"), RESPONSE_CHARACTERS)


def judge(status: int, retry_after: str | None, body: str) -> Outcome:
    """What an HTTP status means for a delivery; see `send_webhook`."""
    response = f"{status} {body}".strip()
    if 200 <= status <= 299:
        return Delivered(response)
    if status == 410:
        return Permanent("gone", "the endpoint answered 410 Gone", gone=True, response=response)
    if status in RETRYABLE_STATUSES or status >= 500:
        wait = domain.parse_retry_after(retry_after, datetime.now(UTC))
        return Retryable("http_status", f"the endpoint answered {status}", wait, response)
    if 300 <= status <= 399:
        detail = f"the endpoint answered {status}, a redirect: webhooks follow none"
        return Permanent("redirected", detail, response=response)
    return Permanent("http_status", f"the endpoint answered {status}", response=response)


def _reason(error: BaseException) -> str:
    return domain.redact(domain.one_line(str(error) or type(error).__name__, 300))


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities (SSL_CERT_FILE and SSL_CERT_DIR are honoured) and certifi's: slim
    images have no system store. Made once: it costs some ten milliseconds."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
