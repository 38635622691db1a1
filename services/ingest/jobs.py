"""What `ingest` says to itself."""

from typing import ClassVar
from uuid import UUID

from shared.ledger.messages import JobArgs, Retry


class ReloadDataset(JobArgs):
    """Make a new version of a dataset, of the upload of its newest, when somebody or a schedule asks; goes on as
    LoadDataset."""

    kind: ClassVar[str] = "ingest.dataset.reload"
    queue: ClassVar[str] = "ingest.jobs"
    public: ClassVar[bool] = True

    dataset_id: UUID


class VersionArgs(JobArgs):
    """What jobs about one version of a dataset have in common. Its row holds everything else."""

    queue: ClassVar[str] = "ingest.jobs"
    retry: ClassVar[Retry] = Retry(max_attempts=5)
    together: ClassVar[int] = 1  # loads take seconds or minutes: let them spread over the workers

    dataset_id: UUID
    version: int


class LoadDataset(VersionArgs):
    """Type, check, profile and store the version; or, of a large upload, owe a batch that reads it in parts, and go on
    as JoinParts."""

    kind: ClassVar[str] = "ingest.dataset.load"


class ReadPart(VersionArgs):
    """Check the rows of one part of the upload, and store them as text."""

    kind: ClassVar[str] = "ingest.part.read"

    number: int
    """From 0; where it begins and ends is in the version's plan."""


class JoinParts(VersionArgs):
    """Type, check, profile and store what was read of all parts."""

    kind: ClassVar[str] = "ingest.parts.join"

    batch: UUID
    """That of the parts."""
