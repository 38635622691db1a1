"""Forking a process of several threads: not while one of them holds what the new process needs."""

import os
import threading

FORK_SECONDS = 5.0
"""A fork waits at most so long for a thread."""


class ForkGate:
    """Held while a thread beside the main one is at work: no process is forked meanwhile.

    A fork copies the locks as they are (of an import, of a connection pool), without the thread that would release
    them: the new process would wait for ever. A pool process is replaced just when the lease thread looks for what
    the dead one left, so this is no rare chance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_shut = False
        os.register_at_fork(before=self._shut, after_in_parent=self._open, after_in_child=self._forget)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _shut(self) -> None:
        # Bounded: while PostgreSQL does not answer the thread may be long, and the worker has other things to do.
        self._is_shut = self._lock.acquire(timeout=FORK_SECONDS)

    def _open(self) -> None:
        if self._is_shut:
            self._lock.release()

    def _forget(self) -> None:
        self._lock = threading.Lock()
