"""The stack's TCP ports on the loopback address: a fixed row from a base, or free ones."""

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from infra.local.errors import BadPort, PortTaken

HOST: Final = "127.0.0.1"
DEFAULT_BASE: Final = 8700
# The order is the offset from the base: appending keeps everyone's ports where they are.
NAMES: Final = (
    "api",
    "ingest",
    "reports",
    "notifications",
    "flower",
    "mailbox",
    "smtp",
    "postgres",
    "valkey",
)

Ports = dict[str, int]


def from_base(base: int, chosen: Mapping[str, int] | None = None) -> Ports:
    """Consecutive ports from `base`, with `chosen` ones in their place. Raises BadPort."""
    ports = {name: base + offset for offset, name in enumerate(NAMES)} | dict(chosen or {})
    _refuse_nonsense(ports)
    return ports


def free() -> Ports:
    """Ports that nobody listens on at this moment.

    All are held at once while choosing, so no two are equal; between the choice and the server's bind another
    program may still take one, which the server's own start then reports.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in NAMES]
        for each in sockets:
            each.bind((HOST, 0))
        return dict(zip(NAMES, (each.getsockname()[1] for each in sockets), strict=True))


def check(ports: Mapping[str, int]) -> None:
    """Raises PortTaken, naming the port and its setting, when a port cannot be bound."""
    for name, port in ports.items():
        _bind(name, port)


def url(port: int) -> str:
    """The HTTP address of a port of the stack, without a slash at the end."""
    return f"http://{HOST}:{port}"


def _bind(name: str, port: int) -> None:
    with socket.socket() as attempt:
        # As servers do: a port whose last connections linger in TIME_WAIT is free.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(name, port, _holder(port)) from None
            raise BadPort(f"port {port} ({name}) cannot be used: {error.strerror}") from None


def _holder(port: int) -> str | None:
    """Who listens on the port, as "name (process 123)"; None where the system does not tell."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return None


def _refuse_nonsense(ports: Ports) -> None:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if not 1 <= port <= 65535:
            raise BadPort(f"port {port} ({name}) is not between 1 and 65535")
        if port in seen:
            raise BadPort(f"port {port} is given to both {seen[port]} and {name}")
        seen[port] = name
