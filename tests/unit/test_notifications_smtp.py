"""E-mail against real SMTP servers, well-behaved and not."""

import email
import socket
import ssl
import time
from datetime import UTC, datetime
from email.policy import default

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notifications.adapters import smtp
from services.notifications.adapters.outcomes import Delivered, Permanent, Retryable
from services.notifications.adapters.smtp import Attachment, Email, compose, send_email
from services.notifications.settings import parse_smtp_url
from tests.unit.servers import raw_server, self_signed, smtp_server

SENT_AT = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)


def an_email(**changes):
    facts = {
        "delivery_id": "0198a6f0-0000-7000-8000-000000000001",
        "sender": "Millrace <reports@millrace.example>",
        "recipients": ("ann@example.com",),
        "subject": "Orders, week 47",
        "text": "Grüße\n.\nfrom the mill\n",
        "html": "<p>Grüße</p>",
        "date": SENT_AT,
        "list_name": "team-mail",
    }
    return Email(**{**facts, **changes})


class Inbox:
    """aiosmtpd's handler: keeps what arrives, answers what it is told to."""

    def __init__(self, *, mail="250 ok", rcpt=None, data="250 ok"):
        self.mail, self.rcpt, self.data = mail, rcpt or {}, data
        self.envelopes = []
        self.logged_in = None

    async def handle_MAIL(self, server, session, envelope, address, options):
        if self.mail.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return self.mail

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = self.rcpt.get(address, "250 ok")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        self.envelopes.append(envelope)
        self.logged_in = session.authenticated
        return self.data

    def message(self):
        (envelope,) = self.envelopes
        return email.message_from_bytes(envelope.content, policy=default)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls") / "localhost.pem", "localhost")


