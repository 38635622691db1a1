"""Which stack a command talks to: the state folder's, or any gateway by MILLRACE_URL and MILLRACE_KEY."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clients.cli.errors import BadInput
from clients.cli.mailbox import Mailbox
from clients.client import Client
from infra.local import ports, secrets
from infra.local.errors import BadState, NotRunning
from infra.local.ports import Ports
from infra.local.state import State, holder

Json = dict[str, Any]


def default_folder() -> Path:
    """`.millrace` in the checkout that this command was installed from, else in the working directory."""
    root = Path(__file__).parents[2]
    return (root if (root / "pyproject.toml").exists() else Path.cwd()) / ".millrace"


@dataclass(frozen=True)
class Place:
    """A state folder whose stack is running."""

    state: State

    @classmethod
    def running(cls, folder: Path) -> "Place":
        """Raises NotRunning."""
        state = State(folder)
        if holder(state) is None:
            raise NotRunning(state.folder)
        return cls(state)

    @property
    def ports(self) -> Ports:
        chosen = self.state.read("stack.json").get("ports")
        if not isinstance(chosen, dict):
            raise BadState(f"{self.state.path('stack.json')} names no ports: start the stack again")
        return {str(name): int(port) for name, port in chosen.items()}

    @property
    def url(self) -> str:
        return ports.url(self.ports["api"])

    @property
    def access(self) -> Json:
        """The first workspace's key and what was set up. Raises BadState before the set-up is done."""
        access = self.state.read("access.json")
        if "key" not in access:
            raise BadState("the stack is still being set up: try again in a moment")
        return access

    def client(self) -> Client:
        """The first workspace's client."""
        return Client(self.url, self.access["key"])

    def mailbox(self) -> Mailbox:
        kept = secrets.load(self.state)
        return Mailbox(ports.url(self.ports["mailbox"]), kept.passwords["web"])


def client(folder: Path) -> Client:
    """A client of the gateway that the environment names, else of the folder's running stack."""
    return _named() or Place.running(folder).client()


def operator(folder: Path) -> Client:
    """The same with the operator's key; in the environment MILLRACE_KEY has to be one."""
    if named := _named():
        return named
    place = Place.running(folder)
    return Client(place.url, secrets.load(place.state).keys["operator"])


def _named() -> Client | None:
    """Of the gateway that the environment names. Raises BadInput for half of it: another stack is not meant."""
    url, key = os.environ.get("MILLRACE_URL", ""), os.environ.get("MILLRACE_KEY", "")
    if not url and not key:
        return None
    if not url or not key:
        there, missing = ("MILLRACE_URL", "MILLRACE_KEY") if url else ("MILLRACE_KEY", "MILLRACE_URL")
        raise BadInput(f"{there} is set without {missing}: set both, or neither for the stack of this folder")
    if not _is_address(url):
        raise BadInput(f"MILLRACE_URL {url!r} is no address such as http://127.0.0.1:8700")
    if not (key.isascii() and key.isprintable()):
        raise BadInput("MILLRACE_KEY is no key: it has characters that none has")
    return Client(url, key)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
