"""Tables of `api`. Their columns are documented where they are made, in migrations/."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, String
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel


class Workspace(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    name: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class ApiKey(SQLModel, table=True):
    __tablename__ = "api_key"

    id: UUID = Field(primary_key=True)
    workspace: UUID
    name: str
    prefix: str
    digest: str
    scopes: list[str] = Field(sa_type=ARRAY(String))
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    revoked_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class AuditEntry(SQLModel, table=True):
    __tablename__ = "audit_entry"

    id: UUID = Field(primary_key=True)
    workspace: UUID
    actor: str
    action: str
    subject: str
    facts: dict[str, Any] = Field(sa_type=JSONB)


class Run(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    trace_id: str | None = None
    state: str
    reason: str | None = None
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class RunEvent(SQLModel, table=True):
    __tablename__ = "run_event"

    id: UUID = Field(primary_key=True)
    run: UUID
    workspace: UUID
    type: str
    source: str
    subject: str
    time: datetime = Field(sa_type=DateTime(timezone=True))
    causation: UUID
    data: dict[str, Any] = Field(sa_type=JSONB)


class Span(SQLModel, table=True):
    trace_id: str = Field(primary_key=True)
    span_id: str = Field(primary_key=True)
    parent_id: str | None = None
    workspace: UUID | None = None
    service: str
    name: str
    kind: str
    status: str
    started_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime = Field(sa_type=DateTime(timezone=True))
    attributes: dict[str, Any] = Field(sa_type=JSONB)
