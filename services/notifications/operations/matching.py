"""From an event to what is owed: a message a rule, a delivery a destination, a job a delivery."""

from datetime import datetime
from uuid import UUID

from sqlmodel import Session

from services.notifications import domain, repository
from services.notifications.errors import ChannelUnknown, DeliveryUnderWay
from services.notifications.jobs import SendMessage
from services.notifications.models import Channel, Delivery, Message, Rule
from services.notifications.operations.setting_up import MAX_RULES, show_delivery
from shared import ids
from shared.contracts.envelope import Envelope, Reason
from shared.contracts.notifications import MessageFailed
from shared.ledger.enqueue import enqueue, origin, publish


def match(session: Session, envelope: Envelope, now: datetime) -> int:
    """Owe a message for every rule of the event's workspace that wants it; answers how many.

    Ids are derived from the event and the rule, so however often this runs, each rule is heeded once.
    """
    made = 0
    for rule, channel in repository.list_rules(session, envelope.workspace, None, MAX_RULES):
        if domain.matches_type(rule.event_type, envelope.type) and domain.matches_filter(rule.filter, envelope.data):
            made += _tell(session, envelope, rule, channel, now)
    return made


def _tell(session: Session, envelope: Envelope, rule: Rule, channel: Channel, now: datetime) -> bool:
    message = Message(
        id=ids.derive(envelope.id, "message", rule.id),
        workspace=envelope.workspace,
        run=envelope.runid,
        rule=rule.id,
        rule_name=rule.name,
        event=envelope.model_dump(mode="json", exclude_none=True) | {"data": envelope.data},
        event_id=envelope.id,
        event_type=envelope.type,
        created_at=now,
    )
    if not repository.add_message(session, message):
        return False
    for destination in destinations(channel):
        id, job = ids.derive(message.id, "delivery", destination), ids.draw()
        sending = _add_delivery(session, message, channel, destination, id, job, now)
        if sending is not None:
            enqueue(session, sending, id=job)
    return True


def repeat(session: Session, id: UUID, job: UUID, now: datetime) -> tuple[UUID, SendMessage | None]:
    """The message of the workspace's delivery once more, to the same destination, as a delivery of its own: with
    another id, so that the destination takes it for another. Answers that, and what its job is to do, if anything.
    Raises NotFound, DeliveryUnderWay, ChannelUnknown."""
    because = origin(session)
    delivery, message, _ = show_delivery(session, because.workspace, id)
    if delivery.finished_at is None:
        raise DeliveryUnderWay("The delivery has not ended.", delivery_id=str(id), status=delivery.status)
    channel = repository.find_channel(session, because.workspace, delivery.channel)
    if channel is None:
        raise ChannelUnknown("Its channel was deleted.", channel_id=str(delivery.channel))
    repeated = ids.derive(job, "repeat", id)
    return repeated, _add_delivery(session, message, channel, delivery.destination, repeated, job, now)


def destinations(channel: Channel) -> list[str]:
    """What a channel's deliveries are called: each address of an e-mail channel, a webhook's host."""
    return channel.recipients if channel.url is None else [domain.redact_url(channel.url)]


def _add_delivery(
    session: Session, message: Message, channel: Channel, destination: str, id: UUID, job: UUID, now: datetime
) -> SendMessage | None:
    """Answers what the delivery's job is to do; None when it has failed at once."""
    delivery = Delivery(
        id=id,
        workspace=message.workspace,
        run=origin(session).run,
        message=message.id,
        channel=channel.id,
        channel_name=channel.name,
        channel_kind=channel.kind,
        destination=destination,
        status="pending",
        created_at=now,
    )
    sending = None
    if channel.disabled_reason is None:
        delivery.job = job
        sending = SendMessage(delivery_id=delivery.id, host=domain.host(channel.url))
    else:  # said at once, and not silently left out
        reason = Reason(code="channel.gone", detail=f"The channel is disabled: {channel.disabled_reason}")
        delivery.status, delivery.reason, delivery.finished_at = "failed", reason.model_dump(), now
        publish(session, failed(delivery, message.event_id, reason), subject=message.id)
    repository.add(session, delivery)
    return sending


def failed(delivery: Delivery, event_id: UUID, reason: Reason) -> MessageFailed:
    """The fact that a delivery will not come about."""
    return MessageFailed(
        message_id=delivery.message,
        delivery_id=delivery.id,
        channel=delivery.channel_name,
        channel_kind=delivery.channel_kind,
        attempts=delivery.attempts,
        event_id=event_id,
        reason=reason,
    )
