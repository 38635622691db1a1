"""The outside world: SMTP servers, webhook endpoints, and the words that are sent to them."""

from services.notifications.adapters.outcomes import Delivered, Outcome, Permanent, Retryable
from services.notifications.adapters.smtp import Attachment, Email, SmtpServer, parse_smtp_url, send_email
from services.notifications.adapters.templates import Content, render
from services.notifications.adapters.webhook import send_webhook

__all__ = [
    "Attachment",
    "Content",
    "Delivered",
    "Email",
    "Outcome",
    "Permanent",
    "Retryable",
    "SmtpServer",
    "parse_smtp_url",
    "render",
    "send_email",
    "send_webhook",
]
