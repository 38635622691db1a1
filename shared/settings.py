"""Settings that every service reads from the environment, validated when its process starts."""

from functools import cached_property
from typing import Literal

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StaticKey(BaseModel):
    """A service account: the SHA-256 (hex) of its key, and what it may do, in every workspace."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[str]


class Settings(BaseSettings):
    """Environment variables `MILLRACE_…`; a service's own settings subclass this with their own prefix."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr
    """libpq URL of the service's own role, whose search_path is its schema."""
    broker_url: SecretStr
    objects_url: str
    """`file:///directory` or `s3://bucket/prefix`."""
    service_urls: dict[str, str] = {}
    """Where each service's HTTP API answers, by service name."""
    static_keys: dict[str, StaticKey] = {}
    service_key: SecretStr = SecretStr("")
    """This service's own key, for calls to other services."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    lease_seconds: float = Field(default=30.0, ge=1)
    """A worker that has not renewed its lease for so long has lost its jobs."""
    lease_renewal_seconds: float = Field(default=10.0, gt=0)
    dispatch_window: int = Field(default=512, ge=1)
    """Jobs of one queue that may wait in the broker at a time; the rest waits in PostgreSQL."""
    redispatch_seconds: float = Field(default=5.0, gt=0)
    """A dispatched job that nobody claimed for so long, with nothing left in the broker, is dispatched again."""
    follow_seconds: float = Field(default=30.0, gt=0)
    """How often a consumer reads its producers' feeds for events that the broker lost."""
    retention_days: float = Field(default=90.0, ge=8)
    """Finished jobs, their attempts and events are kept at least so long, and at most a week longer."""
    deaf_seconds: float = Field(default=60.0, gt=0)
    """A worker that has slots free and hears nothing of what it sends itself for so long starts itself again."""
    stop_grace_seconds: float = Field(default=10.0, ge=0)
    """An attempt that was called off, or taken away, and goes on for so long is stopped."""
    max_crashes: int = Field(default=3, ge=1)
    """A job whose worker died so often is quarantined."""

    @property
    def renewal_seconds(self) -> float:
        """How often leases are renewed: as set, but often enough that two renewals may fail."""
        return min(self.lease_renewal_seconds, self.lease_seconds / 3)

    @cached_property
    def dsn(self) -> str:
        return self.database_url.get_secret_value()
