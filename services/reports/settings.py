"""Settings of the `reports` service."""

import tempfile
from pathlib import Path

from pydantic import Field

from shared.settings import Settings


class ReportsSettings(Settings):
    scratch_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "millrace-reports", validation_alias="REPORTS_SCRATCH_DIR"
    )
    """Where a render keeps its copy of the Parquet and what its queries spill; emptied when it ends."""
