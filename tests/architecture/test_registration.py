"""A service exists when it is entered everywhere: a new folder below services/ fails here until it is.

CONTRIBUTING.md has the steps in order.
"""

import re
import tomllib
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from infra import provision
from infra.local import ports
from infra.local.stack import Stack
from infra.local.state import State
from services.api.routes import docs, gateway
from shared.contracts import catalog
from tests.architecture.tree import ROOT, files, services

SERVERS = {"flower", "mailbox", "smtp", "postgres", "valkey"}
"""Ports of the embedded stack that belong to no service."""
PROCESSES = ("http", "worker", "beat")


def in_compose() -> set[str]:
    containers = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    kinds = [{name.removesuffix(f"-{kind}") for name in containers if name.endswith(f"-{kind}")} for kind in PROCESSES]
    return set.intersection(*kinds) if all(kind == kinds[0] for kind in kinds) else set()


def in_the_dockerfile() -> set[str]:
    found = re.findall(r"^FROM service AS (\S+)", (ROOT / "infra/docker/Dockerfile").read_text(), re.MULTILINE)
    return set(found) - {"flower", "provision"}


def in_the_locks() -> set[str]:
    return {path.stem for path in (ROOT / "requirements").glob("*.lock")} - {"dev", "bench", "flower", "bootstrap"}


def in_the_dependency_groups() -> set[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return set(groups) - {"dev", "bench", "local", "cli", "flower"}


def in_the_import_rules() -> set[str]:
    rules = ConfigParser()
    rules.read(ROOT / ".importlinter")
    roles = {name.removeprefix("services.") for name in rules["importlinter:contract:roles"]["containers"].split()}
    alone = {name.removeprefix("services.") for name in rules["importlinter:contract:services"]["modules"].split()}
    return roles & alone


def in_the_readme() -> set[str]:
    return set(
        re.findall(r"^\| \[`(\w+)`\]\(services/\1/README\.md\) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    )


def in_the_contracts() -> set[str]:
    return {path.stem for path in (ROOT / "shared/contracts/openapi").glob("*.json")}


def behind_the_gateway() -> set[str]:
    return {*gateway.SERVICES.values(), "api"}


def in_the_shown_documents() -> set[str]:
    return {document["info"]["title"].removeprefix("Millrace ") for document in docs._contracts()} | {"api"}


REGISTERS: dict[str, Callable[[], set[str]]] = {
    "shared/contracts/catalog.py": lambda: set(catalog.SERVICES),
    "shared/contracts/openapi/": in_the_contracts,
    "infra/provision.py": lambda: set(provision.SERVICES),
    "infra/local/ports.py": lambda: set(ports.NAMES) - SERVERS,
    "infra/docker/Dockerfile": in_the_dockerfile,
    "docker-compose.yml": in_compose,
    "pyproject.toml": in_the_dependency_groups,
    "requirements/": in_the_locks,
    ".importlinter": in_the_import_rules,
    "README.md": in_the_readme,
    "services/api/routes/gateway.py": behind_the_gateway,
    "services/api/routes/docs.py": in_the_shown_documents,
}


def unregistered(there: set[str]) -> dict[str, set[str]]:
    """What each register lacks, or has too much."""
    return {place: difference for place, entered in REGISTERS.items() if (difference := there ^ entered())}


def test_every_service_is_entered_everywhere():
    assert unregistered(services()) == {}


def test_a_new_folder_is_missed_in_every_register():
    assert unregistered({*services(), "billing"}).keys() == REGISTERS.keys()


def test_a_folder_below_services_is_seen_as_soon_as_it_holds_a_file():
    assert services() == {path.name for path in (ROOT / "services").iterdir() if _holds_files(path)}


def _holds_files(folder: Path) -> bool:
    return any(folder in path.parents for path in files())


@pytest.fixture
def started(tmp_path) -> set[str]:
    """Names of the processes that the embedded stack consists of."""
    state = State(tmp_path)
    state.create()
    return {view.name for view in Stack(state, ports.free()).views()}


def test_the_embedded_stack_runs_three_processes_a_service(started):
    expected = {f"{service}-{process}" for service in services() for process in PROCESSES}
    assert {name for name in started if name.endswith(tuple(f"-{process}" for process in PROCESSES))} == expected


def test_the_embedded_stack_and_compose_run_the_same(started):
    containers = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    replaced = {"mailbox": "mail"}
    assert {replaced.get(name, name) for name in started} == containers - {"collector", "jaeger"}
