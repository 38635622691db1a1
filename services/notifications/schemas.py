"""HTTP bodies of `notifications`."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.notifications import domain
from shared.http.bodies import JobLink, RunLink

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w .\-]*$")]
EmailAddress = Annotated[str, Field(max_length=320), AfterValidator(domain.check_email_address)]
WebhookUrl = Annotated[str, AfterValidator(domain.check_webhook_url)]
Secret = Annotated[str, Field(max_length=200), AfterValidator(domain.check_secret)]
Pattern = Annotated[str, AfterValidator(domain.check_pattern)]
Filter = Annotated[dict[str, Any], AfterValidator(domain.check_filter)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmailConfig(Body):
    to: list[EmailAddress] = Field(min_length=1, max_length=50)
    """Each gets a message of its own."""


class WebhookConfig(Body):
    url: WebhookUrl
    """http or https. Where it leads is checked at each send: private addresses are refused unless allowed."""


class NewEmailChannel(Body):
    kind: Literal["email"]
    name: Name
    config: EmailConfig


class NewWebhookChannel(Body):
    kind: Literal["webhook"]
    name: Name
    config: WebhookConfig
    secret: Secret | None = None
    """`whsec_…` (Standard Webhooks 1.0); drawn when it is left out."""


NewChannel = Annotated[NewEmailChannel | NewWebhookChannel, Field(discriminator="kind")]


class ChannelBody(BaseModel):
    id: UUID
    name: str
    kind: Literal["email", "webhook"]
    config: dict[str, Any]
    """`to` of an e-mail channel. `url` of a webhook: its path and query are shown to writers alone."""
    disabled_reason: str | None
    """Why nothing is sent any more; null: in use."""
    created_at: datetime


class NewChannelBody(ChannelBody):
    secret: str | None = None
    """Signs the webhooks. Shown here and never again."""


class ChannelPage(BaseModel):
    items: list[ChannelBody]
    next: UUID | None


class NewRule(Body):
    name: Name
    event_type: Pattern
    """An event type, a prefix such as `reports.*`, or `*`."""
    filter: Filter = {}
    """Path into the event's data (`reason.code`) → the value that must stand there; all must hold."""
    channel_id: UUID


class RuleBody(BaseModel):
    id: UUID
    name: str
    event_type: str
    filter: dict[str, Any]
    channel_id: UUID
    channel: str
    created_at: datetime


class RulePage(BaseModel):
    items: list[RuleBody]
    next: UUID | None


class MessageBody(BaseModel):
    id: UUID
    rule_id: UUID
    rule: str
    event_id: UUID
    event_type: str
    run: RunLink
    created_at: datetime


class MessagePage(BaseModel):
    items: list[MessageBody]
    next: UUID | None


class DeliveryBody(BaseModel):
    id: UUID
    """Also the mail's Message-ID (before the @) and the webhook's `webhook-id`."""
    message_id: UUID
    rule: str
    event_type: str
    channel_id: UUID
    channel: str
    channel_kind: str
    destination: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    reason: dict[str, Any] | None
    run: RunLink
    job: JobLink | None
    created_at: datetime
    finished_at: datetime | None


class DeliveryPage(BaseModel):
    items: list[DeliveryBody]
    next: UUID | None


class DeliveryAttemptBody(BaseModel):
    number: int
    outcome: Literal["delivered", "retried", "failed"]
    code: str | None
    detail: str
    response: str
    """The beginning of what the destination answered, at most 1 KB."""
    started_at: datetime
    finished_at: datetime


class DeliveryDetail(DeliveryBody):
    history: list[DeliveryAttemptBody]
    """Every attempt, oldest first."""
