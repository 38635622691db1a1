"""What the stack is made of: the processes, their settings, and what must not leak."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import ports
from infra.local.process import Process
from infra.local.secrets import SERVICES
from infra.local.stack import Stack
from infra.local.state import State
from services.api.settings import ApiSettings
from services.notifications.settings import NotificationsSettings
from services.reports.settings import ReportsSettings
from shared.settings import Settings


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    for stray in ("PGUSER", "WEB_CONCURRENCY", "HTTP_PROXY", "OTEL_SDK_DISABLED", "MILLRACE_KEY", "MILLRACE_STATE"):
        monkeypatch.setenv(stray, "stray")
    monkeypatch.setenv("MILLRACE_LEASE_SECONDS", "7")
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("INGEST_SOMETHING", "passed")
    state = State(tmp_path / "state")
    state.create()
    return Stack(state, ports.from_base(9000))


@pytest.fixture
def processes(stack: Stack) -> dict[str, Process]:
    return {process.name: process for process in stack.processes}


def test_each_service_has_its_three_processes_and_shares_the_rest(processes: dict[str, Process]) -> None:
    roles = {f"{service}-{role}" for service in SERVICES for role in ("http", "worker", "beat")}
    assert set(processes) == roles | {"postgres", "valkey", "mailbox", "provision", "flower"}


def test_flower_can_be_left_out(stack: Stack) -> None:
    without = Stack(stack.state, stack.ports, flower=False)
    assert "flower" not in {process.name for process in without.processes}


@pytest.mark.parametrize(
    ("service", "read"),
    [
        ("api", ApiSettings),
        ("ingest", Settings),
        ("reports", ReportsSettings),
        ("notifications", NotificationsSettings),
    ],
)
def test_the_environment_is_what_the_settings_read(
    service: str, read: Callable[[], Settings], processes: dict[str, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in processes[f"{service}-http"].environment.items():
        monkeypatch.setenv(name, value)
    settings = read()
    assert settings.dsn.startswith(f"postgresql://{service}:")
    assert settings.service_urls == {name: f"http://127.0.0.1:{9000 + n}" for n, name in enumerate(SERVICES)}
    assert set(settings.static_keys) == {"operator", "telemetry", "prometheus", *SERVICES}
    assert settings.service_key.get_secret_value()
    assert settings.lease_seconds == 7


def test_a_services_three_processes_have_one_environment(processes: dict[str, Process]) -> None:
    for service in SERVICES:
        http, worker, beat = (processes[f"{service}-{role}"].environment for role in ("http", "worker", "beat"))
        assert http == worker == beat


def test_what_is_in_the_shell_does_not_reach_the_processes(processes: dict[str, Process]) -> None:
    for process in processes.values():
        assert "stray" not in process.environment.values()
    assert processes["ingest-worker"].environment["INGEST_SOMETHING"] == "passed"
    # Readiness is read from what is logged at INFO.
    assert processes["ingest-worker"].environment["MILLRACE_LOG_LEVEL"] == "INFO"


def test_no_secret_stands_on_a_command_line(stack: Stack, processes: dict[str, Process]) -> None:
    secrets = [*stack.secrets.passwords.values(), *stack.secrets.keys.values()]
    for process in processes.values():
        assert not any(secret in " ".join(process.command) for secret in secrets)
        assert not any(secret in repr(process) for secret in secrets)


def test_a_service_knows_no_others_password_or_key(stack: Stack, processes: dict[str, Process]) -> None:
    for service in SERVICES:
        environment = json.dumps(dict(processes[f"{service}-worker"].environment))
        for other in SERVICES:
            if other != service:
                assert stack.secrets.passwords[other] not in environment
                assert stack.secrets.keys[other] not in environment
        assert stack.secrets.keys["operator"] not in environment
        assert stack.secrets.passwords["postgres"] not in environment


def test_what_is_written_stays_in_the_folder(stack: Stack, processes: dict[str, Process]) -> None:
    environment = processes["reports-worker"].environment
    assert environment["TMPDIR"].startswith(str(stack.state.folder))
    assert environment["MILLRACE_OBJECTS_URL"].startswith(f"file://{stack.state.folder}")


def test_a_stack_that_does_not_last_is_torn_down(stack: Stack) -> None:
    thrown_away = Stack(stack.state, stack.ports, lasting=False)
    signals = {process.name: process.stop_signal.name for process in thrown_away.processes}
    assert signals.pop("postgres") == "SIGQUIT"
    assert set(signals.values()) == {"SIGKILL"}
