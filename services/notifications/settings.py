"""Settings of the `notifications` service."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import Settings

DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over. `smtp` uses STARTTLS when offered, unverified (RFC 7435); the other two
    schemes require TLS with a valid certificate."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)


def parse_smtp_url(url: str) -> SmtpServer:
    """The server that smtp://, smtp+starttls:// or smtps://[user:password@]host[:port] names.

    Raises ValueError, which never repeats the URL: another scheme, no host, or a password that would travel
    unencrypted (over smtp:// to another machine, an attacker can strip the offer of STARTTLS).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("SMTP URL: host or port is not valid") from None
    if parts.scheme not in DEFAULT_PORTS or not host or parts.path.strip("/") or parts.query:
        raise ValueError("SMTP URL must be smtp://, smtp+starttls:// or smtps://[user:password@]host[:port]")
    if parts.username and parts.scheme == "smtp" and not _is_loopback(host):
        raise ValueError("SMTP URL with a password must be smtps:// or smtp+starttls://")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return SmtpServer(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], user, password)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NotificationsSettings(Settings):
    # A refused SMTP URL may hold a password. A variable that is set to nothing (compose) is not set.
    model_config = SettingsConfigDict(hide_input_in_errors=True, env_ignore_empty=True)

    smtp_url: SecretStr = Field(validation_alias="NOTIFICATIONS_SMTP_URL")
    """`smtp://`, `smtp+starttls://` or `smtps://`, `[user:password@]host[:port]`."""
    mail_from: str = Field(validation_alias="NOTIFICATIONS_MAIL_FROM")
    """`Name <address>` or an address; its domain also names the messages (Message-ID)."""
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), validation_alias="NOTIFICATIONS_ALLOWED_NETWORKS"
    )
    """Networks that webhooks may reach although they are not public, as a JSON list of CIDRs."""
    public_url: str = Field(default="", validation_alias="NOTIFICATIONS_PUBLIC_URL")
    """Where readers of mails reach the API, for links; default: where the services reach it."""

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: SecretStr) -> SecretStr:
        parse_smtp_url(value.get_secret_value())
        return value

    @field_validator("mail_from")
    @classmethod
    def _check_mail_from(cls, value: str) -> str:
        if not re.fullmatch(r"[^<>@\x00-\x1f]*<[^\s<>@]+@[^\s<>@]+>|[^\s<>@]+@[^\s<>@]+", value):
            raise ValueError("must be 'Name <address>' or an address")
        return value

    @cached_property
    def links_url(self) -> str:
        """The base of links in messages; empty when no address is known."""
        return (self.public_url or self.service_urls.get("api", "")).rstrip("/")
