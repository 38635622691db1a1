"""Use cases of `ingest`: an upload becomes a version of a dataset, or fails with a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel import Session

from services.ingest import repository
from services.ingest.adapters import LoadResult, load_csv
from services.ingest.errors import NoValidRows
from services.ingest.jobs import LoadDataset
from services.ingest.models import Dataset, DatasetVersion
from shared import ids
from shared.contracts.envelope import Reason
from shared.contracts.ingest import Column, DatasetCompleted, DatasetFailed
from shared.errors import NotFound
from shared.ledger.enqueue import enqueue, origin, publish
from shared.objects import ObjectStore


@dataclass(frozen=True)
class Upload:
    """A stored upload: its key, its size, and the SHA-256 (hex) of its bytes."""

    object: str
    bytes: int
    sha256: str


def upload_key(workspace: UUID) -> str:
    """A new key for an upload."""
    return f"uploads/{workspace}/{ids.draw()}.csv"


def accept_upload(session: Session, name: str, upload: Upload) -> DatasetVersion:
    """A new version of the dataset of this name, and the job that loads it. Needs the transaction's origin."""
    because = origin(session)
    now = datetime.now(UTC)
    dataset = repository.next_version(
        session, Dataset(id=ids.draw(), workspace=because.workspace, name=name, version=1, created_at=now)
    )
    version = DatasetVersion(
        dataset=dataset.id,
        version=dataset.version,
        workspace=because.workspace,
        run=because.run,
        job=enqueue(session, LoadDataset(dataset_id=dataset.id, version=dataset.version)),
        upload=upload.object,
        upload_bytes=upload.bytes,
        upload_sha256=upload.sha256,
        state="loading",
        created_at=now,
    )
    repository.add_version(session, version)
    return version


@dataclass(frozen=True)
class Loading:
    """What a load needs to know, read before its long part begins."""

    name: str
    version: DatasetVersion

    def key(self, what: str) -> str:
        """Where the load stores its results: the same at every attempt, so that a second overwrites the first."""
        return f"datasets/{self.version.workspace}/{self.version.dataset}/{self.version.version}/{what}.parquet"


def begin_load(session: Session, args: LoadDataset) -> Loading:
    """Raises NotFound."""
    version = repository.find_version(session, args.dataset_id, args.version)
    dataset = session.get(Dataset, args.dataset_id)
    if version is None or dataset is None:
        raise NotFound("There is no such version of a dataset.", dataset_id=str(args.dataset_id), version=args.version)
    return Loading(dataset.name, version)


def load(store: ObjectStore, loading: Loading, scratch: Path, progress: Callable[[int, int], None]) -> LoadResult:
    """Type, profile and store the upload. Raises FileRefused when the file cannot become a dataset."""
    source, target, rejects = scratch / "upload.csv", scratch / "data.parquet", scratch / "rejects.parquet"
    store.get_file(loading.version.upload, source)
    work = scratch / "work"
    work.mkdir()
    try:
        loaded = load_csv(source, target, rejects, scratch=work, progress=progress)
    except NoValidRows:
        store.put_file(loading.key("rejects"), rejects)  # what was wrong with each row is what people need now
        raise
    store.put_file(loading.key("rejects"), rejects)
    store.put_file(loading.key("data"), target)
    return loaded


def complete_load(session: Session, loading: Loading, loaded: LoadResult) -> None:
    """The version is ready, and everyone is told."""
    version = loading.version
    version.state = "ready"
    version.reason = None
    version.object = loading.key("data")
    version.rejects = loading.key("rejects")
    version.rows_loaded = loaded.rows_loaded
    version.rows_rejected = loaded.rows_rejected
    version.columns = [column.as_json() for column in loaded.columns]
    version.finished_at = datetime.now(UTC)
    repository.end_version(session, version)
    completed = DatasetCompleted(
        dataset_id=version.dataset,
        name=loading.name,
        version=version.version,
        object=version.object,
        rows_loaded=loaded.rows_loaded,
        rows_rejected=loaded.rows_rejected,
        columns=[Column(name=column.name, type=str(column.type)) for column in loaded.columns],
    )
    publish(session, completed, subject=version.dataset)


def fail_load(session: Session, args: LoadDataset, reason: dict[str, Any]) -> None:
    """The version failed for good, in the transaction that fails its job; the version before it stays."""
    loading = begin_load(session, args)
    version = loading.version
    version.state = "failed"
    version.reason = reason
    version.object = version.rows_loaded = version.columns = None
    version.rows_rejected = reason.get("rows_rejected")
    version.rejects = loading.key("rejects") if reason["code"] == NoValidRows.code else None
    version.finished_at = datetime.now(UTC)
    failed = DatasetFailed(
        dataset_id=version.dataset, name=loading.name, version=version.version, reason=Reason.model_validate(reason)
    )
    publish(session, failed, subject=version.dataset)


def reopen_load(session: Session, args: LoadDataset) -> None:
    """The load of a version that failed is driven again."""
    version = begin_load(session, args).version
    version.state = "loading"
    version.reason = version.rejects = version.rows_rejected = version.finished_at = None


def show_dataset(session: Session, workspace: UUID, id: UUID) -> tuple[Dataset, DatasetVersion]:
    """The dataset with its newest version. Raises NotFound, also for another workspace's."""
    found = repository.find_dataset(session, workspace, id)
    if found is None:
        raise NotFound("There is no such dataset.", id=str(id))
    return found
