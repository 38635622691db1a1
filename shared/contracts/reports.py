"""Events that `reports` publishes."""

from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.contracts.envelope import Event, Reason


class Artifact(BaseModel):
    """One file of a rendered report, by claim check."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    format: str
    object: str
    bytes: int
    filename: str
    media_type: str


class Figure(BaseModel):
    model_config = ConfigDict(frozen=True)

    label: str
    value: str
    """As printed in the report."""


class ReportRendered(Event):
    """A report is rendered and its artifacts are stored."""

    type: ClassVar[str] = "reports.report.rendered.v1"
    owner: ClassVar[str] = "reports"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "notifications.event.match")

    render_id: UUID
    definition_id: UUID
    definition: str
    title: str
    dataset_id: UUID
    dataset: str
    version: int
    artifacts: list[Artifact]
    figures: list[Figure]


class ReportSkipped(Event):
    """A definition subscribes to the dataset, but there was nothing to render; the reason says why."""

    type: ClassVar[str] = "reports.report.skipped.v1"
    owner: ClassVar[str] = "reports"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "notifications.event.match")

    definition_id: UUID
    definition: str
    dataset_id: UUID
    dataset: str
    version: int
    reason: Reason


class ReportFailed(Event):
    """A report could not be rendered."""

    type: ClassVar[str] = "reports.report.failed.v1"
    owner: ClassVar[str] = "reports"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "notifications.event.match")

    render_id: UUID
    definition_id: UUID
    definition: str
    dataset_id: UUID
    dataset: str
    version: int
    reason: Reason


class BurstCompleted(Event):
    """All reports of a burst, one for each recipient, have ended: rendered, failed or called off."""

    type: ClassVar[str] = "reports.burst.completed.v1"
    owner: ClassVar[str] = "reports"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record", "notifications.event.match")

    batch_id: UUID
    definition_id: UUID
    definition: str
    dataset_id: UUID
    dataset: str
    version: int
    rendered: int
    failed: int
