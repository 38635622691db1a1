"""The proxy before a server: passes on, refuses, swallows, delays."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from infra.chaos.proxy import Proxy
from infra.local import ports


@pytest.fixture
def echo():
    """A server that says what it hears; answers its port."""
    listener = socket.create_server((ports.HOST, 0))

    def serve(connection):
        with connection, suppress(OSError):
            while heard := connection.recv(1000):
                connection.sendall(heard)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture
def proxy(echo):
    made = Proxy(echo)
    made.start()
    yield made
    made.close()


def connect(proxy, seconds=5.0):
    return socket.create_connection((ports.HOST, proxy.port), seconds)


def said(connection, text):
    connection.sendall(text)
    return connection.recv(1000)


def test_it_passes_on(proxy):
    with connect(proxy) as connection:
        assert said(connection, b"hello") == b"hello"


def test_it_refuses_and_breaks_off(proxy):
    with connect(proxy) as connection:
        assert said(connection, b"hello") == b"hello"
        proxy.refuse()
        assert is_broken_off(connection)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.pass_on()
    with connect(proxy) as connection:
        assert said(connection, b"again") == b"again"


def is_broken_off(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_swallows_and_lets_go_again(proxy):
    proxy.swallow()
    with connect(proxy, 0.3) as connection:
        with pytest.raises(TimeoutError):
            said(connection, b"hello")
        proxy.pass_on()
        connection.settimeout(5)
        assert connection.recv(1000) == b"hello"


def test_it_delays_each_way(proxy):
    proxy.delay(0.1)
    with connect(proxy) as connection:
        began = time.monotonic()
        assert said(connection, b"hello") == b"hello"
        assert time.monotonic() - began >= 0.2
