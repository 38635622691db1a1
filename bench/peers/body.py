"""What every job does: one record, by the very code that Millrace's own job uses."""

import os
from functools import cache
from pathlib import Path

from infra.probe.record import RAN, Writer


@cache
def _writer() -> Writer:
    return Writer(Path(os.environ["PROBE_RECORD_FILE"]))


def noop(number: int, sent_ns: int) -> None:
    _writer().write(RAN, number, sent_ns)


async def async_noop(number: int, sent_ns: int) -> None:
    noop(number, sent_ns)
