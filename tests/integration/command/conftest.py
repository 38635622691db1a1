"""The `millrace` command as a person uses it: against a real gateway on a socket, with a workspace's key."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.cli import run
from clients.client import Client
from shared.db import Database
from tests.integration.api_service import Say, ServedDoor, served_door, workspace_and_key


@pytest.fixture
def database(service_database: Callable[[str], Database]) -> Database:
    return service_database("api")


@pytest.fixture
def door(
    database: Database, environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ServedDoor]:
    environment("api")
    with served_door(monkeypatch, tmp_path) as door:
        monkeypatch.setenv("MILLRACE_URL", door.url)
        yield door


@pytest.fixture
def key(door: ServedDoor, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command calls with."""
    _, key = workspace_and_key(door)
    monkeypatch.setenv("MILLRACE_KEY", key)
    return str(key)


@pytest.fixture
def client(door: ServedDoor, key: str) -> Iterator[Client]:
    with Client(door.url, key) as client:
        yield client


@pytest.fixture
def say(key: str, capsys: pytest.CaptureFixture[str]) -> Say:
    def say(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return run(list(arguments)), *capsys.readouterr()

    return say
