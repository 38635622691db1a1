"""What `reports` says to itself."""

from typing import ClassVar
from uuid import UUID

from shared.ledger.messages import EventArgs, JobArgs, Retry


class MatchDefinitions(EventArgs):
    """A version of a dataset is complete: owe a render to each definition that is made for it."""

    kind: ClassVar[str] = "reports.definition.match"
    queue: ClassVar[str] = "reports.jobs"


class RenderReport(JobArgs):
    """Render one report. The render's row holds everything else, the definition as it then was included."""

    kind: ClassVar[str] = "reports.report.render"
    queue: ClassVar[str] = "reports.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=5)
    together: ClassVar[int] = 1  # renders take a second or more: let them spread over the workers

    render_id: UUID
