"""The outside world: SMTP servers, webhook endpoints, and the words that are sent to them."""

from services.notifications.adapters.gates import Busy, Gates
from services.notifications.adapters.outcomes import Delivered, Outcome, Permanent, Retryable
from services.notifications.adapters.smtp import Attachment, Email, send_email
from services.notifications.adapters.templates import Content, render
from services.notifications.adapters.webhook import send_webhook

__all__ = [
    "Attachment",
    "Busy",
    "Content",
    "Delivered",
    "Email",
    "Gates",
    "Outcome",
    "Permanent",
    "Retryable",
    "render",
    "send_email",
    "send_webhook",
]
