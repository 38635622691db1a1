"""HTTP bodies of `reports`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from services.reports.domain.definition import Definition
from shared.http import RunLink
from shared.http.batches import BatchLink

RenderState = Literal["queued", "ready", "failed"]


class DefinitionBody(Definition):
    """A stored definition."""

    id: UUID
    created_at: datetime
    url: str


class DefinitionPage(BaseModel):
    items: list[DefinitionBody]
    next: UUID | None
    """Give it as `after` for the next page; null on the last."""


class BurstAccepted(BaseModel):
    """202: the reports are owed; `batch` tells how they go, `GET /v1/renders?run=` lists them."""

    batch: BatchLink
    run: RunLink
    renders: int


class ArtifactBody(BaseModel):
    """A rendered file; `url` is the file itself, relative to the gateway."""

    id: UUID
    format: str
    filename: str
    media_type: str
    bytes: int
    url: str


class FigureBody(BaseModel):
    label: str
    value: str
    """As printed in the report."""


class RenderBody(BaseModel):
    """One definition over one version of a dataset."""

    id: UUID
    run: UUID
    job: UUID
    definition_id: UUID
    definition: str
    title: str
    dataset_id: UUID
    dataset: str
    version: int
    state: RenderState
    reason: dict[str, Any] | None
    figures: list[FigureBody]
    artifacts: list[ArtifactBody]
    created_at: datetime
    finished_at: datetime | None
    url: str


class RenderPage(BaseModel):
    items: list[RenderBody]
    next: UUID | None
