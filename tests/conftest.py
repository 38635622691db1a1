"""Servers for the tests: real PostgreSQL and broker, from containers where an engine answers, else embedded."""

import gc
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import docker
import psycopg
import pytest
from docker.errors import DockerException

from infra.local import ports, postgres, valkey
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.provision import at
from shared.db import Database, migrate

TESTS = Path(__file__).parent
LAYERS = ("unit", "architecture", "contracts", "integration", "e2e", "chaos")
"""In this order: what fails in seconds first, and the whole running system, once it is up, to the end."""
PASSWORD = "test-only"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAYERS.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What tests print may hold half characters; the processes that run tests pass reports on as UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """`postgres` (superuser's URL), `broker` (URL), and `kill_broker()`, after which it comes back by itself."""
    with _chosen(os.environ.get("MILLRACE_TEST_SERVERS"), tmp_path_factory) as servers:
        yield servers


def _chosen(forced: str | None, folders: pytest.TempPathFactory) -> AbstractContextManager[SimpleNamespace]:
    if forced not in (None, "", "containers", "embedded"):
        raise pytest.UsageError(f"MILLRACE_TEST_SERVERS is {forced!r}; it may be containers or embedded")
    engine = forced != "embedded" and _engine_answers()
    if forced == "containers" and not engine:
        raise pytest.UsageError("MILLRACE_TEST_SERVERS is containers, but no container engine answers")
    return _containers() if engine else _embedded(folders.mktemp("servers"))


def _engine_answers() -> bool:
    with warnings.catch_warnings():
        # The socket of a connection that failed is left to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env(timeout=2)) as engine:
                return bool(engine.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


@contextmanager
def _containers() -> Iterator[SimpleNamespace]:
    """The images of docker-compose.yml."""
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.community.valkey import ValkeyContainer

    database = PostgresContainer(
        "postgres:18-bookworm", username=postgres.SUPERUSER, password=PASSWORD, dbname="postgres", driver=None
    )
    # As the embedded one is made.
    made = "--encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
    database.with_env("POSTGRES_INITDB_ARGS", made)
    database.with_command(["postgres", "-c", "max_connections=200", "-c", "jit=off"])
    broker = ValkeyContainer("valkey/valkey:9.1.1-alpine").with_password(PASSWORD)
    # A port that Docker chooses is another one after a restart.
    broker.with_bind_ports(broker.port, ports.free()["valkey"])

    def kill_broker() -> None:
        broker.get_wrapped_container().kill()
        broker.get_wrapped_container().start()

    with database, broker:
        yield SimpleNamespace(
            postgres=database.get_connection_url(),
            broker=f"redis://:{PASSWORD}@{broker.get_host()}:{broker.get_exposed_port()}/0",
            kill_broker=kill_broker,
        )


@contextmanager
def _embedded(folder: Path) -> Iterator[SimpleNamespace]:
    for parent in [folder, *folder.parents]:  # PostgreSQL may run as another user
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    state = State(folder / "state")
    state.create()
    free = ports.free()
    processes = [postgres.process(state, free["postgres"], PASSWORD), valkey.process(state, free["valkey"], PASSWORD)]
    supervisor = Supervisor(processes, state.log, f"tests-{os.getpid()}")

    def kill_broker() -> None:
        [broker] = [view for view in supervisor.views() if view.name == "valkey"]
        assert broker.pid
        os.kill(broker.pid, signal.SIGKILL)

    supervisor.start()
    try:
        supervisor.wait(timeout=60)
        yield SimpleNamespace(
            postgres=postgres.admin_url(free["postgres"], PASSWORD),
            broker=valkey.url(free["valkey"], PASSWORD),
            kill_broker=kill_broker,
        )
    finally:
        supervisor.stop()


@pytest.fixture(scope="session")
def database_url(servers: SimpleNamespace) -> Callable[[str], str]:
    """Answers the URL of a service's own role in a database with only that service's schema, migrated."""
    made: dict[str, str] = {}

    def make(service: str) -> str:
        if service not in made:
            made[service] = _make(servers.postgres, service)
        return made[service]

    return make


def _make(admin: str, service: str) -> str:
    database = f"test_{service}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (service,)).fetchone():
            connection.execute(f"CREATE ROLE {service} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"ALTER ROLE {service} SET search_path = {service}")
    with psycopg.connect(at(admin, database=database), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {service} AUTHORIZATION {service}")
    url = at(admin, service, PASSWORD, database)
    migrate(service, url)
    return url


_TABLES = """
SELECT c.relname AS name FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition AND c.relname <> 'schema_version'"""


def _empty(database: Database) -> None:
    """Few rows: deleting them is far quicker than truncating every partition."""
    with database.connect() as connection, connection.transaction():
        tables = {row["name"] for row in connection.execute(_TABLES)}
        while tables:  # those that others point at are emptied after these
            before = len(tables)
            for table in sorted(tables):
                try:
                    with connection.transaction():
                        connection.execute(f'DELETE FROM "{table}"')
                except psycopg.errors.ForeignKeyViolation:
                    continue
                tables.discard(table)
            assert len(tables) < before, tables
        connection.execute("ALTER SEQUENCE event_positions RESTART")


@pytest.fixture
def service_database(database_url: Callable[[str], str]) -> Iterator[Callable[[str], Database]]:
    """Answers a service's database, emptied of rows (but not of its schema's version)."""
    opened: list[Database] = []

    def open_(service: str) -> Database:
        database = Database(database_url(service), application="test")
        opened.append(database)
        _empty(database)
        return database

    yield open_
    for database in opened:
        database.dispose()


@pytest.fixture
def environment(
    servers: SimpleNamespace, database_url: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Sets the environment that a service's process would have."""

    def apply(service: str) -> None:
        monkeypatch.setenv("MILLRACE_DATABASE_URL", database_url(service))
        monkeypatch.setenv("MILLRACE_BROKER_URL", servers.broker)
        monkeypatch.setenv("MILLRACE_OBJECTS_URL", f"file://{tmp_path / 'objects'}")
        monkeypatch.setenv("MILLRACE_LOG_FORMAT", "console")

    return apply
