"""Which jobs somebody means: the same words for a list, a count, a redrive and a cancellation."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared import ids
from shared.ledger.messages import Lane, LaneName, Moment

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class JobFilter(BaseModel):
    """What is left out matches everything. Times are of the job's creation, RFC 3339 with an offset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: State | None = None
    kind: Annotated[str, Field(max_length=200)] | None = None
    queue: Annotated[str, Field(max_length=200)] | None = None
    lane: LaneName | None = None
    run: UUID | None = None
    batch: UUID | None = None
    created_from: Moment | None = None
    created_until: Moment | None = Field(None, description="Before this moment.")
    error: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="Part of the reason's code or sentence, in upper or lower case."
    )

    def where(self, workspace: UUID) -> tuple[str, list[Any]]:
        """The condition on `job` in SQL, and its values. Bounds of time are bounds of the id, which begins with it."""
        clauses = {
            "workspace = %s": workspace,
            "run = %s": self.run,
            "batch = %s": self.batch,
            "state = %s": self.state,
            "kind = %s": self.kind,
            "queue = %s": self.queue,
            "priority = %s": None if self.lane is None else int(Lane.named(self.lane)),
            "id >= %s": ids.floor(self.created_from) if self.created_from else None,
            "id < %s": ids.floor(self.created_until) if self.created_until else None,
            "strpos(lower(concat_ws(' ', error ->> 'code', error ->> 'detail')), lower(%s)) > 0": self.error,
        }
        given = {clause: value for clause, value in clauses.items() if value is not None}
        return " AND ".join(given), list(given.values())
