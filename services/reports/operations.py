"""Use cases of `reports`: definitions, matching them to datasets, and rendering."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel import Session

from services.reports import repository
from services.reports.adapters.rendering import File, Rendered, render
from services.reports.domain import matching
from services.reports.domain.definition import ANY_DATASET, Burst, Definition, for_recipient
from services.reports.domain.document import Context
from services.reports.domain.planning import check_only
from services.reports.errors import (
    ArtifactNotFound,
    DatasetUnknown,
    DatasetUnnamed,
    DatasetUnreadable,
    DefinitionExists,
    DefinitionNotFound,
    RenderMissing,
    RenderNotFound,
    ReportError,
    shortened,
)
from services.reports.jobs import CompleteBurst, RenderReport
from services.reports.models import Artifact, KnownDataset, Render, ReportDefinition
from shared import ids, telemetry
from shared.contracts import reports as contracts
from shared.contracts.envelope import Envelope, Reason
from shared.contracts.ingest import DatasetCompleted
from shared.errors import NotFound
from shared.ledger.batches import enqueue_batch, outcome_before
from shared.ledger.enqueue import Origin, enqueue, origin, publish
from shared.ledger.moves import Claimed
from shared.objects import ObjectStore

Progress = Callable[[int, int, str, str], None]
"""Told what is done, of how many, in which unit, and what goes on now."""


# Definitions


def create_definition(session: Session, workspace: UUID, definition: Definition) -> ReportDefinition:
    """Raises DefinitionExists."""
    stored = ReportDefinition(
        id=ids.draw(),
        workspace=workspace,
        name=definition.name,
        dataset=definition.dataset,
        body=definition.model_dump(mode="json"),
        created_at=datetime.now(UTC),
    )
    if not repository.add_definition(session, stored):
        raise DefinitionExists(f"There is a definition named {definition.name!r} already.", name=definition.name)
    return stored


def show_definition(session: Session, workspace: UUID, id: UUID) -> ReportDefinition:
    """Raises DefinitionNotFound."""
    found = repository.find_definition(session, workspace, id)
    if found is None:
        raise DefinitionNotFound("There is no such definition.", id=str(id))
    return found


def delete_definition(session: Session, workspace: UUID, id: UUID) -> None:
    """Its renders stay, and those that are owed are still made. Raises DefinitionNotFound."""
    session.delete(show_definition(session, workspace, id))


# Matching


def match_definitions(session: Session, event: Envelope) -> dict[str, int]:
    """Owe a render to each definition that is made for the dataset, and say for each of the others why not.

    Answers how many were `owed` and `skipped`. The ids of renders and their jobs are derived from the event:
    doing this again adds nothing.
    """
    completed = event.read(DatasetCompleted)
    repository.know_dataset(
        session,
        KnownDataset(workspace=event.workspace, name=completed.name, version=completed.version, completed=event.data),
    )
    stored = repository.definitions_for(session, event.workspace, completed.name)
    jobs = {ids.derive(event.id, RenderReport.kind, each.id): each for each in stored}
    renders = {job: _match(session, event.id, completed, each, job) for job, each in jobs.items()}
    owed = [enqueue(session, render, id=job) for job, render in renders.items() if render is not None]
    return {"owed": len(owed), "skipped": len(stored) - len(owed)}


def render_definition(session: Session, id: UUID, dataset: str | None, job: UUID) -> RenderReport | None:
    """A render of the definition over the newest version of its dataset, for the job to go on with; None, having said
    why, when it does not match. Raises DefinitionNotFound, DatasetUnnamed and DatasetUnknown.
    """
    because = origin(session)
    stored = show_definition(session, because.workspace, id)
    completed = _newest(session, because.workspace, stored, dataset)
    return _match(session, job, completed, stored, job)


def _newest(session: Session, workspace: UUID, stored: ReportDefinition, dataset: str | None) -> DatasetCompleted:
    """The newest version of the definition's dataset. Raises DatasetUnnamed and DatasetUnknown."""
    name = dataset if stored.dataset == ANY_DATASET else stored.dataset
    if name is None:
        raise DatasetUnnamed("The definition is made for every dataset: name one.")
    if dataset not in (None, name):
        raise DatasetUnnamed(f"The definition is made for {shortened(name)} alone.")
    known = repository.find_dataset(session, workspace, name)
    if known is None:
        raise DatasetUnknown(f"No version of {shortened(name)} has been completed yet.")
    return DatasetCompleted.model_validate(known.completed)


