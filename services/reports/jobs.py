"""What `reports` says to itself."""

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import StringConstraints

from shared.ledger.messages import EventArgs, JobArgs, Retry


class MatchDefinitions(EventArgs):
    """A version of a dataset is complete: owe a render to each definition that is made for it."""

    kind: ClassVar[str] = "reports.definition.match"
    queue: ClassVar[str] = "reports.jobs"


class RenderDefinition(JobArgs):
    """Match one definition with the newest version of its dataset, when somebody or a schedule asks; goes on as
    RenderReport."""

    kind: ClassVar[str] = "reports.definition.render"
    queue: ClassVar[str] = "reports.jobs"
    public: ClassVar[bool] = True

    definition_id: UUID
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """Which one, of a definition that is made for every dataset."""


class CompleteBurst(JobArgs):
    """All reports of a burst have ended: say how. Its facts are those of when it was asked for."""

    kind: ClassVar[str] = "reports.burst.complete"
    queue: ClassVar[str] = "reports.jobs"

    definition_id: UUID
    definition: str
    dataset_id: UUID
    dataset: str
    version: int


class RenderReport(JobArgs):
    """Render one report. The render's row holds everything else, the definition as it then was included."""

    kind: ClassVar[str] = "reports.report.render"
    queue: ClassVar[str] = "reports.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=5)
    together: ClassVar[int] = 1  # renders take a second or more: let them spread over the workers

    render_id: UUID
