"""HTTP bodies of `api`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from shared.contracts.envelope import Envelope
from shared.http.bodies import JobBody

Name = Field(min_length=1, max_length=100, pattern=r"^[\w][\w .\-]*$")


class NewWorkspace(BaseModel):
    name: str = Name


class WorkspaceBody(BaseModel):
    id: UUID
    name: str
    created_at: datetime


class NewKey(BaseModel):
    name: str = Name
    scopes: list[str] = Field(default=["read", "write"], min_length=1, max_length=10)


class KeyBody(BaseModel):
    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class NewKeyBody(KeyBody):
    key: str
    """Shown here and never again."""


class KeyList(BaseModel):
    items: list[KeyBody]


class TokenBody(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  # the field's name, no secret
    expires_in: int


class RunSummary(BaseModel):
    id: UUID
    workspace: UUID
    state: str
    reason: str | None
    trace_id: str | None
    created_at: datetime
    finished_at: datetime | None
    url: str


class RunPage(BaseModel):
    items: list[RunSummary]
    next: UUID | None


class RunBody(RunSummary):
    """The whole chain: every job of every service and every event, oldest first."""

    jobs: list[JobBody]
    events: list[Envelope]
    unreachable: list[str]
    """Services that could not be asked; their jobs are missing here."""


class SpanBody(BaseModel):
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: str
    status: str
    started_at: datetime
    finished_at: datetime
    attributes: dict[str, Any]


class TraceBody(BaseModel):
    trace_id: str
    spans: list[SpanBody]
