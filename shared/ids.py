"""Time-ordered identifiers (RFC 9562).

Ledger tables are partitioned by id, so every id begins with a time: 48 bits of Unix milliseconds.
A drawn id is a UUIDv7. A derived id is a UUIDv8: the time of its cause followed by a hash of what makes
it unique, so that doing the same thing twice names the same row.
"""

import hashlib
import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VERSION_8 = 0x8 << 76
_VARIANT = 0b10 << 62
_RANDOM = (0xFFF << 64) | ((1 << 62) - 1)
"""The 74 bits of a UUID that neither the time nor version and variant take."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_BACKWARDS = 1000 << 74
"""A clock that was set back by more than a second is followed; ids would else keep its error for ever."""


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MILLISECOND


class _Counter:
    """Ids of one process go up also within a millisecond (RFC 9562, section 6.2, method 2): what was stated
    first stays first."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """122 bits: the time, then 74 bits of which the first of a millisecond is random."""
        fresh = time.time_ns() // 1_000_000 << 74 | secrets.randbits(74)
        with self._lock:
            if fresh <= self._last < fresh + _BACKWARDS:
                fresh = self._last + 1 + secrets.randbits(32)
            self._last = fresh
        return fresh


_counter = _Counter()


def _spread(bits: int) -> UUID:
    """A UUIDv7 of the 122 bits that version and variant leave."""
    return UUID(int=bits >> 74 << 80 | _VERSION_7 | (bits >> 62 & 0xFFF) << 64 | _VARIANT | bits & ((1 << 62) - 1))


def draw(at: datetime | None = None) -> UUID:
    """A new UUIDv7 for the time `at` (aware; default now). Those of now follow each other in order."""
    return _spread(_counter.next() if at is None else _milliseconds(at) << 74 | secrets.randbits(74))


def derive(cause: UUID | datetime, *parts: object) -> UUID:
    """The UUIDv8 that `parts` always name: the time of `cause` (an id, or an aware time in whatever zone),
    then SHA-256 over `cause` and `parts`."""
    if isinstance(cause, UUID):
        begun = cause.int >> 80
    else:
        begun, cause = _milliseconds(cause), cause.astimezone(UTC)  # one instant, one name
    name = "\x1f".join(str(part) for part in (cause, *parts)).encode()
    digest = int.from_bytes(hashlib.sha256(name).digest()[:10])
    return UUID(int=begun << 80 | (digest & _RANDOM) | _VERSION_8 | _VARIANT)


def time_of(identifier: UUID) -> datetime:
    """The time that a drawn or derived id begins with, in UTC, to the millisecond."""
    return _EPOCH + (identifier.int >> 80) * _MILLISECOND  # exactly: a float of seconds is not


def floor(at: datetime) -> UUID:
    """The smallest id of the millisecond `at`: the bound of a partition."""
    return UUID(int=_milliseconds(at) << 80)
