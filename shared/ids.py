"""Time-ordered identifiers (RFC 9562).

Ledger tables are partitioned by id, so every id begins with a time: 48 bits of Unix milliseconds.
A drawn id is a UUIDv7. A derived id is a UUIDv8: the time of its cause followed by a hash of what makes
it unique, so that doing the same thing twice names the same row.
"""

import hashlib
import os
from datetime import UTC, datetime
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VERSION_8 = 0x8 << 76
_VARIANT = 0b10 << 62
_RANDOM = (0xFFF << 64) | ((1 << 62) - 1)
"""The 74 bits of a UUID that neither the time nor version and variant take."""


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def draw(at: datetime | None = None) -> UUID:
    """A new UUIDv7 for the time `at` (aware; default now)."""
    time = _milliseconds(at or datetime.now(UTC)) << 80
    return UUID(int=time | (int.from_bytes(os.urandom(10)) & _RANDOM) | _VERSION_7 | _VARIANT)


def derive(cause: UUID | datetime, *parts: object) -> UUID:
    """The UUIDv8 that `parts` always name: the time of `cause` (an id, or an aware time in whatever zone),
    then SHA-256 over `cause` and `parts`."""
    if isinstance(cause, UUID):
        time = cause.int >> 80 << 80
    else:
        time, cause = _milliseconds(cause) << 80, cause.astimezone(UTC)  # one instant, one name
    name = "\x1f".join(str(part) for part in (cause, *parts)).encode()
    digest = int.from_bytes(hashlib.sha256(name).digest()[:10])
    return UUID(int=time | (digest & _RANDOM) | _VERSION_8 | _VARIANT)


def time_of(identifier: UUID) -> datetime:
    """The time that a drawn or derived id begins with, in UTC, to the millisecond."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def floor(at: datetime) -> UUID:
    """The smallest id of the millisecond `at`: the bound of a partition."""
    return UUID(int=_milliseconds(at) << 80)
