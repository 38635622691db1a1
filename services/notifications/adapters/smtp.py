"""E-mail over SMTP (RFC 5321) by the standard library, synchronous: workers run it in threads.

Guarantee: at least once, one Message-ID. When the connection breaks after the message was handed over and
before the server said so, the retry sends it again with the same Message-ID, by which mail systems and
readers drop the second copy.
"""

import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import lru_cache

from services.notifications import domain
from services.notifications.adapters.outcomes import (
    RESPONSE_CHARACTERS,
    Delivered,
    Outcome,
    Permanent,
    Retryable,
)
from services.notifications.settings import SmtpServer, parse_smtp_url

CONNECT_TIMEOUT = 5.0  # seconds, for each address of the server
IO_TIMEOUT = 10.0  # seconds of silence
TOTAL_TIMEOUT = 60.0  # seconds for one message, however slowly the server talks
GOODBYE_TIMEOUT = 1.0  # seconds for the answer to QUIT, which decides nothing
# Everything is encoded to ASCII: no server has to offer 8BITMIME.
POLICY = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Attachment:
    filename: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Email:
    """A message as the service means it; anything in it may come from a user's file or template."""

    delivery_id: str  # of which Message-ID is made: the same on every retry
    sender: str  # an addr-spec, or a display name and one: 'Millrace <reports@example.com>'
    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str
    date: datetime  # aware
    list_name: str = ""  # identifies the stream of mail, for List-Id (RFC 2919)
    attachments: tuple[Attachment, ...] = ()


def compose(email: Email) -> EmailMessage:
    """The RFC 5322 message: text, HTML alternative, attachments. ValueError for an address that is not one."""
    message = EmailMessage(policy=POLICY)
    sender = _mailbox(email.sender)
    message["From"] = sender
    message["To"] = [_address(to) for to in email.recipients]
    message["Subject"] = domain.one_line(email.subject, 200)
    message["Date"] = format_datetime(email.date)
    message["Message-ID"] = f"<{_token(email.delivery_id)}@{sender.domain}>"
    if email.list_name:
        message["List-Id"] = f"<{_token(email.list_name)}.{sender.domain}>"
    # Keeps vacation responders and the like from answering (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(domain.printable(email.text, 1_000_000))
    message.add_alternative(domain.printable(email.html, 1_000_000), subtype="html")
    for attachment in email.attachments:
        maintype, subtype = _media_type(attachment.media_type)
        message.add_attachment(
            attachment.content,
            maintype=maintype,
            subtype=subtype,
            filename=domain.file_name(attachment.filename),
            params={"charset": "utf-8"} if maintype == "text" else None,
        )
    return message


def _mailbox(sender: str) -> Address:
    name, bracket, rest = sender.rpartition("<")
    spec = rest.rstrip().removesuffix(">") if bracket else sender.strip()
    return _address(spec, domain.one_line(name.strip(' "'), 80))


def _address(spec: str, display_name: str = "") -> Address:
    local, _, host = domain.check_email_address(spec).rpartition("@")
    return Address(display_name, username=local, domain=host)


def _token(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", value)[:100].strip("-") or "none"


def _media_type(value: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z]+)/([a-z0-9][a-z0-9.+-]*)", value.partition(";")[0].strip().lower())
    if not match or match[1] in ("multipart", "message"):  # these would be parsed as part of this message
        return "application", "octet-stream"
    return match[1], match[2]


def send_email(
    smtp_url: str,
    email: Email,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    io_timeout: float = IO_TIMEOUT,
    total_timeout: float = TOTAL_TIMEOUT,
) -> Outcome:
    """Hand one message to the server and say what became of it. Timeouts are in seconds.

    What the server answers to MAIL, RCPT and DATA decides: 4xx may be retried, 5xx may not. Greeting,
    TLS and login failures say nothing about this message, so they are retried.
    Raises ValueError when `smtp_url` is not valid: settings are checked at start.
    """
    server = parse_smtp_url(smtp_url)
    try:
        message = compose(email)
    except ValueError as problem:
        return Permanent("invalid_address", domain.redact(str(problem)))
    client = _Client(server, connect_timeout, io_timeout)
    with client.deadline(total_timeout) as expired:
        outcome = _attempt(client, server, email, message)
    if isinstance(outcome, Retryable) and expired.is_set():
        return Retryable("timed_out", f"the mail server did not finish within {total_timeout:g} s")
    return outcome


