"""Tables of `reports`. Their columns are documented where they are made, in migrations/."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class ReportDefinition(SQLModel, table=True):
    __tablename__ = "definition"

    id: UUID = Field(primary_key=True)
    workspace: UUID
    name: str
    dataset: str
    body: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class KnownDataset(SQLModel, table=True):
    __tablename__ = "known_dataset"

    workspace: UUID = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int
    completed: dict[str, Any] = Field(sa_type=JSONB)


class Render(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    run: UUID
    job: UUID
    definition_id: UUID
    definition: dict[str, Any] = Field(sa_type=JSONB)
    dataset_id: UUID
    dataset: str
    version: int
    object: str
    rows_loaded: int = Field(sa_type=BigInteger)
    rows_rejected: int = Field(sa_type=BigInteger)
    state: str
    reason: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    figures: list[dict[str, str]] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class Artifact(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    render: UUID
    format: str
    object: str
    bytes: int = Field(sa_type=BigInteger)
    media_type: str
    filename: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
