"""Tables of `notifications`. Their columns are documented where they are made, in migrations/."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, String
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

Json = dict[str, Any]


class Channel(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    name: str
    kind: str
    recipients: list[str] = Field(sa_type=ARRAY(String))
    url: str | None = None
    secret: str | None = Field(default=None, repr=False)
    disabled_reason: str | None = None
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Rule(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    name: str
    event_type: str
    filter: Json = Field(sa_type=JSONB)
    channel: UUID
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Message(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    run: UUID
    rule: UUID
    rule_name: str
    event: Json = Field(sa_type=JSONB)
    event_id: UUID
    event_type: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Delivery(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    run: UUID
    message: UUID
    channel: UUID
    channel_name: str
    channel_kind: str
    destination: str
    status: str
    attempts: int = 0
    attempts_before: int = 0
    reason: Json | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    job: UUID | None = None
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class DeliveryAttempt(SQLModel, table=True):
    __tablename__ = "delivery_attempt"

    delivery: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    outcome: str
    code: str | None = None
    detail: str
    response: str
    started_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime = Field(sa_type=DateTime(timezone=True))
