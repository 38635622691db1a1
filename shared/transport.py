"""kombu's Redis transport, with one difference: an entry of a queue that is no message is dropped, and said.

To kombu it is an error that nothing catches: the worker ends. Whoever can write to the broker, by mistake or not,
would end one worker an entry.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis

log = structlog.get_logger(__name__)

SHOWN_CHARACTERS = 300


class Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The reply has been read to its end: the next one can be waited for. What was asked for, if it was
            # a wake-up after all, stands in the ledger and is dispatched again.
            log.error("malformed message dropped", reason=f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS])
            raise Empty from None


class Transport(redis.Transport):
    Channel = Channel


def install() -> None:
    """Use it for `redis://` and `rediss://` in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
