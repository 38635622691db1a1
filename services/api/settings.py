"""Settings of the `api` service."""

from functools import cached_property
from pathlib import Path

from joserfc.jwk import OKPKey
from pydantic import Field

from shared.settings import Settings


class ApiSettings(Settings):
    signing_key_file: Path = Field(validation_alias="API_SIGNING_KEY_FILE")
    """PEM of the Ed25519 private key that tokens are signed with; the same for every replica."""

    span_days: float = Field(default=14.0, gt=0, validation_alias="API_SPAN_DAYS")
    """Spans are kept so long."""

    @cached_property
    def signing_key(self) -> OKPKey:
        return OKPKey.import_key(self.signing_key_file.read_bytes())
