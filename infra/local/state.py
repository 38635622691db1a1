"""The stack's one folder: data, logs, secrets, and who is running on it.

- `lock`: held (flock) by the running stack, holds its process id
- `stack.json`: ports of the last start; `status.json`: the processes' states, rewritten on each change
- `secrets.json`, `signing-key.pem`, `web-password`: generated once
- `access.json`, `api-key`: the first workspace and its key
- `postgres/`, `valkey/`, `objects/`, `mailbox/`, `logs/`, `sample/`, `tmp/`
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Self

from infra.local.errors import AlreadyRunning, BadState

Json = dict[str, Any]


class State:
    """Paths and small JSON files of one state folder. Making one touches nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder.expanduser()))

    def path(self, *parts: str) -> Path:
        """A path inside the folder."""
        return self.folder.joinpath(*parts)

    def create(self) -> None:
        """Makes the folder and its subfolders. Raises BadState when that is impossible."""
        try:
            for name in ("", "logs", "objects", "valkey", "mailbox", "sample", "tmp"):
                self.path(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadState(f"{self.folder} cannot hold the stack's state: {error.strerror}") from None

    def log(self, process: str) -> Path:
        """The log file of a process."""
        return self.path("logs", f"{process}.log")

    def read(self, name: str) -> Json:
        """A JSON file of the folder; empty when it does not exist. Raises BadState when it is broken."""
        try:
            value = json.loads(self.path(name).read_bytes())
        except FileNotFoundError:
            return {}
        except PermissionError as error:
            raise BadState(f"{error.filename} cannot be read: {error.strerror}") from None
        except ValueError:
            raise BadState(f"{self.path(name)} is damaged: mend it or remove it") from None
        if not isinstance(value, dict):
            raise BadState(f"{self.path(name)} is damaged: mend it or remove it")
        return value

    def write(self, name: str, value: Json, *, durable: bool = True) -> None:
        """Replaces a JSON file in one step, readable by the owner only.

        What is not durable may be gone, or old, after the machine (not the process) crashed.
        """
        write_private(self.path(name), json.dumps(value, indent=2).encode() + b"\n", durable=durable)


class Lock:
    """One running stack a folder. The kernel frees it when the process dies, however it dies."""

    def __init__(self, state: State) -> None:
        self._folder, self._path = state.folder, state.path("lock")
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Raises AlreadyRunning when another process holds the folder."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not self._taken(self._file):
            os.close(self._file)
            raise AlreadyRunning(self._folder, _read_pid(self._path))
        os.ftruncate(self._file, 0)
        os.write(self._file, str(os.getpid()).encode())
        return self

    @staticmethod
    def _taken(file: int) -> bool:
        # A few tries: `holder` takes a shared lock for an instant to look.
        for pause in (0.05, 0.1, 0.2, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if pause:
                    time.sleep(pause)
        return False

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def holder(state: State) -> int | None:
    """The process id of the stack that runs on the folder; None when none does."""
    try:
        file = os.open(state.path("lock"), os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadState(f"{state.path('lock')} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(state.path("lock"))
    finally:
        os.close(file)
    return None


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file with mode 0600 from its first byte, then moves it into place."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        if durable:
            out.flush()
            os.fsync(out.fileno())
    os.replace(draft, path)


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # The holder has taken the lock and not yet written its id.
        return None
