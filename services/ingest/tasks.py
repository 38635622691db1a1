"""One thin task a job."""

from typing import Any

from sqlmodel import Session

from services.ingest import operations
from services.ingest.adapters import LoadResult
from services.ingest.jobs import JoinParts, LoadDataset, ReadPart, ReloadDataset, VersionArgs
from services.ingest.settings import IngestSettings
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.objects import ObjectStore
from shared.scratch import scratch

tasks = Tasks()


@tasks.job(ReloadDataset, time_limit=60)
def reload_dataset(attempt: Attempt, args: ReloadDataset) -> None:
    with attempt.finishing() as session:
        made = operations.reload(session, args.dataset_id, attempt.job.id)
        attempt.continue_as(LoadDataset(dataset_id=made.dataset, version=made.version))


@tasks.job(LoadDataset, time_limit=4 * 3600)
def load_dataset(attempt: Attempt, args: LoadDataset) -> None:
    settings, objects = _here()
    with attempt.reading() as session:
        loading = operations.begin_load(session, args)
    loaded = None
    with scratch(settings.scratch_dir, attempt.job.id, attempt.job.attempt) as directory:
        plan = operations.plan_load(objects, loading, directory, settings.split_bytes, _bytes(attempt))
        if plan is None:
            loaded = operations.load(objects, loading, directory, _bytes(attempt))
    if loaded is not None:
        _complete(attempt, loading, loaded)
    elif plan is not None:
        with attempt.finishing() as session:
            joining = operations.owe_parts(session, loading, plan)
            attempt.continue_as(joining, after=joining.batch)


@tasks.job(ReadPart, time_limit=3600)
def read_part(attempt: Attempt, args: ReadPart) -> dict[str, Any] | None:
    settings, objects = _here()
    with attempt.reading() as session:
        loading = operations.begin_load(session, args)
    with scratch(settings.scratch_dir, attempt.job.id, attempt.job.attempt) as directory:
        return operations.read_part(objects, loading, args.number, directory, _bytes(attempt))


@tasks.job(JoinParts, time_limit=4 * 3600)
def join_parts(attempt: Attempt, args: JoinParts) -> None:
    settings, objects = _here()
    with attempt.reading() as session:
        loading = operations.begin_load(session, args)
        parts = operations.find_parts(session, args.batch)
    with scratch(settings.scratch_dir, attempt.job.id, attempt.job.attempt) as directory:
        loaded = operations.join(objects, loading, parts, directory, _bytes(attempt))
    _complete(attempt, loading, loaded)
    operations.drop_parts(objects, loading)


def _here() -> tuple[IngestSettings, ObjectStore]:
    settings = IngestSettings()
    return settings, ObjectStore(settings.objects_url)


def _bytes(attempt: Attempt) -> operations.Progress:
    return lambda done, total: attempt.progress(done, total, "bytes")


def _complete(attempt: Attempt, loading: operations.Loading, loaded: LoadResult) -> None:
    counts = {"rows_loaded": loaded.rows_loaded, "rows_rejected": loaded.rows_rejected}
    with attempt.finishing({"version": loading.version.version, **counts}) as session:
        operations.complete_load(session, loading, loaded)


def loading_again(session: Session, args: VersionArgs) -> None:
    operations.reopen_load(session, args)


def loading_failed(session: Session, args: VersionArgs, reason: dict[str, Any]) -> None:
    operations.fail_load(session, args, reason)


# What is read of a part comes to something when the parts are joined, and not before.
for begun in (LoadDataset, JoinParts):
    tasks.redriven(begun)(loading_again)
for failing in (LoadDataset, ReadPart, JoinParts):
    tasks.failed(failing)(loading_failed)
