"""What arrived, as plain files: they survive a restart and can be read with any tool.

- `messages/<id>.eml`: each mail as it came, below the headers that its delivery added
- `hooks/<name>/secret`: the secret of a webhook receiver, mode 0600
- `hooks/<name>/<id>.json`: each request to it

An id is the time of arrival in nanoseconds since 1970 and some random digits: names sort by time.
"""

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

from infra.local.state import write_private

ID = re.compile(r"[0-9]{19}-[0-9a-f]{8}")
HOOK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_ARRIVALS = 500  # kept a hook; the oldest go first
_NOT_PLAIN = re.compile(r"[^\x21-\x7e]")


class NotFound(Exception):
    """No message, hook or arrival has that id."""


@dataclass(frozen=True)
class Arrival:
    """A request to a webhook receiver."""

    id: str
    hook: str
    received_at: str
    verified: bool
    problem: str | None
    """Why the signature was not accepted."""
    headers: Mapping[str, str]
    body: str


def new_id() -> str:
    return f"{time.time_ns():019d}-{secrets.token_hex(4)}"


def received_at(entry: str) -> datetime:
    """When the entry with this id arrived, in UTC."""
    return datetime.fromtimestamp(int(entry[:19]) / 1e9, UTC)


class Messages:
    """Mail, kept for ever: remove the folder to forget it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "messages"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, sender: str, recipients: list[str], content: bytes) -> str:
        """Keeps a message and returns its id; once this returns, the message is on disk."""
        entry = new_id()
        envelope = [f"Return-Path: <{_plain(sender)}>"]
        envelope += [f"Delivered-To: {_plain(recipient)}" for recipient in recipients]
        envelope.append(f"Received: by mailbox id {entry}; {formatdate(int(entry[:19]) / 1e9)}")
        head = "".join(f"{line}\r\n" for line in envelope).encode("ascii")
        write_private(self.directory / f"{entry}.eml", head + content)
        return entry

    def ids(self) -> list[str]:
        """All ids, newest first."""
        return _entries(self.directory, ".eml")

    def read(self, entry: str) -> bytes:
        """The message as it is kept. Raises NotFound."""
        return _read(self.directory, entry, ".eml")


class Hooks:
    """Webhook receivers: a secret each, and what arrived."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "hooks"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """The receivers that have a secret."""
        return sorted(path.parent.name for path in self.directory.glob("*/secret"))

    def set_secret(self, name: str, secret: str) -> None:
        """Creates a receiver or gives it another secret. Raises NotFound for a name that cannot be one."""
        folder = self._folder(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(folder / "secret", secret.encode())

    def secret(self, name: str) -> str:
        """Raises NotFound when no secret was set."""
        try:
            return (self._folder(name) / "secret").read_text()
        except FileNotFoundError:
            raise NotFound(f"no hook {name}") from None

    def add(self, name: str, headers: Mapping[str, str], body: str, problem: str | None) -> Arrival:
        """Keeps a request; `problem` is why its signature was not accepted."""
        entry = new_id()
        arrival = Arrival(entry, name, received_at(entry).isoformat(), problem is None, problem, dict(headers), body)
        folder = self._folder(name)
        write_private(folder / f"{entry}.json", json.dumps(asdict(arrival)).encode())
        for old in _entries(folder, ".json")[MAX_ARRIVALS:]:
            (folder / f"{old}.json").unlink(missing_ok=True)
        return arrival

    def ids(self, name: str) -> list[str]:
        """The ids of a receiver's requests, newest first. Raises NotFound."""
        self.secret(name)
        return _entries(self._folder(name), ".json")

    def get(self, name: str, entry: str) -> Arrival:
        """Raises NotFound."""
        return Arrival(**json.loads(_read(self._folder(name), entry, ".json")))

    def _folder(self, name: str) -> Path:
        if not HOOK_NAME.fullmatch(name):
            raise NotFound("a hook's name is lower-case letters, digits, - and _, at most 63")
        return self.directory / name


def _entries(folder: Path, suffix: str) -> list[str]:
    names = (path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    return sorted(filter(ID.fullmatch, names), reverse=True)


def _read(folder: Path, entry: str, suffix: str) -> bytes:
    # The pattern keeps a hostile id from being a path.
    if not ID.fullmatch(entry):
        raise NotFound("no such id")
    try:
        return (folder / f"{entry}{suffix}").read_bytes()
    except FileNotFoundError:
        raise NotFound("no such id") from None


def _plain(address: str) -> str:
    """An envelope address for a header: printable ASCII only, so it can start no other header."""
    return _NOT_PLAIN.sub("?", address)[:320]
