"""What bodies did, written by themselves: one record a deed, in a file that outlives `kill -9` of the writer.

A record is one O_APPEND write of 32 bytes, so that writers in any number of processes need no lock, and a body
that writes one (1 to 2 µs) is still close to doing nothing.
"""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FORMAT: Final = struct.Struct("<cxxxiqqq")
"""Deed, process id, number, the caller's time stamp, now; times in nanoseconds since the epoch."""

RAN: Final = b"N"
STARTED: Final = b"S"
FINISHED: Final = b"F"
HEARD: Final = b"E"
"""An event's subscriber ran."""
ENTERED: Final = b"I"
"""What is limited begins; it ends with LEFT, however that comes about."""
LEFT: Final = b"O"


@dataclass(frozen=True)
class Record:
    deed: bytes
    pid: int
    number: int
    sent_ns: int
    at_ns: int


class Writer:
    """Appends to a file that is opened at the first record; a fork may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def write(self, deed: bytes, number: int, sent_ns: int) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(self._file, FORMAT.pack(deed, os.getpid(), number, sent_ns, time.time_ns()))


class Reader:
    """Reads what was written since it was made, or since `rewind`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self._start = 0
        self.rewind()

    def rewind(self) -> None:
        self._start = self._path.stat().st_size

    def count(self) -> int:
        return (self._path.stat().st_size - self._start) // FORMAT.size

    def records(self) -> Iterator[Record]:
        with open(self._path, "rb") as file:
            file.seek(self._start)
            while len(part := file.read(FORMAT.size)) == FORMAT.size:
                yield Record(*FORMAT.unpack(part))
