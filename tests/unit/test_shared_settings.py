"""Settings are read from the environment and refused at the start, with the reason."""

import pytest
from pydantic import ValidationError

from shared.auth import digest
from shared.settings import Settings

NEEDED = {
    "MILLRACE_DATABASE_URL": "postgresql://toy:hunter2@127.0.0.1/millrace",
    "MILLRACE_BROKER_URL": "redis://:hunter2@127.0.0.1/0",
    "MILLRACE_OBJECTS_URL": "file:///objects",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_three_are_needed_and_the_rest_has_defaults(environment: pytest.MonkeyPatch) -> None:
    settings = Settings()  # type: ignore[call-arg]
    assert settings.dsn == NEEDED["MILLRACE_DATABASE_URL"]
    assert settings.service_urls == {}
    for name in NEEDED:
        with environment.context() as without:
            without.delenv(name)
            with pytest.raises(ValidationError, match=name.removeprefix("MILLRACE_").lower()):
                Settings()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "soon"),
        ("LEASE_RENEWAL_SECONDS", "0"),
        ("DISPATCH_WINDOW", "0"),
        ("RETENTION_DAYS", "7.9"),
        ("REDISPATCH_SECONDS", "-1"),
        ("MAX_CRASHES", "0"),
        ("STOP_GRACE_SECONDS", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("STATIC_KEYS", '{"a": {"sha256": "clear text", "scopes": []}}'),
    ],
)
def test_nonsense_is_refused(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(f"MILLRACE_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()  # type: ignore[call-arg]


@pytest.mark.parametrize(("lease", "renewal", "used"), [("30", "10", 10), ("6", "10", 2), ("30", "1", 1)])
def test_leases_are_renewed_well_before_they_end(
    environment: pytest.MonkeyPatch, lease: str, renewal: str, used: float
) -> None:
    """Else a short lease alone would have every worker lose its jobs between two renewals."""
    environment.setenv("MILLRACE_LEASE_SECONDS", lease)
    environment.setenv("MILLRACE_LEASE_RENEWAL_SECONDS", renewal)
    assert Settings().renewal_seconds == used  # type: ignore[call-arg]


def test_secrets_do_not_show(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MILLRACE_SERVICE_KEY", "hunter2")
    environment.setenv("MILLRACE_STATIC_KEYS", f'{{"a": {{"sha256": "{digest("k")}", "scopes": ["events"]}}}}')
    settings = Settings()  # type: ignore[call-arg]
    assert "hunter2" not in repr(settings) + str(settings)
    assert settings.static_keys["a"].scopes == {"events"}
