"""What takes too long is noticed beside it: by one lasting thread, as a timer for each message would cost a fifth of
the time of short jobs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

LOOK_SECONDS = 0.1

T = TypeVar("T")


class Patience(Generic[T]):
    """Calls `lose` with what has been watched for `seconds`, once, LOOK_SECONDS late at the most."""

    def __init__(self, lose: Callable[[T], None], seconds: float) -> None:
        self._lose = lose
        self._seconds = seconds
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[float, T]] = {}
        self._is_watching = threading.Event()
        self._pause = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, what: T) -> Iterator[None]:
        """Watch it inside the block. When the block is left, `lose` is not called any more and not under way."""
        with self._lock:
            self._watched[id(what)] = time.monotonic(), what
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
                self._thread.start()
        self._is_watching.set()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(id(what), None)

    def _run(self) -> None:
        while True:
            self._is_watching.wait()
            with self._lock:
                self._look()
            self._pause.wait(LOOK_SECONDS)

    def _look(self) -> None:
        late = time.monotonic() - self._seconds
        for key, (since, what) in list(self._watched.items()):
            if since <= late:
                del self._watched[key]
                self._lose(what)
        if not self._watched:
            self._is_watching.clear()
