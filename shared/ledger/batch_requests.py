"""A batch that somebody asks for: every job of it checked against its kind, then all owed in one transaction."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared import ids, telemetry
from shared.db import Database, Row
from shared.errors import MillraceError
from shared.ledger.batches import MOST_STEPS, NAME_CHARACTERS, Batch, OnFailure, check_size, insert_batch
from shared.ledger.enqueue import Origin, remember
from shared.ledger.requests import BatchJob, row_of
from shared.ledger.tasks import Tasks


class NewBatch(BaseModel):
    """Jobs of one service in steps, owed together or not at all."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)] | None = Field(
        None, description="For people; need not be unique."
    )
    on_failure: OnFailure = Field(
        "stop",
        description="When a job of a step did not succeed: `stop` calls all later steps off, `continue` opens them.",
    )
    steps: Annotated[list[list[BatchJob]], Field(min_length=1, max_length=MOST_STEPS)] = Field(
        description="The jobs of a step run side by side; the next step opens when all of them have ended. "
        "At most 10,000 jobs in all."
    )


@dataclass(frozen=True)
class OwedBatch:
    """The run that a request began, and the batch that is all of it."""

    run: UUID
    batch: Batch

    def as_json(self) -> dict[str, Any]:
        jobs = [[str(job) for job in step] for step in self.batch.jobs]
        return {"run": str(self.run), "batch": str(self.batch.id), "jobs": jobs}

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> "OwedBatch":
        jobs = [[UUID(job) for job in step] for step in kept["jobs"]]
        return cls(UUID(kept["run"]), Batch(UUID(kept["batch"]), jobs))


def owe_batch(
    database: Database,
    tasks: Tasks,
    workspace: UUID,
    wanted: NewBatch,
    *,
    key: str | None = None,
    fingerprint: str = "",
) -> OwedBatch:
    """Owe it in one transaction, as one new run. With an Idempotency-Key that came before with the same fingerprint,
    nothing is added and the first answer is given again.

    Raises BatchInvalid; KindUnknown, KindPrivate, ArgumentsInvalid and TimesInvalid with the facts `step` (from 1) and
    `index` (in it, from 0); KeyReused and BadRequest for the key.
    """
    check_size([len(step) for step in wanted.steps])
    because = Origin.request(workspace)
    rows = _rows(tasks, because, wanted)
    id = ids.draw()
    owed = OwedBatch(because.run, Batch(id, [[row["id"] for row in step] for step in rows]))
    with database.transaction(origin=because) as session:
        given = remember(session, workspace, key, fingerprint, owed.as_json()) if key is not None else None
        if given is not None:
            return OwedBatch.of_json(given)
        insert_batch(session, because, rows, name=wanted.name, on_failure=wanted.on_failure, id=id)
    return owed


def _rows(tasks: Tasks, because: Origin, wanted: NewBatch) -> list[list[Row]]:
    now, traceparent = datetime.now(UTC), telemetry.traceparent()
    rows: list[list[Row]] = []
    for number, step in enumerate(wanted.steps, start=1):
        rows.append([])
        for index, job in enumerate(step):
            try:
                rows[-1].append(row_of(tasks, because, job, now, traceparent))
            except MillraceError as error:
                error.detail = f"steps.{number - 1}.{index}: {error.detail}"
                error.facts |= {"step": number, "index": index}
                raise
    return rows
