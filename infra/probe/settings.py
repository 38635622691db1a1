"""Settings of the probe."""

from pathlib import Path

from pydantic import Field

from shared.settings import Settings


class ProbeSettings(Settings):
    record_file: Path | None = Field(default=None, validation_alias="PROBE_RECORD_FILE")
    """Where bodies write what they did, for a reader who asks nobody else; nothing is written without it."""
    public_key: str = Field(default="{}", validation_alias="PROBE_PUBLIC_KEY")
    """The JWK (JSON) that callers' tokens are verified with: the probe needs no `api` beside it."""
