"""Settings of the `ingest` service."""

import tempfile
from pathlib import Path

from pydantic import Field

from shared.settings import Settings


class IngestSettings(Settings):
    max_upload_bytes: int = Field(default=20_000_000_000, ge=1, validation_alias="INGEST_MAX_UPLOAD_BYTES")
    """A larger upload is refused with 413."""
    split_bytes: int = Field(default=2_000_000_000, ge=1, validation_alias="INGEST_SPLIT_BYTES")
    """A larger upload is read in parts of at most about so many bytes, which workers share."""
    scratch_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "millrace-ingest", validation_alias="INGEST_SCRATCH_DIR"
    )
    """Where a load keeps its copy of the upload and what it cuts it into: up to about three times the upload."""
