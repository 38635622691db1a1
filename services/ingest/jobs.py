"""What `ingest` says to itself."""

from typing import ClassVar
from uuid import UUID

from shared.ledger.messages import JobArgs, Retry


class LoadDataset(JobArgs):
    """Type, check, profile and store one version of a dataset. Its row holds everything else."""

    kind: ClassVar[str] = "ingest.dataset.load"
    queue: ClassVar[str] = "ingest.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=5)
    together: ClassVar[int] = 1  # loads take seconds or minutes: let them spread over the workers

    dataset_id: UUID
    version: int
