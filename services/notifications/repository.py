"""Every query of `notifications`."""

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, SQLModel, col, select

from services.notifications.models import Channel, Delivery, DeliveryAttempt, Message, Rule

Named = TypeVar("Named", Channel, Rule)


def add_channel(session: Session, channel: Channel) -> bool:
    """False when the name is taken."""
    return _add_named(session, Channel, channel)


def add_rule(session: Session, rule: Rule) -> bool:
    """False when the name is taken."""
    return _add_named(session, Rule, rule)


def _add_named(session: Session, model: type[Named], row: Named) -> bool:
    statement = insert(model).values(**row.model_dump())
    statement = statement.on_conflict_do_nothing(index_elements=["workspace", "name"])
    return bool(session.execute(statement.returning(col(model.id))).first())


def lock_workspace(session: Session, workspace: UUID) -> None:
    """Held until the transaction ends: who counts what a workspace has, and adds to it, does so alone."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext(func.current_schema() + f" {workspace}"))))


def count(session: Session, model: type[Named], workspace: UUID) -> int:
    return session.exec(select(func.count()).select_from(model).where(model.workspace == workspace)).one()


def find_channel(session: Session, workspace: UUID, id: UUID) -> Channel | None:
    return session.exec(select(Channel).where(Channel.id == id, Channel.workspace == workspace)).one_or_none()


def find_rule(session: Session, workspace: UUID, id: UUID) -> tuple[Rule, Channel] | None:
    query = select(Rule, Channel).join(Channel, col(Channel.id) == Rule.channel)
    return session.exec(query.where(Rule.id == id, Rule.workspace == workspace)).one_or_none()


def list_channels(session: Session, workspace: UUID, after: UUID | None, limit: int) -> Sequence[Channel]:
    """Oldest first."""
    query = select(Channel).where(Channel.workspace == workspace)
    if after is not None:
        query = query.where(col(Channel.id) > after)
    return session.exec(query.order_by(col(Channel.id)).limit(limit)).all()


def list_rules(session: Session, workspace: UUID, after: UUID | None, limit: int) -> Sequence[tuple[Rule, Channel]]:
    """With their channels, oldest first."""
    query = select(Rule, Channel).join(Channel, col(Channel.id) == Rule.channel).where(Rule.workspace == workspace)
    if after is not None:
        query = query.where(col(Rule.id) > after)
    return session.exec(query.order_by(col(Rule.id)).limit(limit)).all()


def delete(session: Session, row: Channel | Rule) -> None:
    session.delete(row)


def disable_channel(session: Session, id: UUID, reason: str) -> None:
    """Of a channel that is disabled already, the first reason stays."""
    statement = update(Channel).where(col(Channel.id) == id, col(Channel.disabled_reason).is_(None))
    session.execute(statement.values(disabled_reason=reason))


def add_message(session: Session, message: Message) -> bool:
    """False when it is there already."""
    statement = insert(Message).values(**message.model_dump()).on_conflict_do_nothing(index_elements=["id"])
    return bool(session.execute(statement.returning(col(Message.id))).first())


def add(session: Session, row: SQLModel) -> None:
    session.add(row)


def find_delivery(session: Session, id: UUID) -> tuple[Delivery, Message] | None:
    query = select(Delivery, Message).join(Message, col(Message.id) == Delivery.message)
    return session.exec(query.where(Delivery.id == id)).one_or_none()


def lock_delivery(session: Session, id: UUID) -> tuple[Delivery, Message] | None:
    """Held until the transaction ends."""
    query = select(Delivery, Message).join(Message, col(Message.id) == Delivery.message)
    return session.exec(query.where(Delivery.id == id).with_for_update(of=Delivery)).one_or_none()


def show_delivery(session: Session, workspace: UUID, id: UUID) -> tuple[Delivery, Message] | None:
    found = find_delivery(session, id)
    return found if found is not None and found[0].workspace == workspace else None


def list_attempts(session: Session, delivery: UUID) -> Sequence[DeliveryAttempt]:
    """Oldest first."""
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery == delivery)
    return session.exec(query.order_by(col(DeliveryAttempt.number))).all()


def list_messages(
    session: Session, workspace: UUID, run: UUID | None, after: UUID | None, limit: int
) -> Sequence[Message]:
    """Newest first."""
    query = select(Message).where(Message.workspace == workspace)
    if run is not None:
        query = query.where(Message.run == run)
    if after is not None:
        query = query.where(col(Message.id) < after)
    return session.exec(query.order_by(col(Message.id).desc()).limit(limit)).all()


def list_deliveries(
    session: Session, workspace: UUID, after: UUID | None, limit: int, **where: Any
) -> Sequence[tuple[Delivery, Message]]:
    """With their messages, newest first; `where` gives values that columns of the delivery must have."""
    query = select(Delivery, Message).join(Message, col(Message.id) == Delivery.message)
    query = query.where(Delivery.workspace == workspace)
    for column, value in where.items():
        if value is not None:
            query = query.where(getattr(Delivery, column) == value)
    if after is not None:
        query = query.where(col(Delivery.id) < after)
    return session.exec(query.order_by(col(Delivery.id).desc()).limit(limit)).all()