def _attempt(client: "_Client", server: SmtpServer, email: Email, message: EmailMessage) -> Outcome:
    try:
        client.open()
        sender = message["From"].addresses[0].addr_spec
        recipients = [address.addr_spec for address in message["To"].addresses]
        # The dialogue of the message itself: a 5xx from here on is about this message.
        refused = client.send_message(message, sender, recipients)
    except smtplib.SMTPRecipientsRefused as refusal:
        return _all_refused(refusal.recipients)
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as reply:
        return _about_message(reply.smtp_code, reply.smtp_error)
    except smtplib.SMTPResponseException as reply:
        code = "smtp_login" if isinstance(reply, smtplib.SMTPAuthenticationError) else "smtp_unavailable"
        return Retryable(code, f"the mail server answered {_reply(reply.smtp_code, reply.smtp_error)}")
    except smtplib.SMTPNotSupportedError as lack:
        return _not_supported(lack)
    except (TimeoutError, smtplib.SMTPServerDisconnected) as loss:
        # smtplib reports silence as a disconnection, with the timeout as its context.
        if isinstance(loss, TimeoutError) or isinstance(loss.__context__, TimeoutError):
            return Retryable("timed_out", "the mail server did not answer in time")
        return Retryable("connection_failed", "the mail server closed the connection")
    except ssl.SSLError as error:
        return Retryable("tls_failed", f"no trusted TLS with the mail server: {_reason(error)}")
    except ConnectionRefusedError:
        return Retryable("connection_refused", "the mail server refused the connection")
    except OSError as error:
        return Retryable("connection_failed", f"the mail server could not be used: {_reason(error)}")
    finally:
        client.hang_up()
    return Delivered(
        response=client.accepted,
        refused={address: _reply(code, text) for address, (code, text) in refused.items()},
    )


def _all_refused(recipients: dict[str, tuple[int, bytes]]) -> Outcome:
    """No recipient was taken: for good only when every refusal is (a greylisted one may be taken later)."""
    said = "; ".join(f"{to}: {_reply(code, text)}" for to, (code, text) in recipients.items())
    detail = domain.printable(f"recipient refused: {said}", RESPONSE_CHARACTERS)
    if all(_is_permanent(code) for code, _ in recipients.values()):
        return Permanent("recipient_refused", detail)
    return Retryable("recipient_deferred", detail)


def _about_message(code: int, text: bytes | str) -> Outcome:
    detail = f"the mail server answered {_reply(code, text)}"
    return Permanent("smtp_rejected", detail) if _is_permanent(code) else Retryable("smtp_deferred", detail)


def _is_permanent(code: int) -> bool:
    # 530, 534, 535, 538: the server wants a login or encryption (RFC 4954): the operator's fault, not the
    # message's, and mended by a setting.
    return 500 <= code <= 599 and code not in (530, 534, 535, 538)


def _not_supported(lack: smtplib.SMTPNotSupportedError) -> Outcome:
    if "SMTPUTF8" in str(lack):
        return Permanent("address_unsupported", "the mail server takes no addresses with non-ASCII characters")
    return Retryable("smtp_unavailable", f"the mail server lacks what its URL asks for: {_reason(lack)}")


def _reply(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return domain.redact(domain.one_line(f"{code} {words}", RESPONSE_CHARACTERS))


def _reason(error: Exception) -> str:
    return domain.redact(domain.one_line(str(error) or type(error).__name__, 300))


@lru_cache(maxsize=2)
def _tls_context(verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Client(smtplib.SMTP):
    """smtplib's client with TLS by the URL's scheme and a deadline over the whole dialogue.

    smtplib's own timeout is per socket operation: a server that sends a byte now and then would hold the
    worker for ever. The deadline shuts the connection down from a timer's thread, whatever it waits for.
    """

    def __init__(self, server: SmtpServer, connect_timeout: float, io_timeout: float) -> None:
        self.server = server
        self.connect_timeout = connect_timeout
        self.accepted = ""
        self._line: socket.socket | None = None  # a duplicate: TLS takes the original away
        self._expired = threading.Event()
        self._lock = threading.Lock()
        super().__init__(local_hostname=socket.gethostname(), timeout=io_timeout)
        self._host = server.host  # smtplib takes the name to verify in STARTTLS from here

    def open(self) -> None:
        """Connect, greet, encrypt and log in. Raises OSError or smtplib's errors."""
        code, text = self.connect(self.server.host, self.server.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)
        self.ehlo_or_helo_if_needed()
        required = self.server.scheme == "smtp+starttls"
        if required or (self.server.scheme == "smtp" and self.has_extn("starttls")):
            code, text = self.starttls(context=_tls_context(required))
            if code != 220:
                raise smtplib.SMTPResponseException(code, text)
            self.ehlo_or_helo_if_needed()
        if self.server.user:
            self.login(self.server.user, self.server.password)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.create_connection((host, port), self.connect_timeout)
        with self._lock:
            self._line = sock.dup()
            if self._expired.is_set():  # the deadline passed while connecting
                self._line.shutdown(socket.SHUT_RDWR)
        sock.settimeout(timeout)
        if self.server.scheme == "smtps":
            return _tls_context(True).wrap_socket(sock, server_hostname=host)
        return sock

    def data(self, msg: bytes | bytearray | str) -> tuple[int, bytes]:  # type: ignore[override]
        code, text = super().data(msg)
        self.accepted = _reply(code, text)
        return code, text

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[threading.Event]:
        """Cut the connection after `seconds`; the event yielded tells whether that happened."""
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield self._expired
        finally:
            timer.cancel()
            with self._lock:
                if self._line is not None:
                    self._line.close()
                    self._line = None

    def _cut(self) -> None:
        self._expired.set()
        with self._lock:
            if self._line is not None:
                with suppress(OSError):
                    self._line.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Say goodbye; the message is accepted or refused by now, so nothing said here changes that."""
        with suppress(OSError):  # of which smtplib's errors are a kind
            if self.sock is not None:
                self.sock.settimeout(GOODBYE_TIMEOUT)
                self.quit()
        self.close()