@pytest.fixture
def server_tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate, monkeypatch):
    """The client trusts the certificate, as an operator has it with SSL_CERT_FILE."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    smtp._tls_context.cache_clear()
    yield
    smtp._tls_context.cache_clear()


# --- what is sent


def test_a_message_arrives_whole():
    inbox = Inbox()
    pdf = b"%PDF-1.7\r\n" + bytes(range(256)) * 40
    with smtp_server(inbox) as port:
        sent = an_email(attachments=(Attachment("Orders – äö.pdf", "application/pdf", pdf),))
        outcome = send_email(f"smtp://127.0.0.1:{port}", sent)

    assert outcome == Delivered("250 ok")
    (envelope,) = inbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("reports@millrace.example", ["ann@example.com"])
    message = inbox.message()
    assert message["From"] == "Millrace <reports@millrace.example>"
    assert message["To"] == "ann@example.com"
    assert message["Subject"] == "Orders, week 47"
    assert message["Message-ID"] == "<0198a6f0-0000-7000-8000-000000000001@millrace.example>"
    assert message["Date"].datetime == SENT_AT
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Id"] == "<team-mail.millrace.example>"
    assert message.get_body(("plain",)).get_content().splitlines() == ["Grüße", ".", "from the mill"]
    assert message.get_body(("html",)).get_content().strip() == "<p>Grüße</p>"
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "Orders – äö.pdf"
    assert attachment.get_content_type() == "application/pdf"
    assert attachment.get_content() == pdf


def test_the_message_is_seven_bit_and_the_same_on_every_try():
    parts = [bytes(compose(an_email(subject="Grüße 🎉", text="ü" * 2000))).split(b"Content-Type") for _ in range(2)]
    assert parts[0][0] == parts[1][0]  # the boundary, which is random, comes after
    assert all(byte < 128 for part in parts[0] for byte in part)


HOSTILE = ["x\r\nBcc: eve@example.com", "x\nBcc: e", "x\rB: c", "x\x0bB: c", "x\x85B: c", "x Bcc: c", "\ud800", "\x00"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["subject", "list_name", "delivery_id", "filename", "media_type", "name"])
def test_no_text_starts_a_header(text, place):
    changes = {place: text}
    if place in ("filename", "media_type"):
        facts = {"filename": "a.pdf", "media_type": "application/pdf", "content": b"x", **changes}
        changes = {"attachments": (Attachment(**facts),)}
    if place == "name":
        changes = {"sender": f"{text} <reports@millrace.example>"}
    _assert_only_our_headers(an_email(**changes))


@given(st.text(), st.text(), st.text())
@settings(max_examples=50, deadline=None)
def test_no_text_at_all_starts_a_header(subject, body, filename):
    _assert_only_our_headers(
        an_email(subject=subject, text=body, html=body, attachments=(Attachment(filename, "text/csv", b"a"),))
    )


OURS = {"From", "To", "Subject", "Date", "Message-ID", "List-Id", "Auto-Submitted", "X-Auto-Response-Suppress"}
MIME = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition"}


def _assert_only_our_headers(made):
    message = email.message_from_bytes(compose(made).as_bytes(), policy=default)
    assert set(message.keys()) <= OURS | MIME
    assert len(message.keys()) == len(set(message.keys()))
    for part in list(message.walk())[1:]:
        assert set(part.keys()) <= MIME


@pytest.mark.parametrize("address", ["ann@example.com, eve@example.com", "ann@example.com\r\nBcc: e@f", "nobody"])
def test_an_address_that_is_not_one_is_refused_before_anything_is_sent(address):
    outcome = send_email("smtp://127.0.0.1:9", an_email(recipients=(address,)))
    assert isinstance(outcome, Permanent)
    assert outcome.code == "invalid_address"


def test_a_non_ascii_address_goes_where_it_is_supported():
    inbox = Inbox()
    with smtp_server(inbox, enable_SMTPUTF8=True) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(recipients=("jürgen@straße.de",)))
    assert isinstance(outcome, Delivered)
    assert inbox.envelopes[0].rcpt_tos == ["jürgen@xn--strae-oqa.de"]


def test_a_non_ascii_address_is_refused_where_it_is_not():
    with smtp_server(Inbox(), enable_SMTPUTF8=False) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(recipients=("jürgen@example.com",)))
    assert isinstance(outcome, Permanent)
    assert outcome.code == "address_unsupported"


# --- what the server answers


@pytest.mark.parametrize(
    ("answers", "kind", "code"),
    [
        ({"mail": "451 later"}, Retryable, "smtp_deferred"),
        ({"mail": "550 no"}, Permanent, "smtp_rejected"),
        ({"mail": "530 5.7.0 log in first"}, Retryable, "smtp_deferred"),
        ({"data": "452 disk full"}, Retryable, "smtp_deferred"),
        ({"data": "554 spam"}, Permanent, "smtp_rejected"),
        ({"rcpt": {"ann@example.com": "450 greylisted"}}, Retryable, "recipient_deferred"),
        ({"rcpt": {"ann@example.com": "550 no such user"}}, Permanent, "recipient_refused"),
    ],
)
def test_the_servers_answer_decides(answers, kind, code):
    with smtp_server(Inbox(**answers)) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert isinstance(outcome, kind)
    assert outcome.code == code
    said = answers.get("mail") or answers.get("data") or answers["rcpt"]["ann@example.com"]
    assert said in outcome.detail


def test_of_several_recipients_the_refused_are_named():
    both = ("ann@example.com", "bob@example.com")
    with smtp_server(Inbox(rcpt={"bob@example.com": "550 unknown"})) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(recipients=both))
    assert outcome == Delivered("250 ok", refused={"bob@example.com": "550 unknown"})


def test_of_several_refused_recipients_one_that_may_be_taken_later_makes_it_worth_a_retry():
    answers = {"ann@example.com": "450 later", "bob@example.com": "550 unknown"}
    with smtp_server(Inbox(rcpt=answers)) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(recipients=tuple(answers)))
    assert isinstance(outcome, Retryable)


def test_a_refused_connection_is_retried():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "connection_refused"


def test_a_greeting_that_refuses_is_retried():
    with raw_server(lambda connection: connection.sendall(b"554 not today\r\n")) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert "554 not today" in outcome.detail


def test_silence_is_retried_after_the_io_timeout():
    with raw_server(lambda connection: connection.recv(1)) as port:
        began = time.monotonic()
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(), io_timeout=0.2)
    assert isinstance(outcome, Retryable)
    assert outcome.code == "timed_out"
    assert time.monotonic() - began < 5


def test_a_server_that_trickles_is_cut_off_at_the_deadline():
    def patiently(connection):
        connection.settimeout(0.05)
        while True:
            connection.sendall(b"220-still here\r\n")
            try:
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue

    with raw_server(patiently) as port:
        began = time.monotonic()
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email(), total_timeout=0.5)
    assert outcome == Retryable("timed_out", "the mail server did not finish within 0.5 s")
    assert time.monotonic() - began < 5


def _dialogue(connection, *, after_data):
    connection.sendall(b"220 test\r\n")
    body = False
    for line in connection.makefile("rb"):
        if body:
            if line == b".\r\n":
                return after_data(connection)
        elif line.lower().startswith(b"ehlo"):
            connection.sendall(b"250 test\r\n")
        elif line.lower().startswith(b"data"):
            connection.sendall(b"354 go on\r\n")
            body = True
        else:
            connection.sendall(b"250 ok\r\n")


def test_a_connection_lost_before_the_answer_is_retried():
    with raw_server(lambda connection: _dialogue(connection, after_data=lambda _: None)) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "connection_failed"


def test_a_message_that_was_taken_stays_delivered_whatever_quit_does():
    def taken_then_silent(connection):
        connection.sendall(b"250 taken\r\n")
        while connection.recv(100):
            pass

    with raw_server(lambda connection: _dialogue(connection, after_data=taken_then_silent)) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert outcome == Delivered("250 taken")


# --- encryption and login


def test_smtp_uses_starttls_when_it_is_offered(server_tls):
    inbox = Inbox()
    with smtp_server(inbox, tls_context=server_tls, require_starttls=True) as port:
        outcome = send_email(f"smtp://127.0.0.1:{port}", an_email())
    assert isinstance(outcome, Delivered)


def test_starttls_that_is_required_must_be_offered():
    inbox = Inbox()
    with smtp_server(inbox) as port:
        outcome = send_email(f"smtp+starttls://localhost:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "smtp_unavailable"
    assert not inbox.envelopes


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
def test_required_encryption_needs_a_trusted_certificate(scheme, server_tls):
    inbox = Inbox()
    options = {"implicit_tls": server_tls} if scheme == "smtps" else {"tls_context": server_tls}
    with smtp_server(inbox, **options) as port:
        outcome = send_email(f"{scheme}://localhost:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "tls_failed"
    assert not inbox.envelopes


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
def test_a_trusted_server_gets_login_and_message(scheme, server_tls, trusted):
    inbox = Inbox()
    options = {"implicit_tls": server_tls} if scheme == "smtps" else {"tls_context": server_tls}
    with smtp_server(inbox, authenticator=_accept, auth_require_tls=False, **options) as port:
        outcome = send_email(f"{scheme}://millrace:s%40cret@localhost:{port}", an_email())
    assert isinstance(outcome, Delivered)
    assert inbox.logged_in


def test_a_wrong_password_is_the_operators_fault_and_retried(server_tls, trusted):
    with smtp_server(Inbox(), tls_context=server_tls, authenticator=_accept) as port:
        outcome = send_email(f"smtp+starttls://millrace:wrong@localhost:{port}", an_email())
    assert isinstance(outcome, Retryable)
    assert outcome.code == "smtp_login"
    assert "wrong" not in outcome.detail


def _accept(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"millrace", b"s@cret")
    return AuthResult(success=right, handled=right)


# --- the URL


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("smtp://mail", "mail", 25),
        ("smtps://mail", "mail", 465),
        ("smtp+starttls://mail", "mail", 587),
        ("smtp://[::1]:2525", "::1", 2525),
        ("smtp://user:pw@127.0.0.1:25", "127.0.0.1", 25),
    ],
)
def test_the_url_names_the_server(url, host, port):
    server = parse_smtp_url(url)
    assert (server.host, server.port) == (host, port)
    assert "pw" not in repr(server)


@pytest.mark.parametrize(
    "url", ["", "mail:25", "http://mail", "smtp://", "smtp://mail:x", "smtp://mail/path", "smtp://user:hunter2@mail"]
)
def test_another_url_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="SMTP URL") as refusal:
        parse_smtp_url(url)
    assert "hunter2" not in str(refusal.value)
