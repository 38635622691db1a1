"""The ledger is one: every service's migrations apply every version of it, and no service leads it astray."""

import ast
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.contracts.catalog import SERVICES
from shared.ledger import schema
from shared.ledger.messages import JobArgs
from shared.version import VERSION
from tests.architecture.tree import ROOT

VERSIONS = [name for name in vars(schema) if re.fullmatch(r"V\d+", name)]


TABLES = {
    "job", "attempt", "event", "cursor", "idempotency", "effect", "worker", "intervention", "horizon", "schedule",
    "slot", "batch",
}  # fmt: skip


def migrations(service: str) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "services" / service / "migrations"))
    return ScriptDirectory.from_config(config)


def applied(service: str) -> list[str]:
    """The ledger's versions in the order in which the service's migrations apply them."""
    found = []
    for revision in reversed(list(migrations(service).walk_revisions())):
        for node in ast.walk(ast.parse(Path(revision.path).read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "schema.apply":
                found.append(ast.unparse(node.args[1]).removeprefix("schema."))
    return found


def test_the_versions_are_listed_in_their_order():
    assert [getattr(schema, name) for name in VERSIONS] == list(schema.VERSIONS)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_applies_every_version_once_and_in_order(service):
    assert applied(service) == VERSIONS


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_are_one_line_without_a_fork(service):
    script = migrations(service)
    assert len(script.get_heads()) == 1
    assert [revision.revision for revision in reversed(list(script.walk_revisions()))] == [
        f"{number:04}" for number in range(1, len(list(script.walk_revisions())) + 1)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrated_ledger_is_the_same_in_every_service(service, service_database):
    assert ledger(service_database(service)) == ledger(service_database(SERVICES[0]))


def ledger(database) -> list[tuple]:
    """Columns and triggers of the ledger's tables."""
    with database.connect() as connection:
        columns = connection.execute(
            """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
               WHERE table_schema = current_schema() AND table_name = ANY(%s) ORDER BY 1, 2""",
            (list(TABLES),),
        ).fetchall()
        triggers = connection.execute(
            """SELECT tgrelid::regclass::text AS name, tgname, pg_get_triggerdef(oid) AS text FROM pg_trigger
               WHERE tgrelid = 'job'::regclass AND NOT tgisinternal ORDER BY 2"""
        ).fetchall()
    found = [tuple(row.values()) for row in columns] + [(row["name"], row["tgname"]) for row in triggers]
    assert {row[0] for row in found} == TABLES
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_jobs_are_run_limited_and_queued_where_their_worker_listens(service):
    found = import_module(f"services.{service}.worker").service
    for kind, task in found.tasks.by_kind.items():
        assert re.fullmatch(rf"{service}\.[a-z_]+\.[a-z_]+", kind)
        assert task.args.queue in found.queues, kind
        assert task.time_limit > 0
        assert task.args.retry.max_attempts >= 1
    subscribed = {kind.kind for kinds in found.subscriptions.values() for kind in kinds}
    assert subscribed <= set(found.tasks.by_kind)


@pytest.mark.parametrize("service", SERVICES)
def test_every_job_kind_has_a_body(service):
    module = import_module(f"services.{service}.jobs")
    declared = {
        value.kind
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, JobArgs) and "kind" in vars(value)
    }
    assert declared == set(import_module(f"services.{service}.worker").service.tasks.by_kind)


def test_the_code_says_the_version_of_its_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
