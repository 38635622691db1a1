"""HTTP bodies of `ingest`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.http.bodies import Accepted

VersionState = Literal["loading", "ready", "failed"]


class DatasetLink(BaseModel):
    id: UUID
    name: str
    version: int
    url: str


class AcceptedDataset(Accepted):
    """202: the upload is stored and its load is owed."""

    dataset: DatasetLink


class VersionBody(BaseModel):
    """One load. Counts are rows; `columns` is the profile; `reason` says why it failed."""

    version: int
    state: VersionState
    reason: dict[str, Any] | None
    rows_loaded: int | None
    rows_rejected: int | None
    columns: list[dict[str, Any]] | None
    upload_bytes: int
    upload_sha256: str
    run: UUID
    job: UUID
    created_at: datetime
    finished_at: datetime | None


class DatasetBody(VersionBody):
    """A dataset as its newest version stands."""

    id: UUID
    name: str
    url: str


class DatasetPage(BaseModel):
    items: list[DatasetBody]
    next: UUID | None


class VersionPage(BaseModel):
    items: list[VersionBody]
    next: int | None


class RejectBody(BaseModel):
    """Why a row was kept out: `line` is where it begins in the file (1-based); no `column`: the row as a whole."""

    line: int
    column: str | None
    value: str | None
    code: str
    reason: str


class RejectPage(BaseModel):
    items: list[RejectBody]
    next: int | None
