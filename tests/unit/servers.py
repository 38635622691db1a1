"""Servers for tests, on free loopback ports: SMTP, HTTP that misbehaves, anything over a raw connection."""

import asyncio
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@contextmanager
def smtp_server(handler, *, implicit_tls=None, **options):
    """A real SMTP server on a free loopback port; answers the port."""
    loop = asyncio.new_event_loop()

    async def start():
        return await loop.create_server(
            lambda: SMTP(handler, hostname="test", **options), "127.0.0.1", 0, ssl=implicit_tls
        )

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop():
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def raw_server(talk):
    """A server that runs `talk(connection)` for one connection; answers the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    talk(connection)
                except OSError:
                    return  # the client hung up, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.close()
            thread.join(10)
            assert not thread.is_alive()


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """A server whose every connection is answered by `talk(connection)`, once the request is read."""

    def __init__(self, talk, tls=None, address="127.0.0.1", port=0):
        self.talk, self.tls = talk, tls
        self.requests, self.connections = [], 0
        self.listener = socket.create_server((address, port))
        self.port = self.listener.getsockname()[1]
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._serve)]
        self.threads[0].start()

    def url(self, path="/hook"):
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self):
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self.threads[-1].start()

    def _answer(self, connection):
        with connection:
            try:
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self.requests.append(_read(connection))
                self.talk(connection)
            except OSError:
                return  # the sender hung up
            finally:
                connection.close()


def _read(connection):
    with connection.makefile("rb") as reader:
        line = reader.readline().decode().strip()
        headers = {}
        while (header := reader.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        return Request(line, headers, reader.read(int(headers["content-length"])))


@contextmanager
def endpoint(talk, **options):
    made = Endpoint(talk, **options)
    try:
        yield made
    finally:
        made.close()


def answering(status, *headers, body=b""):
    """Answers every request the same."""
    head = "".join(f"{header}\r\n" for header in (f"HTTP/1.1 {status} Status", *headers, "Connection: close"))
    return lambda connection: connection.sendall(head.encode() + b"\r\n" + body)


def trickling(head, chunk=b"x", pause=0.02):
    """Sends `head`, then a byte now and then for as long as anyone listens."""

    def talk(connection):
        connection.sendall(head)
        connection.settimeout(pause)
        while True:
            connection.sendall(chunk)
            try:
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue

    return talk


def self_signed(path: Path, name: str) -> Path:
    """Writes a PEM file with a self-signed certificate for a host name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
