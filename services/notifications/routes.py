"""HTTP routes of `notifications`: channels, rules, and what became of messages."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Body

from services.notifications import domain, operations, repository
from services.notifications.models import Channel, Delivery, Message, Rule
from services.notifications.schemas import (
    ChannelBody,
    ChannelPage,
    DeliveryAttemptBody,
    DeliveryBody,
    DeliveryDetail,
    DeliveryPage,
    MessageBody,
    MessagePage,
    NewChannel,
    NewChannelBody,
    NewEmailChannel,
    NewRule,
    RuleBody,
    RulePage,
)
from shared.auth import Principal
from shared.http import Caller, JobLink, PageLimit, RunLink, Transaction

router = APIRouter()
T = TypeVar("T")


@router.post("/v1/channels", tags=["channels"], status_code=201)
def create_channel(caller: Caller.Write, session: Transaction, body: Annotated[NewChannel, Body()]) -> NewChannelBody:
    """Make a channel. The answer holds a webhook's secret, once."""
    made = operations.create_channel(session, _workspace(caller), name=body.name, kind=body.kind, **_far_end(body))
    return NewChannelBody(**_channel(made, caller), secret=made.secret)


def _far_end(body: NewChannel) -> dict[str, Any]:
    if isinstance(body, NewEmailChannel):
        return {"recipients": body.config.to}
    return {"url": body.config.url, "secret": body.secret}


@router.get("/v1/channels", tags=["channels"])
def list_channels(
    caller: Caller.Read, session: Transaction, after: UUID | None = None, limit: PageLimit = 100
) -> ChannelPage:
    """Oldest first."""
    found = repository.list_channels(session, _workspace(caller), after, limit + 1)
    items, more = _page(found, limit)
    return ChannelPage(
        items=[ChannelBody(**_channel(item, caller)) for item in items], next=items[-1].id if more else None
    )


@router.get("/v1/channels/{id}", tags=["channels"])
def show_channel(caller: Caller.Read, session: Transaction, id: UUID) -> ChannelBody:
    """One channel."""
    return ChannelBody(**_channel(operations.show_channel(session, _workspace(caller), id), caller))


@router.delete("/v1/channels/{id}", tags=["channels"], status_code=204)
def delete_channel(caller: Caller.Write, session: Transaction, id: UUID) -> None:
    """Delete a channel and the rules that lead to it. What is under way to it fails, and says so."""
    operations.delete_channel(session, _workspace(caller), id)


@router.post("/v1/rules", tags=["rules"], status_code=201)
def create_rule(caller: Caller.Write, session: Transaction, body: NewRule) -> RuleBody:
    """Make a rule: events of a type that pass the filter go to the channel."""
    rule, channel = operations.create_rule(
        session,
        _workspace(caller),
        name=body.name,
        event_type=body.event_type,
        filter=body.filter,
        channel=body.channel_id,
    )
    return _rule(rule, channel)


@router.get("/v1/rules", tags=["rules"])
def list_rules(
    caller: Caller.Read, session: Transaction, after: UUID | None = None, limit: PageLimit = 100
) -> RulePage:
    """Oldest first."""
    found = repository.list_rules(session, _workspace(caller), after, limit + 1)
    items, more = _page(found, limit)
    return RulePage(items=[_rule(*item) for item in items], next=items[-1][0].id if more else None)


@router.get("/v1/rules/{id}", tags=["rules"])
def show_rule(caller: Caller.Read, session: Transaction, id: UUID) -> RuleBody:
    """One rule."""
    return _rule(*operations.show_rule(session, _workspace(caller), id))


@router.delete("/v1/rules/{id}", tags=["rules"], status_code=204)
def delete_rule(caller: Caller.Write, session: Transaction, id: UUID) -> None:
    """Delete a rule. What it has already caused goes on."""
    operations.delete_rule(session, _workspace(caller), id)


@router.get("/v1/messages", tags=["deliveries"])
def list_messages(
    caller: Caller.Read,
    session: Transaction,
    run: UUID | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> MessagePage:
    """What rules had to say about events, newest first."""
    found = repository.list_messages(session, _workspace(caller), run, after, limit + 1)
    items, more = _page(found, limit)
    return MessagePage(items=[_message(item) for item in items], next=items[-1].id if more else None)


@router.get("/v1/deliveries", tags=["deliveries"])
def list_deliveries(
    caller: Caller.Read,
    session: Transaction,
    run: UUID | None = None,
    message: UUID | None = None,
    channel: UUID | None = None,
    status: Literal["pending", "delivered", "failed"] | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> DeliveryPage:
    """Messages on their way to each destination, newest first."""
    where = {"run": run, "message": message, "channel": channel, "status": status}
    found = repository.list_deliveries(session, _workspace(caller), after, limit + 1, **where)
    items, more = _page(found, limit)
    return DeliveryPage(
        items=[DeliveryBody(**_delivery(*item)) for item in items], next=items[-1][0].id if more else None
    )


@router.get("/v1/deliveries/{id}", tags=["deliveries"])
def show_delivery(caller: Caller.Read, session: Transaction, id: UUID) -> DeliveryDetail:
    """One delivery with every attempt and what the destination answered."""
    delivery, message, attempts = operations.show_delivery(session, _workspace(caller), id)
    history = [DeliveryAttemptBody.model_validate(attempt, from_attributes=True) for attempt in attempts]
    return DeliveryDetail(**_delivery(delivery, message), history=history)


def _workspace(caller: Principal) -> UUID:
    assert caller.workspace is not None
    return caller.workspace


def _page(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    return found[:limit], len(found) > limit


def _channel(channel: Channel, caller: Principal) -> dict[str, Any]:
    config: dict[str, Any] = {"to": channel.recipients}
    if channel.url is not None:
        config = {"url": channel.url if "write" in caller.scopes else domain.redact_url(channel.url)}
    return {
        "id": channel.id,
        "name": channel.name,
        "kind": channel.kind,
        "config": config,
        "disabled_reason": channel.disabled_reason,
        "created_at": channel.created_at,
    }


def _rule(rule: Rule, channel: Channel) -> RuleBody:
    return RuleBody(
        id=rule.id,
        name=rule.name,
        event_type=rule.event_type,
        filter=rule.filter,
        channel_id=channel.id,
        channel=channel.name,
        created_at=rule.created_at,
    )


def _message(message: Message) -> MessageBody:
    return MessageBody(
        id=message.id,
        rule_id=message.rule,
        rule=message.rule_name,
        event_id=message.event_id,
        event_type=message.event_type,
        run=_run(message.run),
        created_at=message.created_at,
    )


def _delivery(delivery: Delivery, message: Message) -> dict[str, Any]:
    return {
        **delivery.model_dump(include={"id", "channel_kind", "destination", "status", "attempts", "reason"}),
        "message_id": message.id,
        "rule": message.rule_name,
        "event_type": message.event_type,
        "channel_id": delivery.channel,
        "channel": delivery.channel_name,
        "run": _run(delivery.run),
        "job": JobLink(id=delivery.job, url=f"/v1/jobs/{delivery.job}") if delivery.job else None,
        "created_at": delivery.created_at,
        "finished_at": delivery.finished_at,
    }


def _run(run: UUID) -> RunLink:
    return RunLink(id=run, url=f"/v1/runs/{run}")