def _match(
    session: Session, cause: UUID, completed: DatasetCompleted, stored: ReportDefinition, job: UUID
) -> RenderReport | None:
    """A render for the job to make, with an id derived from the cause; or None, having said why not."""
    columns = [matching.column(column.name, column.type) for column in completed.columns]
    reason = matching.why_not(Definition.model_validate(stored.body), columns, completed.rows_loaded)
    if reason is not None:
        _skip(session, completed, stored, reason)
        return None
    id = ids.derive(cause, "render", stored.id)
    repository.add_render(session, _render(origin(session), id, job, completed, stored, stored.body))
    return RenderReport(render_id=id)


def _render(
    because: Origin, id: UUID, job: UUID, completed: DatasetCompleted, stored: ReportDefinition, body: dict[str, Any]
) -> Render:
    return Render(
        id=id,
        workspace=because.workspace,
        run=because.run,
        job=job,
        definition_id=stored.id,
        definition=body,
        dataset_id=completed.dataset_id,
        dataset=completed.name,
        version=completed.version,
        object=completed.object,
        rows_loaded=completed.rows_loaded,
        rows_rejected=completed.rows_rejected,
        state="queued",
        created_at=datetime.now(UTC),
    )


def _skip(session: Session, completed: DatasetCompleted, stored: ReportDefinition, reason: ReportError) -> None:
    skipped = contracts.ReportSkipped(
        definition_id=stored.id,
        definition=stored.name,
        dataset_id=completed.dataset_id,
        dataset=completed.name,
        version=completed.version,
        reason=Reason(**reason.reason()),
    )
    publish(session, skipped, subject=stored.id)


# Bursts


def burst(session: Session, id: UUID, wanted: Burst, batch: UUID) -> None:
    """Owe a render for each recipient over the newest version of the definition's dataset, and a job that says how
    they ended: one `batch`. Raises DefinitionNotFound, DatasetUnnamed, DatasetUnknown, and the ReportError for which
    none of them could be rendered.
    """
    because = origin(session)
    stored = show_definition(session, because.workspace, id)
    completed = _newest(session, because.workspace, stored, wanted.dataset)
    columns = [matching.column(column.name, column.type) for column in completed.columns]
    definition = Definition.model_validate(stored.body)
    if reason := matching.why_not(definition, columns, completed.rows_loaded):
        raise reason
    for recipient in wanted.recipients:
        check_only(recipient.only, columns)
    renders = [RenderReport(render_id=ids.draw()) for _ in wanted.recipients]
    complete = CompleteBurst(
        definition_id=stored.id,
        definition=stored.name,
        dataset_id=completed.dataset_id,
        dataset=completed.name,
        version=completed.version,
    )
    owed = enqueue_batch(
        session, [renders, [complete]], on_failure="continue", name=f"burst of {stored.name}", id=batch
    )
    for each, job, recipient in zip(renders, owed.jobs[0], wanted.recipients, strict=True):
        body = for_recipient(definition, recipient).model_dump(mode="json")
        repository.add_render(session, _render(because, each.render_id, job, completed, stored, body))


def complete_burst(session: Session, job: Claimed, args: CompleteBurst) -> dict[str, int]:
    """Say how the reports of a burst ended; answers how many were `rendered`, and how many `failed`."""
    ended = outcome_before(session, job)
    counts = {"rendered": ended.counts.get("succeeded", 0), "failed": len(ended.unsuccessful)}
    batch = job.batch or job.id
    publish(session, contracts.BurstCompleted(batch_id=batch, **args.model_dump(), **counts), subject=batch)
    return counts


# Rendering


@dataclass(frozen=True)
class Stored:
    """A rendered file in the object store."""

    file: File
    object: str


def begin_render(session: Session, id: UUID) -> Render:
    """The render of a job. Raises RenderMissing."""
    found = repository.get_render(session, id)
    if found is None:
        raise RenderMissing("The render is not there any more.", render=str(id))
    return found


