"""Every service has the same file names, in the same roles; modules stay small; nothing is a role by another name."""

import ast

import pytest

from shared.contracts.catalog import SERVICES
from tests.architecture.tree import PACKAGES, ROOT, modules, relative

REQUIRED = {"main", "worker", "settings", "jobs", "tasks"}
ROLES = REQUIRED | {
    *("routes", "schemas", "handlers", "operations", "adapters", "repository", "models", "domain", "errors")
}
BESIDES = {"README.md", "migrations", "templates", "__init__.py", "__pycache__"}
LINES = 450


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_consists_of_the_roles(service):
    there = {path.name for path in (ROOT / "services" / service).iterdir()}
    roles = {name.removesuffix(".py") for name in there - BESIDES}
    assert roles - ROLES == set(), "no role goes by another name"
    assert REQUIRED - roles == set()
    assert {"README.md", "migrations"} <= there


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_is_a_module_or_a_package_and_not_both(service):
    names = [path.name.removesuffix(".py") for path in (ROOT / "services" / service).iterdir()]
    assert sorted(names) == sorted(set(names))


def test_a_role_without_content_has_no_file():
    empty = [relative(path) for _, path, tree in modules("services") if not _has_content(tree, path.name)]
    assert empty == []


def _has_content(tree: ast.Module, name: str) -> bool:
    statements = [node for node in tree.body if not isinstance(node, ast.Expr)]
    return bool(statements) or name == "__init__.py"


def test_no_module_is_longer_than_can_be_read_at_a_sitting():
    long = {
        relative(path): lines
        for _, path, _ in modules(*PACKAGES, "tests")
        if (lines := len(path.read_text().splitlines())) > LINES
    }
    assert long == {}


def test_every_module_says_what_it_is_for():
    silent = [
        relative(path)
        for _, path, tree in modules(*PACKAGES)
        if tree.body and not ast.get_docstring(tree) and path.name != "__init__.py"
    ]
    assert silent == []
