"""Where messages may go, and which events make them."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlmodel import Session

from services.notifications import domain, repository
from services.notifications.errors import ChannelUnknown, EventTypeUnknown, NameTaken, TooMany
from services.notifications.jobs import MatchEvent
from services.notifications.models import Channel, Delivery, DeliveryAttempt, Message, Rule
from shared import ids
from shared.contracts.catalog import EVENTS
from shared.errors import NotFound

MAX_CHANNELS = 500
MAX_RULES = 1000


def create_channel(
    session: Session,
    workspace: UUID,
    *,
    name: str,
    kind: str,
    recipients: Sequence[str] = (),
    url: str | None = None,
    secret: str | None = None,
) -> Channel:
    """A new channel. A webhook's secret is drawn when none is given. Raises NameTaken, TooMany."""
    repository.lock_workspace(session, workspace)
    if repository.count(session, Channel, workspace) >= MAX_CHANNELS:
        raise TooMany(f"A workspace has at most {MAX_CHANNELS} channels.")
    if kind == "webhook" and secret is None:
        secret = domain.format_secret(secrets.token_bytes(domain.SECRET_BYTES))
    channel = Channel(
        id=ids.draw(),
        workspace=workspace,
        name=name,
        kind=kind,
        recipients=list(dict.fromkeys(recipients)),
        url=url,
        secret=secret,
        created_at=datetime.now(UTC),
    )
    if not repository.add_channel(session, channel):
        raise NameTaken(f"There is a channel named {name!r} already.", name=name)
    return channel


def show_channel(session: Session, workspace: UUID, id: UUID) -> Channel:
    """Raises NotFound."""
    found = repository.find_channel(session, workspace, id)
    if found is None:
        raise NotFound("There is no such channel.", id=str(id))
    return found


def delete_channel(session: Session, workspace: UUID, id: UUID) -> None:
    """Forget a channel with its secret, and the rules that lead to it. What is under way to it fails, and
    says so. Raises NotFound."""
    repository.delete(session, show_channel(session, workspace, id))


def create_rule(
    session: Session,
    workspace: UUID,
    *,
    name: str,
    event_type: str,
    filter: Mapping[str, domain.Scalar],
    channel: UUID,
) -> tuple[Rule, Channel]:
    """A new rule, in force for events that are matched from now on.

    Raises EventTypeUnknown, ChannelUnknown, NameTaken, TooMany.
    """
    _check_event_type(event_type)
    found = repository.find_channel(session, workspace, channel)
    if found is None:
        raise ChannelUnknown("There is no such channel.", channel_id=str(channel))
    repository.lock_workspace(session, workspace)
    if repository.count(session, Rule, workspace) >= MAX_RULES:
        raise TooMany(f"A workspace has at most {MAX_RULES} rules.")
    rule = Rule(
        id=ids.draw(),
        workspace=workspace,
        name=name,
        event_type=event_type,
        filter=dict(filter),
        channel=channel,
        created_at=datetime.now(UTC),
    )
    if not repository.add_rule(session, rule):
        raise NameTaken(f"There is a rule named {name!r} already.", name=name)
    return rule, found


def _check_event_type(pattern: str) -> None:
    """Raises EventTypeUnknown when no event that is matched has such a type."""
    known = [event.type for event in EVENTS.values() if MatchEvent.kind in event.consumers]
    if not any(domain.matches_type(pattern, each) for each in known):
        types = ", ".join(known)
        raise EventTypeUnknown(f"No event has the type {pattern!r}. Known are: {types}.", event_types=known)


def show_rule(session: Session, workspace: UUID, id: UUID) -> tuple[Rule, Channel]:
    """Raises NotFound."""
    found = repository.find_rule(session, workspace, id)
    if found is None:
        raise NotFound("There is no such rule.", id=str(id))
    return found


def delete_rule(session: Session, workspace: UUID, id: UUID) -> None:
    """Raises NotFound."""
    repository.delete(session, show_rule(session, workspace, id)[0])


def show_delivery(session: Session, workspace: UUID, id: UUID) -> tuple[Delivery, Message, Sequence[DeliveryAttempt]]:
    """A delivery with its message and every attempt. Raises NotFound."""
    found = repository.show_delivery(session, workspace, id)
    if found is None:
        raise NotFound("There is no such delivery.", id=str(id))
    return *found, repository.list_attempts(session, id)
