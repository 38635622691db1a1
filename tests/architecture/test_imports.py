"""Which module may know what. The rules between our own modules are .importlinter's."""

import ast
import re
import subprocess
import sys

import pytest

from tests.architecture.tree import ROOT, imports, modules, relative

FASTAPI = r"services\.\w+\.(main|routes)(\..+)?|shared\.http(\..+)?|shared\.testing\.http"
CELERY = r"services\.\w+\.(worker|tasks)|shared\.(celery|beat|results|transport|workers|ledger)(\..+)?"
ENVIRONMENT = r"shared\.telemetry|services\.reports\.adapters\.pdf"
"""The first reads OpenTelemetry's own variables, the second gives some of its own to a child process. Every other
variable is a field of a settings class."""


def test_our_own_modules_import_each_other_in_the_agreed_direction():
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


@pytest.mark.parametrize(
    ("packages", "allowed"),
    [(("fastapi", "starlette"), FASTAPI), (("celery", "kombu", "billiard", "redis"), CELERY)],
)
def test_frameworks_stay_where_they_belong(packages, allowed):
    found = {
        f"{name} imports {imported}"
        for name, _, tree in modules("services", "shared")
        for imported in imports(tree)
        if imported.split(".")[0] in packages and not re.fullmatch(allowed, name)
    }
    assert found == set()


def test_no_service_speaks_to_the_broker_by_itself():
    found = [
        f"{relative(path)}:{node.lineno}"
        for _, path, tree in modules("services")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("delay", "apply_async", "send_task", "shared_task")
    ]
    assert found == []


def test_settings_classes_alone_read_the_environment():
    found = {
        f"{relative(path)}:{node.lineno}"
        for name, path, tree in modules("services", "shared")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and not re.fullmatch(ENVIRONMENT, name)
    }
    assert found == set()


def test_nothing_prints():
    found = [
        f"{relative(path)}:{node.lineno}"
        for _, path, tree in modules("services", "shared")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []
