"""Webhooks against real endpoints on the loopback address, well-behaved and not."""

import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address, ip_network

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.notifications import domain
from services.notifications.adapters import webhook
from services.notifications.adapters.outcomes import Delivered, Permanent, Retryable
from services.notifications.adapters.webhook import send_webhook
from tests.unit.servers import answering, endpoint, self_signed, trickling

SECRET = domain.format_secret(b"k" * 32)
LOOPBACK = (ip_network("127.0.0.1/32"),)
PAYLOAD = json.dumps({"type": "reports.report.rendered.v1", "data": {"title": "Grüße"}}, ensure_ascii=False).encode()
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def send(url, **options):
    return send_webhook(url, SECRET, "msg_1", PAYLOAD, TRACEPARENT, LOOPBACK, **options)


# --- what is sent


def test_a_webhook_arrives_signed_and_traced():
    with endpoint(answering(204)) as there:
        outcome = send(there.url("/hook?team=a%20b"), media_type="application/cloudevents+json")
    assert outcome == Delivered("204")
    (request,) = there.requests
    assert request.line == "POST /hook?team=a%20b HTTP/1.1"
    assert request.body == PAYLOAD
    assert request.headers["host"] == f"127.0.0.1:{there.port}"
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["traceparent"] == TRACEPARENT
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert Webhook(SECRET).verify(request.body, request.headers)["type"] == "reports.report.rendered.v1"


def test_another_secret_or_body_does_not_verify():
    with endpoint(answering(204)) as there:
        send(there.url())
    (request,) = there.requests
    with pytest.raises(WebhookVerificationError):
        Webhook(domain.format_secret(b"j" * 32)).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)


def test_the_host_header_is_the_urls():
    with endpoint(answering(200)) as there:
        outcome = send_webhook(f"http://LOCALHOST:{there.port}/", SECRET, "m", b"{}", None, [*LOOPBACK, V6_LOOPBACK])
    assert isinstance(outcome, Delivered)
    assert there.requests[0].headers["host"] == f"localhost:{there.port}"


V6_LOOPBACK = ip_network("::1/128")


def test_the_environments_proxy_is_not_used(monkeypatch):
    with endpoint(answering(200)) as proxy, endpoint(answering(204)) as there:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert send(there.url()) == Delivered("204")
    assert proxy.connections == 0


# --- what the answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_is_delivered(status):
    with endpoint(answering(status)) as there:
        assert isinstance(send(there.url()), Delivered)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_these_may_be_retried(status):
    with endpoint(answering(status)) as there:
        outcome = send(there.url())
    assert isinstance(outcome, Retryable)
    assert (outcome.code, outcome.retry_after) == ("http_status", None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 418, 422, 451])
def test_these_are_permanent(status):
    with endpoint(answering(status, body=b"no such hook")) as there:
        outcome = send(there.url())
    assert isinstance(outcome, Permanent)
    assert not outcome.gone
    assert outcome.response == f"{status} no such hook"


def test_410_says_that_the_endpoint_is_gone():
    with endpoint(answering(410)) as there:
        outcome = send(there.url())
    assert isinstance(outcome, Permanent)
    assert outcome.gone


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    with endpoint(answering(200)) as inner:
        location = f"Location: {inner.url('/latest/meta-data')}"
        with endpoint(answering(status, location)) as there:
            outcome = send(there.url())
    assert isinstance(outcome, Permanent)
    assert outcome.code == "redirected"
    assert inner.connections == 0


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status):
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for value, least, most in (("7", 7, 7), (in_a_minute, 50, 60), ("99999999", 86_400, 86_400)):
        with endpoint(answering(status, f"Retry-After: {value}")) as there:
            outcome = send(there.url())
        assert least <= outcome.retry_after <= most


# --- endpoints that misbehave


def test_an_endpoint_that_hangs_is_left_at_the_deadline():
    with endpoint(lambda connection: connection.recv(1)) as there:
        began = time.monotonic()
        outcome = send(there.url(), deadline=0.5)
    assert isinstance(outcome, Retryable)
    assert outcome.code == "timed_out"
    assert time.monotonic() - began < 5


def test_an_endpoint_that_trickles_its_headers_is_left_at_the_deadline():
    with endpoint(trickling(b"HTTP/1.1 200 OK\r\nX-Slow: ")) as there:
        began = time.monotonic()
        outcome = send(there.url(), deadline=0.5)
    assert isinstance(outcome, Retryable)
    assert outcome.code == "timed_out"
    assert time.monotonic() - began < 5


def test_a_status_counts_although_the_body_trickles_past_the_deadline():
    with endpoint(trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")) as there:
        began = time.monotonic()
        outcome = send(there.url(), deadline=1.0)
    assert isinstance(outcome, Delivered)
    assert outcome.response.startswith("200 x")
    assert time.monotonic() - began < 5


def test_of_a_huge_body_the_beginning_is_kept():
    sent = 0

    def talk(connection):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while sent < 1_000_000_000:
            sent += connection.send(b"y" * 65_536)

    with endpoint(talk) as there:
        outcome = send(there.url())
    assert isinstance(outcome, Delivered)
    assert len(outcome.response) <= 4 + 1024
    assert sent < 50_000_000


def test_a_compressed_bomb_stays_compressed():
    bomb = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"
    with endpoint(lambda connection: connection.sendall(bomb)) as there:
        assert isinstance(send(there.url()), Delivered)
        assert there.requests[0].headers["accept-encoding"] == "identity"


def test_a_response_can_be_stored_whatever_bytes_it_has():
    with endpoint(answering(500, body=b"a\x00b\xff\xfe" + "ü".encode()[:1])) as there:
        outcome = send(there.url())
    assert "\x00" not in outcome.response
    assert outcome.response.startswith("500 ab")


def _reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


@pytest.mark.parametrize("talk", [lambda connection: None, _reset, answering("nonsense"), answering("20")])
def test_a_connection_without_an_answer_is_retried(talk):
    with endpoint(talk) as there:
        outcome = send(there.url())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "connection_lost"


def test_endless_headers_are_refused():
    with endpoint(trickling(b"HTTP/1.1 200 OK\r\n", chunk=b"X-Y: " + b"z" * 60_000 + b"\r\n", pause=0.001)) as there:
        outcome = send(there.url(), deadline=5)
    assert isinstance(outcome, Retryable)
    assert outcome.code == "connection_lost"


def test_a_refused_connection_is_retried():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = send(f"http://127.0.0.1:{port}/")
    assert isinstance(outcome, Retryable)
    assert outcome.code == "connection_refused"


def test_an_unknown_name_is_retried():
    outcome = send("http://no-such-host.invalid/")
    assert isinstance(outcome, Retryable)
    assert outcome.code == "name_unresolved"


def test_a_resolver_that_hangs_does_not_hold_the_worker(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(30) and [])
    began = time.monotonic()
    outcome = send("http://slow.example/", deadline=0.3)
    took = time.monotonic() - began
    released.set()
    assert outcome.code == "timed_out"
    assert took < 5


# --- where webhooks may not go


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "127.1", "0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)
def test_the_own_machine_is_not_reached(host):
    with endpoint(answering(200)) as inner:
        outcome = send_webhook(f"http://{host}:{inner.port}/", SECRET, "m", PAYLOAD)
    assert isinstance(outcome, Permanent)
    assert outcome.code == "destination_forbidden"
    assert "127" not in outcome.detail
    assert inner.connections == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "192.168.0.1", "100.64.0.1", "[fd00:ec2::254]"])
def test_private_and_metadata_addresses_are_refused_at_once(host):
    began = time.monotonic()
    outcome = send(f"http://{host}/latest/meta-data/")
    assert isinstance(outcome, Permanent)
    assert outcome.code == "destination_forbidden"
    assert time.monotonic() - began < 3


class Names:
    """A resolver that gives one answer after another, as an attacker's does."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, host, port, *args, **options):
        self.asked.append(host)
        try:
            addresses = [str(ip_address(host))]
        except ValueError:
            addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in addresses]


def test_a_name_that_is_rebound_after_the_check_reaches_nothing_else(monkeypatch):
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    with (
        endpoint(answering(204), address="127.0.0.2") as outer,
        endpoint(answering(200), address="127.0.0.1", port=outer.port) as inner,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names)
        url, allowed = f"http://rebound.example:{outer.port}/", [ip_network("127.0.0.2/32")]
        assert send_webhook(url, SECRET, "m", PAYLOAD, None, allowed) == Delivered("204")
        assert names.asked.count("rebound.example") == 1
        assert isinstance(send_webhook(url, SECRET, "m", PAYLOAD, None, allowed), Permanent)
    assert (outer.connections, inner.connections) == (1, 0)


def test_one_inner_address_among_others_condemns_the_name(monkeypatch):
    with endpoint(answering(200), address="127.0.0.2") as outer:
        monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.2", "10.0.0.1"]))
        outcome = send_webhook(
            f"http://mixed.example:{outer.port}/", SECRET, "m", PAYLOAD, None, [ip_network("127.0.0.2/32")]
        )
    assert isinstance(outcome, Permanent)
    assert outer.connections == 0


def test_the_next_address_is_tried_when_one_refuses(monkeypatch):
    with endpoint(answering(204), address="127.0.0.3") as there:
        monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.2", "127.0.0.3"]))
        outcome = send_webhook(
            f"http://two.example:{there.port}/", SECRET, "m", PAYLOAD, None, [ip_network("127.0.0.0/8")]
        )
    assert outcome == Delivered("204")


@pytest.mark.parametrize("url", ["ftp://example.com/", "http://user:pw@127.0.0.1/", "http://", "http://[::1"])
def test_a_url_that_is_not_one_is_permanent(url):
    outcome = send(url)
    assert isinstance(outcome, Permanent)
    assert outcome.code == "invalid_url"


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls") / "hooks.pem", "hooks.example")


@pytest.fixture
def tls_endpoint(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with endpoint(answering(204), tls=context) as there:
        yield there


@pytest.fixture
def trusted(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    webhook._tls_context.cache_clear()
    yield
    webhook._tls_context.cache_clear()


def test_an_untrusted_certificate_gets_nothing(tls_endpoint, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    outcome = send(f"https://hooks.example:{tls_endpoint.port}/")
    assert isinstance(outcome, Retryable)
    assert outcome.code == "tls_failed"
    assert tls_endpoint.requests == []


@pytest.mark.usefixtures("trusted")
def test_the_certificate_is_checked_against_the_urls_name(tls_endpoint, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    assert send(f"https://hooks.example:{tls_endpoint.port}/") == Delivered("204")
    assert send(f"https://other.example:{tls_endpoint.port}/").code == "tls_failed"
    assert send(f"https://127.0.0.1:{tls_endpoint.port}/").code == "tls_failed"
    assert len(tls_endpoint.requests) == 1
