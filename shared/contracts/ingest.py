"""Events that `ingest` publishes."""

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.contracts.envelope import Event, Reason


class Column(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    """bigint, decimal, double, boolean, date, timestamp or text"""


class DatasetCompleted(Event):
    """A version of a dataset is typed, stored and ready to be read."""

    type: ClassVar[str] = "ingest.dataset.completed.v1"
    owner: ClassVar[str] = "ingest"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "reports.definition.match", "notifications.event.match")

    dataset_id: UUID
    name: str
    version: int
    object: str
    """Key of the version's Parquet in the object store."""
    rows_loaded: int
    rows_rejected: int
    columns: list[Column]


class DatasetFailed(Event):
    """A version of a dataset could not be loaded; the version before it, if any, stays."""

    type: ClassVar[str] = "ingest.dataset.failed.v1"
    owner: ClassVar[str] = "ingest"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "notifications.event.match")

    dataset_id: UUID
    name: str
    version: int
    reason: Reason