def make_report(
    objects: ObjectStore, found: Render, scratch: Path, progress: Progress
) -> tuple[Rendered, Sequence[Stored]]:
    """Fetch the Parquet, render it in `scratch`, store the files. Writes no row.

    The keys are the render's, and each attempt writes the same bytes: dying anywhere in here leaves at most
    objects that the next attempt replaces. Raises a ReportError, or whatever the object store raises.
    """
    parquet, out = scratch / "data.parquet", scratch / "out"
    out.mkdir()
    definition = Definition.model_validate(found.definition)
    steps, begun = len(definition.formats) + 3, count()

    def begins(step: str) -> None:
        progress(next(begun), steps, "steps", step)

    begins("fetching the dataset")
    with telemetry.span("fetch dataset"):
        _fetch(objects, found.object, parquet)
    rendered = render(parquet, definition, _context(found), out, begins)
    begins("storing the files")
    with telemetry.span("store artifacts", files=len(rendered.files)):
        stored = [_store(objects, found, file) for file in rendered.files]
    progress(steps, steps, "steps", "all is stored")
    return rendered, stored


def _fetch(objects: ObjectStore, key: str, path: Path) -> None:
    try:
        objects.get_file(key, path)
    except NotFound:
        raise DatasetUnreadable("The dataset's Parquet is not in the object store (any more).", object=key) from None


def _context(found: Render) -> Context:
    return Context(
        dataset=found.dataset,
        version=found.version,
        rows_loaded=found.rows_loaded,
        rows_rejected=found.rows_rejected,
        generated_at=found.created_at,
        run=str(found.run),
    )


def _store(objects: ObjectStore, found: Render, file: File) -> Stored:
    key = f"reports/{found.workspace}/{found.id}/report.{file.format.value}"
    objects.put_file(key, file.path)
    return Stored(file, key)


def finish_render(session: Session, found: Render, rendered: Rendered, stored: Sequence[Stored]) -> None:
    """Artifacts, the render's end and the event: what the job's finishing transaction writes."""
    now = datetime.now(UTC)
    artifacts = [
        Artifact(
            id=ids.derive(found.id, each.file.format.value),
            workspace=found.workspace,
            render=found.id,
            format=each.file.format.value,
            object=each.object,
            bytes=each.file.bytes,
            media_type=each.file.media_type,
            filename=each.file.filename,
            created_at=now,
        )
        for each in stored
    ]
    repository.add_artifacts(session, artifacts)
    figures = [{"label": figure.label, "value": figure.text} for figure in rendered.figures]
    repository.set_render(session, found.id, "ready", now, figures=figures)
    event = contracts.ReportRendered(
        render_id=found.id,
        definition_id=found.definition_id,
        definition=found.definition["name"],
        title=found.definition["title"],
        dataset_id=found.dataset_id,
        dataset=found.dataset,
        version=found.version,
        artifacts=[contracts.Artifact(**artifact.model_dump()) for artifact in artifacts],
        figures=[contracts.Figure(**figure) for figure in figures],
    )
    publish(session, event, subject=found.id)


def fail_render(session: Session, id: UUID, reason: dict[str, Any]) -> None:
    """What it means that a render's job failed for good; in that very transaction."""
    found = repository.get_render(session, id)
    if found is None:
        return
    repository.set_render(session, id, "failed", datetime.now(UTC), reason=reason)
    event = contracts.ReportFailed(
        render_id=found.id,
        definition_id=found.definition_id,
        definition=found.definition["name"],
        dataset_id=found.dataset_id,
        dataset=found.dataset,
        version=found.version,
        reason=Reason(**reason),
    )
    publish(session, event, subject=found.id)


def reopen_render(session: Session, id: UUID) -> None:
    """A render that failed is driven again."""
    repository.set_render(session, id, "queued", None)


# Reading


def show_render(session: Session, workspace: UUID, id: UUID) -> Render:
    """Raises RenderNotFound."""
    found = repository.find_render(session, workspace, id)
    if found is None:
        raise RenderNotFound("There is no such render.", id=str(id))
    return found


def show_artifact(session: Session, workspace: UUID, id: UUID) -> Artifact:
    """Raises ArtifactNotFound."""
    found = repository.find_artifact(session, workspace, id)
    if found is None:
        raise ArtifactNotFound("There is no such artifact.", id=str(id))
    return found


def artifacts_of(session: Session, renders: Sequence[Render]) -> dict[UUID, list[Artifact]]:
    """The artifacts of each render, in the order in which its definition names the formats."""
    found: dict[UUID, list[Artifact]] = {render.id: [] for render in renders}
    for artifact in repository.list_artifacts(session, found):
        found[artifact.render].append(artifact)
    for each in renders:
        found[each.id].sort(key=lambda artifact, order=each.definition["formats"]: order.index(artifact.format))  # type: ignore[misc]
    return found
