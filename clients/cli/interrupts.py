"""Ctrl-C, SIGTERM and a closed terminal all mean: stop in order. A second one means: now."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within it the first signal raises KeyboardInterrupt in the main thread, once; later ones call `again`."""

    def __init__(self) -> None:
        self._raised = False
        self._again: Callable[[], None] = lambda: None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def calm(self, again: Callable[[], None]) -> None:
        """From now on no signal raises: stopping has begun, and a signal makes it hurry."""
        self._raised, self._again = True, again

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._raised:
            self._again()
            return
        self._raised = True
        raise KeyboardInterrupt
