"""What a worker's pool works on at this moment, and the way to stop it.

Each pool process, or thread, has a seat: a few bytes of memory that the worker's processes share. It writes there which
attempt's body it runs; the worker's main process reads it. So what is stopped is the very body that is meant, whatever
other jobs its message carries, and also when it never lets another thread of its process run.
"""

import ctypes
import itertools
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

SEATS = 256
"""Who comes when all are taken works without one, and is never stopped."""
_SEAT = struct.Struct("<QQQ16s")
_EMPTY = bytes(_SEAT.size)


@dataclass(frozen=True)
class Seat:
    """Who sits there, and the attempt that runs."""

    number: int
    pid: int
    thread: int
    job: UUID
    attempt: int

    @property
    def is_thread(self) -> bool:
        """Of this very process: it can be told, not killed."""
        return self.pid == os.getpid()


class Bench:
    """Made before the pool forks: all of its processes share it."""

    def __init__(self, seat_number: Callable[[], int] | None = None) -> None:
        """`seat_number`: which seat is the calling process's; by default each thread takes the next."""
        self._memory = mmap.mmap(-1, SEATS * _SEAT.size)
        self._seat_number = seat_number or itertools.count().__next__
        self._local = threading.local()
        self._aimed_at = -1

    @contextmanager
    def working_on(self, job: UUID, attempt: int) -> Iterator[None]:
        """Sit while the block runs. In a thread it may be left by an exception that `interrupt` raised in it, at the
        latest at its end: nothing is raised in the thread after that."""
        number = self._number()
        if number >= SEATS:
            yield
            return
        self._write(number, _SEAT.pack(os.getpid(), threading.get_ident(), attempt, job.bytes))
        try:
            yield
        finally:
            try:
                self._write(number, _EMPTY)
            finally:  # again, should it be interrupted just there: whoever is aimed at once is not so soon again
                self._write(number, _EMPTY)
                while self._aimed_at == number:
                    time.sleep(0.001)

    def seats(self) -> list[Seat]:
        """Those that are taken."""
        found = []
        for number in range(SEATS):
            pid, thread, attempt, job = _SEAT.unpack_from(self._memory, number * _SEAT.size)
            if pid:
                found.append(Seat(number, pid, thread, UUID(bytes=job), attempt))
        return found

    def clear(self, seat: Seat) -> None:
        """Of one who was killed there."""
        self._write(seat.number, _EMPTY)

    def interrupt(self, seat: Seat, error: type[BaseException]) -> None:
        """Raise `error` in the thread, if it is at the same attempt still. It comes between two steps of Python: a call
        into C that waits is seen to its end before."""
        self._aimed_at = seat.number
        try:
            if seat in self.seats():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(seat.thread), ctypes.py_object(error))
        finally:
            self._aimed_at = -1

    def _number(self) -> int:
        number: int | None = getattr(self._local, "number", None)
        if number is None:
            number = self._local.number = self._seat_number()
        return number

    def _write(self, number: int, seat: bytes) -> None:
        self._memory[number * _SEAT.size : (number + 1) * _SEAT.size] = seat
