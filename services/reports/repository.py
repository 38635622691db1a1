"""Every query of `reports`."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col, select

from services.reports.domain.definition import ANY_DATASET
from services.reports.models import Artifact, KnownDataset, Render, ReportDefinition


def add_definition(session: Session, definition: ReportDefinition) -> bool:
    """False when the workspace has a definition of that name."""
    statement = insert(ReportDefinition).values(**definition.model_dump())
    statement = statement.on_conflict_do_nothing(index_elements=["workspace", "name"])
    return bool(session.execute(statement.returning(col(ReportDefinition.id))).first())


def find_definition(session: Session, workspace: UUID, id: UUID) -> ReportDefinition | None:
    return session.exec(
        select(ReportDefinition).where(ReportDefinition.id == id, ReportDefinition.workspace == workspace)
    ).one_or_none()


def list_definitions(session: Session, workspace: UUID, after: UUID | None, limit: int) -> Sequence[ReportDefinition]:
    """Newest first."""
    query = select(ReportDefinition).where(ReportDefinition.workspace == workspace)
    if after is not None:
        query = query.where(col(ReportDefinition.id) < after)
    return session.exec(query.order_by(col(ReportDefinition.id).desc()).limit(limit)).all()


def definitions_for(session: Session, workspace: UUID, dataset: str) -> Sequence[ReportDefinition]:
    """Definitions made for the dataset or for any, oldest first."""
    return session.exec(
        select(ReportDefinition)
        .where(ReportDefinition.workspace == workspace, col(ReportDefinition.dataset).in_([dataset, ANY_DATASET]))
        .order_by(col(ReportDefinition.id))
    ).all()


def know_dataset(session: Session, dataset: KnownDataset) -> None:
    """Keep the newest version of a dataset; versions may come in any order."""
    statement = insert(KnownDataset).values(**dataset.model_dump())
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["workspace", "name"],
            set_={"version": statement.excluded.version, "completed": statement.excluded.completed},
            where=col(KnownDataset.version) < statement.excluded.version,
        )
    )


def find_dataset(session: Session, workspace: UUID, name: str) -> KnownDataset | None:
    return session.get(KnownDataset, (workspace, name))


def add_render(session: Session, render: Render) -> None:
    """Enter a render; one that is there already stays as it is."""
    session.execute(insert(Render).values(**render.model_dump()).on_conflict_do_nothing(index_elements=["id"]))


def get_render(session: Session, id: UUID) -> Render | None:
    """The render of whichever workspace: for the service itself, never for a caller."""
    return session.get(Render, id)


def find_render(session: Session, workspace: UUID, id: UUID) -> Render | None:
    return session.exec(select(Render).where(Render.id == id, Render.workspace == workspace)).one_or_none()


def list_renders(
    session: Session,
    workspace: UUID,
    *,
    run: UUID | None,
    definition: UUID | None,
    state: str | None,
    after: UUID | None,
    limit: int,
) -> Sequence[Render]:
    """Newest first."""
    query = select(Render).where(Render.workspace == workspace)
    if run is not None:
        query = query.where(Render.run == run)
    if definition is not None:
        query = query.where(Render.definition_id == definition)
    if state is not None:
        query = query.where(Render.state == state)
    if after is not None:
        query = query.where(col(Render.id) < after)
    return session.exec(query.order_by(col(Render.id).desc()).limit(limit)).all()


def set_render(
    session: Session,
    id: UUID,
    state: str,
    at: datetime | None,
    *,
    reason: dict[str, Any] | None = None,
    figures: list[dict[str, str]] | None = None,
) -> None:
    session.execute(
        update(Render).where(col(Render.id) == id).values(state=state, reason=reason, figures=figures, finished_at=at)
    )


def add_artifacts(session: Session, artifacts: Iterable[Artifact]) -> None:
    session.add_all(artifacts)


def list_artifacts(session: Session, renders: Iterable[UUID]) -> Sequence[Artifact]:
    return session.exec(select(Artifact).where(col(Artifact.render).in_(list(renders)))).all()


def find_artifact(session: Session, workspace: UUID, id: UUID) -> Artifact | None:
    return session.exec(select(Artifact).where(Artifact.id == id, Artifact.workspace == workspace)).one_or_none()
