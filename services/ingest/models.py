"""Tables of `ingest`. Their columns are documented where they are made, in migrations/."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class Dataset(SQLModel, table=True):
    id: UUID = Field(primary_key=True)
    workspace: UUID
    name: str
    version: int
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class DatasetVersion(SQLModel, table=True):
    __tablename__ = "dataset_version"

    dataset: UUID = Field(primary_key=True)
    version: int = Field(primary_key=True)
    workspace: UUID
    run: UUID
    job: UUID
    upload: str
    upload_bytes: int = Field(sa_type=BigInteger)
    upload_sha256: str
    state: str
    reason: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    object: str | None = None
    rejects: str | None = None
    rows_loaded: int | None = Field(default=None, sa_type=BigInteger)
    rows_rejected: int | None = Field(default=None, sa_type=BigInteger)
    columns: list[dict[str, Any]] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
