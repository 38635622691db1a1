"""The images: a target a service, that service's lock alone, no root, nothing to build with."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from shared.contracts.catalog import SERVICES
from tests.architecture.tree import ROOT, imports, modules

DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
LOCKS = ROOT / "requirements"
TARGETS = (*SERVICES, "flower", "provision")


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, by its name."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    for line in text.splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[start[2]] = [line]
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def pinned(lock: str) -> dict[str, str]:
    """Version of each package of a lock."""
    text = (LOCKS / f"{lock}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.MULTILINE))


def test_the_linter_has_nothing_to_say():
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), "--config", "infra/docker/hadolint.yaml", str(DOCKERFILE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_without_rights_and_says_what(target):
    lines = stages()[target]
    assert lines[-2] == "USER 10001:10001"
    assert lines[-1].startswith("CMD [")
    assert lines[0] == f"FROM service AS {target}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_its_own_code_and_packages(service):
    lines = stages()[service]
    assert f"COPY --from={service}-packages /venv /venv" in lines
    copied = {line.split()[-1] for line in lines if line.startswith("COPY --from=code")}
    assert copied == {f"services/{service}"}
    assert f"-r /requirements/{service}.lock" in stages()[f"{service}-packages"][-1]


@pytest.mark.parametrize("lock", [*SERVICES, "flower"])
def test_packages_are_taken_as_they_were_locked(lock):
    line = stages()[f"{lock}-packages"][-1]
    for option in ("--require-hashes", "--no-deps", "--only-binary :all:"):
        assert option in line


def test_nothing_to_build_with_is_left():
    assert "pip uninstall" in stages()["runtime"][2]
    assert "--without-pip" in " ".join(stages()["packages"])
    assert not re.search(r"apt|gcc|build-essential", DOCKERFILE.read_text())


def test_the_context_holds_no_secret_and_no_test():
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert "shared/testing" in ignored
    kept = {line.removeprefix("!").removesuffix("/**") for line in ignored if line.startswith("!")}
    copied = {source for line in stages()["code"] if line.startswith("COPY ") for source in line.split()[1:-1]}
    assert kept == copied | {"requirements/*.lock"}


def test_every_service_has_a_dependency_group_and_a_lock():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for service in SERVICES:
        assert service in groups
        assert {"include-group": service} in groups["dev"]
        assert pinned(service)


@pytest.mark.parametrize("lock", [*SERVICES, "flower"])
def test_an_image_has_the_versions_that_the_tests_have(lock):
    tested = pinned("dev")
    assert {name: version for name, version in pinned(lock).items() if tested.get(name) != version} == {}


@pytest.mark.parametrize("service", SERVICES)
def test_a_lock_holds_what_the_service_asks_for(service):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["dependency-groups"][service]]
    names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in asked}
    assert names - {normal(name) for name in pinned(service)} == set(), "run: requirements/compile"


@pytest.mark.parametrize("lock", ["dev", "bench", *SERVICES, "flower"])
def test_locks_name_hashes_and_no_place(lock):
    text = (LOCKS / f"{lock}.lock").read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"://|--index-url|--extra-index|--find-links|@ ", text)
    assert len(re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)) <= text.count(" \\\n    --hash")


@pytest.mark.parametrize("service", SERVICES)
def test_a_lock_holds_every_package_that_the_service_imports(service):
    known = metadata.packages_distributions()
    locked = {normal(name) for name in pinned(service)}
    missing = set()
    for name, _, tree in modules("services", "shared"):
        if name.startswith("shared.testing") or (name.startswith("services.") and name.split(".")[1] != service):
            continue
        for imported in imports(tree):
            top = imported.split(".")[0]
            if top in sys.stdlib_module_names or top in ("services", "shared"):
                continue
            candidates = {normal(found) for found in known.get(top, [top])}
            if not candidates & locked:
                missing.add(f"{name} imports {top}")
    assert missing == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
