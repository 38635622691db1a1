"""Waiting for what another process or thread does: on the condition, never for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02


def until(predicate: Callable[[], T], seconds: float = 10.0) -> T:
    """What `predicate` answers once that is true. Raises AssertionError, with its last answer, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer!r} after {seconds:g} s")
        time.sleep(LOOK_SECONDS)  # between two looks
    return answer
