"""The toy service: a schema with the ledger alone, for the tests of the core; and the reports service."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import structlog
from sqlalchemy import create_engine

from infra.provision import at
from shared.db import Database
from shared.ledger import schema
from tests.conftest import PASSWORD
from tests.integration.reports_service import Reports
from tests.integration.toy.harness import Toy

TABLES = (
    "job", "attempt", "event", "cursor", "idempotency", "effect", "worker", "intervention", "horizon", "schedule",
    "slot", "limit_rule", "limit_bucket", "outage", "unique_key", "batch",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """One line an entry: the default draws every local variable of a traceback, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


@pytest.fixture(scope="session")
def toy_url(servers: SimpleNamespace) -> str:
    """The toy service's own role in a database with only its schema."""
    with psycopg.connect(servers.postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_toy")
        connection.execute(f"CREATE ROLE toy LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("ALTER ROLE toy SET search_path = toy")
    with psycopg.connect(at(servers.postgres, database="test_toy"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA toy AUTHORIZATION toy")
    url = at(servers.postgres, "toy", PASSWORD, "test_toy")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as bind:
        for version in schema.VERSIONS:
            schema.apply(bind, version)
    engine.dispose()
    return url


@pytest.fixture
def open_toy(toy_url: str) -> Iterator[Callable[[], Database]]:
    """Opens a further set of connections to the toy's database, as another process has them."""
    opened: list[Database] = []

    def open_() -> Database:
        opened.append(Database(toy_url, application="toy-test"))
        return opened[-1]

    yield open_
    for database in opened:
        database.dispose()


@pytest.fixture
def toy(open_toy: Callable[[], Database]) -> Iterator[Toy]:
    """The toy service with an empty ledger."""
    with closing(Toy(open_toy())) as toy:
        for table in TABLES:  # few rows: far quicker than truncating every partition
            toy.execute(f"DELETE FROM {table}")
        yield toy


@pytest.fixture
def reports(
    service_database: Callable[[str], Database],
    environment: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reports]:
    database = service_database("reports")
    environment("reports")
    monkeypatch.setenv("REPORTS_SCRATCH_DIR", str(tmp_path / "scratch"))
    yield Reports(database, tmp_path)
    left = list((tmp_path / "scratch").glob("*"))
    assert left == [], "a render left something in its scratch directory"
