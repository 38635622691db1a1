"""Use cases of `ingest`: an upload becomes a version of a dataset, or fails with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel import Session

from services.ingest import adapters, repository
from services.ingest.adapters import REJECTS, LoadResult, PartRead, Plan, join_parts, load_csv, plan_parts
from services.ingest.errors import NoValidRows, PartMissing
from services.ingest.jobs import JoinParts, LoadDataset, ReadPart, VersionArgs
from services.ingest.models import Dataset, DatasetVersion
from shared import ids
from shared.contracts.envelope import Reason
from shared.contracts.ingest import Column, DatasetCompleted, DatasetFailed
from shared.errors import NotFound, Snooze
from shared.ledger.batches import NAME_CHARACTERS, enqueue_batch, results_of
from shared.ledger.enqueue import enqueue, origin, publish
from shared.objects import ObjectStore

Progress = Callable[[int, int], None]
"""Told what is done, of how many, in bytes of the upload."""
PARTS_SECONDS = 5.0
"""So long parts that are being read again are waited for at a time."""


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
    version = _add_version(session, name, upload, job=ids.draw())
    enqueue(session, LoadDataset(dataset_id=version.dataset, version=version.version), id=version.job)
    return version


def _add_version(session: Session, name: str, upload: Upload, job: UUID) -> DatasetVersion:
    """A new version of the dataset of this name, to be loaded by the job."""
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
        job=job,
        upload=upload.object,
        upload_bytes=upload.bytes,
        upload_sha256=upload.sha256,
        state="loading",
        created_at=now,
    )
    repository.add_version(session, version)
    return version


def reload(session: Session, id: UUID, job: UUID) -> DatasetVersion:
    """A new version of the workspace's dataset, of the upload that its newest was made of, to be loaded by the job.
    Raises NotFound."""
    dataset, newest = show_dataset(session, origin(session).workspace, id)
    upload = Upload(newest.upload, newest.upload_bytes, newest.upload_sha256)
    return _add_version(session, dataset.name, upload, job)


@dataclass(frozen=True)
class Loading:
    """What a load needs to know, read before its long part begins."""

    name: str
    version: DatasetVersion

    def key(self, what: str) -> str:
        """Where the load stores its results: the same at every attempt, so that a second overwrites the first."""
        return f"{self._prefix}/{what}.parquet"

    def part_key(self, what: str) -> str:
        """Where what is read in parts is kept until it is joined."""
        return f"{self._prefix}/parts/{what}"

    @property
    def _prefix(self) -> str:
        return f"datasets/{self.version.workspace}/{self.version.dataset}/{self.version.version}"


def begin_load(session: Session, args: VersionArgs, *, lock: bool = False) -> Loading:
    """Raises NotFound."""
    version = repository.find_version(session, args.dataset_id, args.version, lock=lock)
    dataset = session.get(Dataset, args.dataset_id)
    if version is None or dataset is None:
        raise NotFound("There is no such version of a dataset.", dataset_id=str(args.dataset_id), version=args.version)
    return Loading(dataset.name, version)


def load(store: ObjectStore, loading: Loading, scratch: Path, progress: Progress) -> LoadResult:
    """Type, profile and store the upload. Raises FileRefused when the file cannot become a dataset."""
    source, work = _fetched(store, loading, scratch), scratch / "work"
    work.mkdir()

    def make(target: Path, rejects: Path) -> LoadResult:
        return load_csv(source, target, rejects, scratch=work, progress=progress)

    return _stored(store, loading, scratch, make)


def _fetched(store: ObjectStore, loading: Loading, scratch: Path) -> Path:
    """The upload in the attempt's own folder."""
    source = scratch / "upload.csv"
    if not source.exists():
        store.get_file(loading.version.upload, source)
    return source


def _stored(
    store: ObjectStore, loading: Loading, scratch: Path, make: Callable[[Path, Path], LoadResult]
) -> LoadResult:
    """What `make` writes at the Parquet and the rejects that it is given, in the store."""
    target, rejects = scratch / "data.parquet", scratch / "rejects.parquet"
    try:
        loaded = make(target, rejects)
    except NoValidRows:
        store.put_file(loading.key("rejects"), rejects)  # what was wrong with each row is what people need now
        raise
    store.put_file(loading.key("rejects"), rejects)
    store.put_file(loading.key("data"), target)
    return loaded


