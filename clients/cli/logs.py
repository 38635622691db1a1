"""`millrace logs`: the last lines of a service's processes, merged by time, and what follows."""

import heapq
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from clients.cli.errors import BadInput
from infra.local.state import State

_POLL_SECONDS: Final = 0.2
_TAIL_BYTES: Final = 1_000_000
_SHOWN: Final = ("timestamp", "level", "event", "service", "logger")


@dataclass
class _Log:
    name: str
    file: IO[bytes]

    def lines(self) -> Iterator[str]:
        """Whole lines from here on; half a line waits for its other half."""
        while line := self.file.readline():
            if not line.endswith(b"\n"):
                self.file.seek(-len(line), 1)
                return
            yield line.decode(errors="replace").rstrip()


def logs(folder: Path, service: str, *, lines: int, follow: bool, raw: bool) -> None:
    """`service` names a service (its three processes) or one process. Raises BadInput for an unknown one."""
    found = [_Log(path.stem, open(path, "rb")) for path in _paths(State(folder), service)]  # noqa: SIM115  # until exit
    try:
        last = [_tail(log, lines) for log in found]
        for name, line in heapq.merge(*last, key=lambda entry: _moment(entry[1])):
            print(line if raw else _pretty(name, line))
        while follow:
            for log in found:
                for line in log.lines():
                    print(line if raw else _pretty(log.name, line), flush=True)
            time.sleep(_POLL_SECONDS)
    finally:
        for log in found:
            log.file.close()


def _paths(state: State, service: str) -> list[Path]:
    known = sorted(state.path("logs").glob("*.log"))
    found = [path for path in known if service in (path.stem, path.stem.rpartition("-")[0])]
    if not found:
        names = ", ".join(path.stem for path in known)
        raise BadInput(f"{service} has no log in {state.path('logs')}" + (f"; there are {names}" if names else ""))
    return found


def _tail(log: _Log, count: int) -> list[tuple[str, str]]:
    size = log.file.seek(0, 2)
    log.file.seek(max(0, size - _TAIL_BYTES))
    if size > _TAIL_BYTES:
        log.file.readline()
    whole = list(log.lines())
    return [(log.name, line) for line in whole[len(whole) - min(count, len(whole)) :]]


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the services' JSON logs; None for any other."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None


def _moment(line: str) -> str:
    """What lines are merged by; a line without a time stays where it is among its own."""
    entry = _parsed(line)
    return str(entry.get("timestamp", "")) if entry else ""


def _pretty(name: str, line: str) -> str:
    entry = _parsed(line)
    if entry is None:
        return f"{name}: {line}"
    facts = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _SHOWN and key != "exception")
    head = f"{str(entry.get('timestamp', ''))[11:23]} {name} {entry.get('level', '')}: {entry['event']}"
    said = f"{head}  {facts}" if facts else head
    return f"{said}\n{entry['exception']}" if entry.get("exception") else said
