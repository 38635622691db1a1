"""Every query of `ingest`."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from services.ingest.models import Dataset, DatasetVersion


def next_version(session: Session, dataset: Dataset) -> Dataset:
    """The dataset of this name with its next version number, made when there is none. Uploads of the same
    name wait for each other here, so that numbers are given in the order of the commits."""
    statement = insert(Dataset).values(**dataset.model_dump())
    statement = statement.on_conflict_do_update(
        index_elements=["workspace", "name"], set_={"version": col(Dataset.version) + 1}
    )
    row = session.execute(statement.returning(*Dataset.__table__.columns)).one()  # type: ignore[attr-defined]
    return Dataset(**row._mapping)


def add_version(session: Session, version: DatasetVersion) -> None:
    session.add(version)


def find_version(session: Session, dataset: UUID, version: int, *, lock: bool = False) -> DatasetVersion | None:
    """With `lock`, as it stands once nobody else is about to change it."""
    return session.get(DatasetVersion, (dataset, version), with_for_update=lock or None)


def end_version(session: Session, version: DatasetVersion) -> None:
    """Write how a version ended; the row is found by its key, so a detached one will do."""
    changed = version.model_dump(
        include={"state", "reason", "object", "rejects", "rows_loaded", "rows_rejected", "columns", "finished_at"}
    )
    session.execute(
        update(DatasetVersion)
        .where(col(DatasetVersion.dataset) == version.dataset, col(DatasetVersion.version) == version.version)
        .values(**changed)
    )


def find_dataset(session: Session, workspace: UUID, id: UUID) -> tuple[Dataset, DatasetVersion] | None:
    """The dataset with its newest version."""
    return session.exec(_newest().where(Dataset.workspace == workspace, Dataset.id == id)).one_or_none()


def list_datasets(
    session: Session, workspace: UUID, name: str | None, after: UUID | None, limit: int
) -> Sequence[tuple[Dataset, DatasetVersion]]:
    """With their newest versions; the datasets made last come first."""
    query = _newest().where(Dataset.workspace == workspace)
    if name is not None:
        query = query.where(Dataset.name == name)
    if after is not None:
        query = query.where(col(Dataset.id) < after)
    return session.exec(query.order_by(col(Dataset.id).desc()).limit(limit)).all()


def list_versions(
    session: Session, workspace: UUID, dataset: UUID, before: int | None, limit: int
) -> Sequence[DatasetVersion]:
    """Newest first."""
    query = select(DatasetVersion).where(DatasetVersion.workspace == workspace, DatasetVersion.dataset == dataset)
    if before is not None:
        query = query.where(col(DatasetVersion.version) < before)
    return session.exec(query.order_by(col(DatasetVersion.version).desc()).limit(limit)).all()


def _newest() -> Select[Dataset, DatasetVersion]:
    return select(Dataset, DatasetVersion).join(
        DatasetVersion,
        (col(DatasetVersion.dataset) == col(Dataset.id)) & (col(DatasetVersion.version) == col(Dataset.version)),
    )
