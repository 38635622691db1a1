"""Rules of notifications: pure, so no clock, no network, no randomness and no database."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from urllib.parse import urlsplit

import idna

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# --- which events a rule wants ---------------------------------------------------------------------------

PATTERN = re.compile(r"\*|[a-z][a-z0-9_]*(\.[a-z0-9_]+)*(\.\*)?")
MAX_FILTER_TERMS = 20
Scalar = str | int | float | bool | None


def check_pattern(pattern: str) -> str:
    """Return `pattern`, an event type, a prefix such as `reports.*`, or `*`; ValueError for anything else."""
    if len(pattern) > 200 or not PATTERN.fullmatch(pattern):
        raise ValueError("event type must be exact, a prefix such as 'reports.*', or '*'")
    return pattern


def check_filter(terms: Mapping[str, object]) -> dict[str, Scalar]:
    """Return `terms` when every path is dotted words and every value a JSON scalar; ValueError otherwise."""
    if len(terms) > MAX_FILTER_TERMS:
        raise ValueError(f"a filter has at most {MAX_FILTER_TERMS} terms")
    checked: dict[str, Scalar] = {}
    for path, value in terms.items():
        if not path or len(path) > 200 or not all(path.split(".")):
            raise ValueError(f"filter path {path[:80]!r} must be names joined by dots")
        if value is not None and not isinstance(value, str | int | float | bool):
            raise ValueError(f"filter value of {path!r} must be a string, number, boolean or null")
        if isinstance(value, str) and len(value) > 1000:
            raise ValueError(f"filter value of {path!r} must have at most 1000 characters")
        checked[path] = value
    return checked


def matches_type(pattern: str, event_type: str) -> bool:
    """Whether an event type is the pattern, or lies under the prefix of `prefix.*`; `*` takes every type."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return event_type == pattern


def matches_filter(terms: Mapping[str, Scalar], data: object) -> bool:
    """Whether every path of `terms` exists in the event's data and equals the value there.

    A path is names joined by dots; a whole number indexes a list (`figures.0.label`). Equality is JSON's:
    1 equals 1.0, but neither `true` nor "1". A path that is absent matches nothing, not even null.
    """
    return all(_equal(value, found) for path, value in terms.items() for found in [_lookup(data, path)])


class _Absent:
    """What `_lookup` answers for a path that is not there; equal to no JSON value."""


def _lookup(data: object, path: str) -> object:
    for name in path.split("."):
        if isinstance(data, Mapping) and name in data:
            data = data[name]
        elif isinstance(data, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(data):
            data = data[int(name[:9])]
        else:
            return _Absent
    return data


def _equal(wanted: Scalar, found: object) -> bool:
    return isinstance(wanted, bool) == isinstance(found, bool) and wanted == found


# --- when to try again -----------------------------------------------------------------------------------

# Seconds to wait after the first, second, ... failed attempt: the schedule of Standard Webhooks 1.0, used
# for e-mail too. Ten attempts over three days and four hours; after the last the delivery has failed.
RETRY_DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
MAX_ATTEMPTS = len(RETRY_DELAYS) + 1
MAX_RETRY_AFTER = 86_400.0  # seconds: a destination cannot park a delivery for longer than a day
JITTER = 0.1  # of the delay, added at random so that many deliveries do not return in the same second


def retry_delay(attempt: int, retry_after: float | None, chance: float) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (from 1); None when it was the last.

    `retry_after` is what the destination asked for, in seconds: it lengthens the wait and never shortens it.
    `chance` in [0, 1) picks the jitter.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    delay = RETRY_DELAYS[max(attempt, 1) - 1] * (1 + JITTER * chance)
    return max(delay, min(retry_after or 0.0, MAX_RETRY_AFTER))


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, section 10.2.3) asks for, within [0, MAX_RETRY_AFTER].

    None when the header is absent or is neither a whole number of seconds nor an HTTP-date.
    """
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER)


# --- secrets ---------------------------------------------------------------------------------------------

SECRET_PREFIX = "whsec_"  # noqa: S105 -- what every secret begins with, and no secret
SECRET_BYTES = 32  # Standard Webhooks 1.0 wants 24 to 64
REDACTED = "[redacted]"
_SECRET_LIKE = re.compile(r"whsec_[A-Za-z0-9+/=_-]+")
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


def format_secret(entropy: bytes) -> str:
    """The Standard Webhooks form `whsec_<base64>` of random bytes; ValueError unless there are 24 to 64."""
    if not 24 <= len(entropy) <= 64:
        raise ValueError("a webhook secret has 24 to 64 bytes")
    return SECRET_PREFIX + base64.b64encode(entropy).decode("ascii")


def check_secret(secret: str) -> str:
    """Return a webhook secret in its standard form, ValueError (that never repeats it) when it is not one."""
    try:
        entropy = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        entropy = b""
    if not secret.startswith(SECRET_PREFIX) or not 24 <= len(entropy) <= 64:
        raise ValueError("secret must be 'whsec_' followed by 24 to 64 bytes in base64")
    return format_secret(entropy)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, without anything shaped like a webhook secret or a URL's userinfo."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, REDACTED)
    return _USERINFO.sub(REDACTED + "@", _SECRET_LIKE.sub(REDACTED, text))


def host(url: str | None) -> str | None:
    """Of a webhook's URL the host, and the port if it names one: what hangs, when it hangs, for all URLs there."""
    return urlsplit(url).netloc.lower() if url is not None else None


