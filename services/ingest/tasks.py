"""One thin task a job."""

from typing import Any

from sqlmodel import Session

from services.ingest import operations
from services.ingest.jobs import LoadDataset
from services.ingest.settings import IngestSettings
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.objects import ObjectStore
from shared.scratch import scratch

tasks = Tasks()


@tasks.job(LoadDataset, time_limit=4 * 3600)
def load_dataset(attempt: Attempt, args: LoadDataset) -> None:
    settings = IngestSettings()
    with attempt.reading() as session:
        loading = operations.begin_load(session, args)
    with scratch(settings.scratch_dir, attempt.job.id, attempt.job.attempt) as directory:
        loaded = operations.load(
            ObjectStore(settings.objects_url),
            loading,
            directory,
            lambda done, total: attempt.progress(done, total, "bytes"),
        )
    with attempt.finishing({"rows_loaded": loaded.rows_loaded, "rows_rejected": loaded.rows_rejected}) as session:
        operations.complete_load(session, loading, loaded)


@tasks.redriven(LoadDataset)
def loading_again(session: Session, args: LoadDataset) -> None:
    operations.reopen_load(session, args)


@tasks.failed(LoadDataset)
def loading_failed(session: Session, args: LoadDataset, reason: dict[str, Any]) -> None:
    operations.fail_load(session, args, reason)
