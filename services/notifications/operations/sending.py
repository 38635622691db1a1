"""One message on its way to one destination: what to send, sending it, and what became of it.

Outside any transaction: `send`. Within one: `prepare`, `note_failure`, `complete`, `fail`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry.trace import SpanKind
from sqlmodel import Session

from services.notifications import adapters, domain, repository
from services.notifications.adapters import Attachment, Content, Delivered, Email, Outcome, Permanent, Retryable
from services.notifications.errors import ChannelGone, DeliveryExhausted, DeliveryRefused
from services.notifications.models import Channel, Delivery, DeliveryAttempt, Message
from services.notifications.operations.matching import failed
from services.notifications.settings import NotificationsSettings
from shared import telemetry
from shared.contracts.envelope import Envelope, Reason
from shared.contracts.notifications import MessageDelivered
from shared.errors import NotFound, RetryLater
from shared.ledger.enqueue import publish
from shared.objects import ObjectStore

Json = dict[str, Any]

MAX_ATTACHED_BYTES = 10_000_000
"""Files of a mail together, before base64 adds a third; what goes beyond is named with a link alone."""
ATTACHED_FORMATS = ("pdf",)
WEBHOOK_MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"
SMTP_GATE = "smtp"
"""All mail goes by the same server: one destination for the bound of concurrent sends."""


@dataclass(frozen=True)
class Order:
    """All that sending needs, read before it, so that no transaction is open while the other side is slow."""

    delivery: UUID
    kind: str
    destination: str
    channel: str
    rule: str
    event: Json
    run: UUID
    created_at: datetime
    url: str | None = None
    secret: str | None = field(default=None, repr=False)

    @property
    def gate(self) -> str:
        """What this shares with other deliveries that would wait for the same far end."""
        return domain.host(self.url) or SMTP_GATE


@dataclass(frozen=True)
class Result:
    """An outcome, and when it was had."""

    outcome: Outcome
    started_at: datetime
    finished_at: datetime

    def as_json(self) -> Json:
        """What the ledger keeps of a delivery that happened. Raises TypeError for another outcome."""
        if not isinstance(self.outcome, Delivered):
            raise TypeError("only a delivery is kept")
        times = {"started_at": self.started_at.isoformat(), "finished_at": self.finished_at.isoformat()}
        return {"response": self.outcome.response, **times}

    @classmethod
    def of_json(cls, kept: Json) -> "Result":
        started, finished = (datetime.fromisoformat(kept[name]) for name in ("started_at", "finished_at"))
        return cls(Delivered(kept["response"]), started, finished)


def prepare(session: Session, delivery_id: UUID) -> Order:
    """Raises NotFound, and ChannelGone when the channel was deleted or disabled meanwhile."""
    found = repository.find_delivery(session, delivery_id)
    if found is None:
        raise NotFound("There is no such delivery.", id=str(delivery_id))
    delivery, message = found
    channel = repository.find_channel(session, delivery.workspace, delivery.channel)
    if channel is None:
        raise ChannelGone(f"The channel {delivery.channel_name!r} was deleted.")
    if channel.disabled_reason is not None:
        raise ChannelGone(f"The channel is disabled: {channel.disabled_reason}")
    return _order(delivery, message, channel)


def _order(delivery: Delivery, message: Message, channel: Channel) -> Order:
    return Order(
        delivery=delivery.id,
        kind=channel.kind,
        destination=delivery.destination,
        channel=channel.name,
        rule=message.rule_name,
        event=message.event,
        run=message.run,
        created_at=message.created_at,
        url=channel.url,
        secret=channel.secret,
    )


def send(order: Order, settings: NotificationsSettings, objects: ObjectStore) -> Result:
    """Try the destination once, in a span of its own. Raises what is wrong on our side alone."""
    started = datetime.now(UTC)
    with telemetry.span(
        f"send {order.kind}", kind=SpanKind.CLIENT, delivery_id=str(order.delivery), delivery_channel=order.channel
    ) as span:
        outcome = _WAYS[order.kind](order, settings, objects)
        span.set_attribute("delivery.outcome", type(outcome).__name__.lower())
        if not isinstance(outcome, Delivered):
            span.set_attribute("delivery.code", outcome.code)
    return Result(outcome, started, datetime.now(UTC))


def _send_webhook(order: Order, settings: NotificationsSettings, objects: ObjectStore) -> Outcome:
    assert order.url is not None
    assert order.secret is not None
    event = {name: order.event[name] for name in Envelope.model_fields if name in order.event}  # in a reader's order
    return adapters.send_webhook(
        order.url,
        order.secret,
        str(order.delivery),
        json.dumps(event, ensure_ascii=False).encode("utf-8", "replace"),
        telemetry.traceparent(),
        settings.allowed_networks,
        media_type=WEBHOOK_MEDIA_TYPE,
    )


def _send_email(order: Order, settings: NotificationsSettings, objects: ObjectStore) -> Outcome:
    attached = _attachments(order.event, objects)
    content = _render(order, settings.links_url, set(attached))
    email = Email(
        delivery_id=str(order.delivery),
        sender=settings.mail_from,
        recipients=(order.destination,),
        subject=content.subject,
        text=content.text,
        html=content.html,
        date=order.created_at,
        list_name=order.channel,
        attachments=tuple(attached.values()),
    )
    return adapters.send_email(settings.smtp_url.get_secret_value(), email)


_WAYS: dict[str, Callable[[Order, NotificationsSettings, ObjectStore], Outcome]] = {
    "email": _send_email,
    "webhook": _send_webhook,
}


def _render(order: Order, base: str, attached: set[str]) -> Content:
    files = [
        {
            "filename": artifact["filename"],
            "bytes": artifact["bytes"],
            "attached": artifact["id"] in attached,
            "url": f"{base}/v1/artifacts/{artifact['id']}" if base else None,
        }
        for artifact in _artifacts(order.event)
    ]
    context = {
        "event": order.event,
        "rule": {"name": order.rule},
        "channel": {"name": order.channel},
        "links": {"run": f"{base}/v1/runs/{order.run}"} if base else {},
        "files": files,
    }
    return adapters.render(order.event["type"], context)


def _artifacts(event: Json) -> list[Json]:
    found: list[Json] = event["data"].get("artifacts", [])
    return found


def _attachments(event: Json, objects: ObjectStore) -> dict[str, Attachment]:
    """By artifact id, the files to attach, as long as they fit together. One that the store no longer has
    is named in the mail with its link, like one that does not fit."""
    attached: dict[str, Attachment] = {}
    room = MAX_ATTACHED_BYTES
    for artifact in _artifacts(event):
        if artifact["format"] not in ATTACHED_FORMATS:
            continue
        try:
            size = objects.size(artifact["object"])  # the store's word, not the event's
            if size > room:
                continue
            content = objects.get_bytes(artifact["object"])
        except NotFound:
            continue
        room -= size
        attached[artifact["id"]] = Attachment(artifact["filename"], artifact["media_type"], content)
    return attached


def verdict(outcome: Permanent | Retryable, attempts: int, chance: float) -> Exception:
    """What a failed try means for the job, after so many of them: to be raised."""
    if isinstance(outcome, Permanent):
        return DeliveryRefused(outcome.code, outcome.detail, gone=outcome.gone)
    delay = domain.retry_delay(attempts, outcome.retry_after, chance)
    if delay is None:
        return DeliveryExhausted(f"{attempts} attempts failed. The last: {outcome.detail}")
    return RetryLater(outcome.detail, code=f"delivery.{outcome.code}", after=delay)


def note_failure(session: Session, delivery_id: UUID, result: Result) -> int:
    """Keep the record of a failed try; answers how many there were since the delivery was last driven again."""
    outcome = result.outcome
    assert not isinstance(outcome, Delivered)
    delivery, _ = _lock(session, delivery_id)
    delivery.attempts += 1
    delivery.reason = {"code": f"delivery.{outcome.code}", "detail": outcome.detail}
    tries = delivery.attempts - delivery.attempts_before
    again = isinstance(outcome, Retryable) and tries < domain.MAX_ATTEMPTS
    repository.add(
        session,
        DeliveryAttempt(
            delivery=delivery.id,
            number=delivery.attempts,
            outcome="retried" if again else "failed",
            code=outcome.code,
            detail=outcome.detail,
            response=outcome.response,
            started_at=result.started_at,
            finished_at=result.finished_at,
        ),
    )
    return tries


def complete(session: Session, delivery_id: UUID, result: Result) -> None:
    """The destination has the message: record it and say so."""
    outcome = result.outcome
    assert isinstance(outcome, Delivered)
    delivery, message = _lock(session, delivery_id)
    delivery.attempts += 1
    delivery.status, delivery.reason, delivery.finished_at = "delivered", None, result.finished_at
    repository.add(
        session,
        DeliveryAttempt(
            delivery=delivery.id,
            number=delivery.attempts,
            outcome="delivered",
            detail="",
            response=outcome.response,
            started_at=result.started_at,
            finished_at=result.finished_at,
        ),
    )
    event = MessageDelivered(
        message_id=message.id,
        delivery_id=delivery.id,
        channel=delivery.channel_name,
        channel_kind=delivery.channel_kind,
        attempts=delivery.attempts,
        event_id=message.event_id,
    )
    publish(session, event, subject=message.id)


def fail(session: Session, delivery_id: UUID, reason: Json, now: datetime) -> None:
    """The message will not be delivered: record it, say so, and use a destination no more that is gone."""
    delivery, message = _lock(session, delivery_id)
    told = Reason(code=reason["code"], detail=reason["detail"])
    delivery.status, delivery.reason, delivery.finished_at = "failed", told.model_dump(), now
    if reason.get("gone"):
        repository.disable_channel(session, delivery.channel, told.detail)
    publish(session, failed(delivery, message.event_id, told), subject=message.id)


def reopen(session: Session, delivery_id: UUID) -> None:
    """A delivery that failed is driven again: its destination's retry schedule begins anew."""
    delivery, _ = _lock(session, delivery_id)
    delivery.status, delivery.reason, delivery.finished_at = "pending", None, None
    delivery.attempts_before = delivery.attempts


def _lock(session: Session, delivery_id: UUID) -> tuple[Delivery, Message]:
    found = repository.lock_delivery(session, delivery_id)
    if found is None:
        raise NotFound("There is no such delivery.", id=str(delivery_id))
    return found