def redact_url(url: str) -> str:
    """The scheme, host and port of a URL: its path and query often are the secret (as with chat services)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    hidden = "/…" if parts.path.strip("/") or parts.query else parts.path
    return f"{parts.scheme}://{host}{hidden}"


# --- destinations ----------------------------------------------------------------------------------------

_UNICAST = ip_network("2000::/3")
# Inside the ranges called global, but not somebody's host on the internet: protocol assignments (Oracle's
# metadata service is 192.0.0.192), 6to4 relays, 6to4 and Teredo (an IPv4 address in disguise),
# documentation, and the metadata and DNS address that Azure gives every machine.
_NOT_A_HOST: tuple[Network, ...] = tuple(
    ip_network(block)
    for block in (
        "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2001:db8::/32", "2002::/16",
        "3fff::/20",
    )
)  # fmt: skip


def is_reachable(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether a webhook may be sent to `address`: a public unicast host, or inside an allowed network.

    Loopback, private, shared (RFC 6598), link-local (where clouds serve metadata), multicast and reserved
    addresses are refused, as are IPv6 forms that carry an IPv4 address (NAT64, 6to4, Teredo). An
    IPv4-mapped address is judged as the IPv4 address that the system would connect to.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if any(address in network for network in _NOT_A_HOST):
        return False
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def check_webhook_url(url: str) -> str:
    """Return an http or https URL with a host and without userinfo; ValueError (not repeating it) otherwise.

    Where the host leads is checked at each send, against what its name resolves to then.
    """
    problem = "url must be http:// or https:// with a host, at most 2000 characters, without spaces"
    if len(url) > 2000 or not url.isprintable() or " " in url:
        raise ValueError(problem)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(problem) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(problem)
    if "@" in parts.netloc or "\\" in url:
        raise ValueError("url must not carry a user name or password: deliveries are signed instead")
    return url


_LOCAL_PART = re.compile(r"[^\s@\"(),:;<>\[\\\]\x00-\x20\x7f]+")


def check_email_address(address: str) -> str:
    """Return `address` with its domain in ASCII (IDNA 2008); ValueError unless it is one plain addr-spec.

    RFC 5321 lengths hold; quoted local parts, comments, lists and address literals are refused.
    """
    problem = f"{address[:100]!r} is not an e-mail address"
    local, at, domain = address.rpartition("@")
    if not at or len(local.encode("utf-8", "replace")) > 64 or not _LOCAL_PART.fullmatch(local):
        raise ValueError(problem)
    if not local.isprintable() or local.startswith(".") or local.endswith(".") or ".." in local:
        raise ValueError(problem)
    try:
        ascii_domain = idna.encode(domain, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise ValueError(problem) from None
    if not ascii_domain or len(ascii_domain) > 253 or len(local) + 1 + len(ascii_domain) > 254:
        raise ValueError(problem)
    return f"{local}@{ascii_domain}"


# --- text that leaves the house --------------------------------------------------------------------------

# Characters that re-order what a reader sees: 'fdp.exe' must not be shown as 'exe.pdf'.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def one_line(text: str, limit: int) -> str:
    """`text` on one line of at most `limit` characters, fit for a header.

    Control characters, line and paragraph separators become spaces, so no second header can start; lone
    surrogates and characters that re-order text are dropped.
    """
    kept = (" " if _breaks(char) else char for char in text if ord(char) not in _BIDI and not _surrogate(char))
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def printable(text: str, limit: int) -> str:
    """`text` with line breaks and tabs but no other control character, at most `limit` characters.

    PostgreSQL refuses NUL in text, and UTF-8 cannot carry a lone surrogate.
    """
    kept = (char for char in text if char in "\n\t" or not (_breaks(char) or _surrogate(char)))
    return "".join(kept)[:limit]


def file_name(name: str, limit: int = 120) -> str:
    """`name` as a plain file name: no directory, nothing that a shell or a mail reader trips over."""
    plain = one_line(re.sub(r'[/\\:*?"<>|]', "_", name), limit).strip(". ")
    return plain or "attachment"


def _breaks(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code < 0xA0 or code in (0x2028, 0x2029)


def _surrogate(char: str) -> bool:
    return 0xD800 <= ord(char) < 0xE000