# In parts


def plan_load(store: ObjectStore, loading: Loading, scratch: Path, part_bytes: int, progress: Progress) -> Plan | None:
    """How to read the upload in parts; None when it is no larger than one, or cannot be cut. Raises FileRefused."""
    if loading.version.upload_bytes <= part_bytes:
        return None
    plan = plan_parts(_fetched(store, loading, scratch), part_bytes, progress)
    if plan is not None:
        written = scratch / "plan.json"
        written.write_bytes(plan.as_json())
        store.put_file(loading.part_key("plan.json"), written)
    return plan


def owe_parts(session: Session, loading: Loading, plan: Plan) -> JoinParts:
    """Owe a job a part, which workers share: a batch. Answers what is to be done when it has ended."""
    version = {"dataset_id": loading.version.dataset, "version": loading.version.version}
    parts = [ReadPart(**version, number=number) for number in range(len(plan.parts))]
    batch = enqueue_batch(session, [parts], name=f"{loading.name} {loading.version.version}"[:NAME_CHARACTERS])
    return JoinParts(**version, batch=batch.id)


def read_part(
    store: ObjectStore, loading: Loading, number: int, scratch: Path, progress: Progress
) -> dict[str, Any] | None:
    """Store the part's rows as text columns; answers what there is of it, or None when it does not end between two
    rows. The keys are the same at every attempt."""
    plan, source, out = _plan(store, loading), scratch / "part.csv", scratch / "out"
    store.get_slice(loading.version.upload, source, plan.parts[number].start, plan.parts[number].end)
    out.mkdir()
    read = adapters.read_part(source, plan, number, out, progress)
    if read is None:
        return None
    for file in (*read.files, REJECTS):
        store.put_file(loading.part_key(f"{number:05}/{file}"), out / file)
    return read.as_json()


def find_parts(session: Session, batch: UUID) -> list[PartRead | None]:
    """What the batch's jobs made of the parts, in their order. Raises PartMissing, and Snooze while one is being read
    again."""
    rows = results_of(session, batch, 1)
    if unfinished := sum(row["state"] in ("queued", "running") for row in rows):
        raise Snooze(f"{unfinished} parts are being read again.", after=PARTS_SECONDS)
    for row in rows:
        if row["state"] != "succeeded":
            raise PartMissing(f"A part was not read: {row['error']['detail']}", job=str(row["id"]))
    return [PartRead(**row["result"]) if row["result"] is not None else None for row in rows]


def join(
    store: ObjectStore, loading: Loading, parts: Sequence[PartRead | None], scratch: Path, progress: Progress
) -> LoadResult:
    """As `load`, of what was read in parts; of the whole upload when a part does not end between two rows."""
    if any(part is None for part in parts):
        return load(store, loading, scratch, progress)
    plan, work = _plan(store, loading), scratch / "work"
    work.mkdir()
    read = [(work / f"{number:05}", part) for number, part in enumerate(parts) if part is not None]
    for folder, part in read:
        folder.mkdir()
        for file in (*part.files, REJECTS):
            store.get_file(loading.part_key(f"{folder.name}/{file}"), folder / file)

    def make(target: Path, rejects: Path) -> LoadResult:
        return join_parts(plan, read, target, rejects, scratch=work, progress=progress)

    return _stored(store, loading, scratch, make)


def drop_parts(store: ObjectStore, loading: Loading) -> None:
    """What was read of the parts is of no use any more. Dying in here leaves objects that nothing refers to."""
    for key in store.keys(loading.part_key("")):
        store.delete(key)


def _plan(store: ObjectStore, loading: Loading) -> Plan:
    return Plan.of_json(store.get_bytes(loading.part_key("plan.json")))


# How a load ends


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


def fail_load(session: Session, args: VersionArgs, reason: dict[str, Any]) -> None:
    """The version failed for good, in the transaction that fails its job; the version before it stays. Of several parts
    the first one says so."""
    loading = begin_load(session, args, lock=True)
    version = loading.version
    if version.state != "loading":
        return
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


def reopen_load(session: Session, args: VersionArgs) -> None:
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
