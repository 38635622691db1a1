"""A way to a server that can be blocked: what goes by it is held back, or nobody gets in."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Proxy:
    """Forwards TCP connections from a free loopback port."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held = threading.Event()
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.is_shut = False
        """Whether those who come are sent away."""
        self.is_dark = False
        """Whether those who come get no answer."""
        self._threads: list[threading.Thread] = []
        self._begin(self._serve)

    def freeze(self) -> None:
        """The connections that are open stay so, and nothing goes through them any more."""
        self._held.set()
        self._held = threading.Event()

    def drop(self) -> None:
        """End the connections that are open."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.drop()
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_shut:
                near.close()
                continue
            self._open.append(near)
            if self.is_dark:
                continue
            far = socket.create_connection(self._target)
            self._open.append(far)
            for pair in ((near, far), (far, near)):
                self._begin(self._forward, *pair, self._held)

    def _forward(self, source: socket.socket, target: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if held.is_set():
                    continue  # taken, and lost
                target.sendall(data)
            if not held.is_set():
                target.shutdown(socket.SHUT_WR)
