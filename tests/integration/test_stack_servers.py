"""The embedded PostgreSQL and Valkey, and the database's provisioning, for real."""

import os
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra import provision as provisioning
from infra.local import ports, postgres, valkey
from infra.local.process import Process, Status
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.local.watchdog import marked
from infra.provision import SERVICES, ProvisionError, at, provision
from shared.testing.waiting import until

PASSWORD = "a pass/word: 100% @odd?"
ROLES = {service: f"{service} p@ss/%" for service in SERVICES}
ROOT = Path(__file__).parents[2]


class Servers:
    """Both servers on one state folder."""

    def __init__(self, folder: Path) -> None:
        self.state, self.ports = State(folder / "state"), ports.free()
        self.state.create()
        self.mark = f"test-{os.getpid()}-{folder.name}"
        self.admin = at(postgres.admin_url(self.ports["postgres"], ""), postgres.SUPERUSER, PASSWORD)
        self.supervisor = self.make()

    def make(self) -> Supervisor:
        programs: list[Process] = [
            postgres.process(self.state, self.ports["postgres"], PASSWORD),
            valkey.process(self.state, self.ports["valkey"], "token"),
        ]
        return Supervisor(programs, self.state.log, self.mark)

    def start(self) -> None:
        self.supervisor.start()
        self.supervisor.wait(timeout=60)

    def restart(self) -> None:
        self.supervisor.stop()
        self.supervisor = self.make()
        self.start()

    def pid(self, name: str) -> int:
        pid = next(view.pid for view in self.supervisor.views() if view.name == name)
        assert pid
        return pid

    def valkey(self, password: str = "token") -> redis.Redis:
        return redis.Redis(
            port=self.ports["valkey"], password=password, decode_responses=True, retry=Retry(NoBackoff(), 0)
        )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    servers.start()
    yield servers
    servers.supervisor.stop()
    assert not marked(servers.mark)


@pytest.fixture
def migrated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Provisioning without the services' own migrations; lists whom it would have migrated, and where."""
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(provisioning, "_migrate", lambda service, url: calls.append((service, url)))
    return calls


def setting(servers: Servers, name: str) -> str:
    with psycopg.connect(servers.admin) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row
    return str(row[0])


def test_postgres_is_version_18_durable_and_on_the_loopback_only(servers: Servers) -> None:
    assert setting(servers, "server_version").startswith("18.")
    assert setting(servers, "fsync") == "on"
    assert setting(servers, "synchronous_commit") == "on"
    assert setting(servers, "data_checksums") == "on"
    assert setting(servers, "max_connections") == "200"
    assert setting(servers, "listen_addresses") == "127.0.0.1"


def test_postgres_asks_everyone_for_a_password(servers: Servers) -> None:
    port = servers.ports["postgres"]
    folder = servers.state.path("postgres")
    for host in (ports.HOST, str(folder)):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host=host, port=port, user="postgres", password="wrong")
    with psycopg.connect(host=str(folder), port=port, user="postgres", password=PASSWORD) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_postgres_files_are_closed_to_others_and_hold_no_password_file(servers: Servers) -> None:
    folder = servers.state.path("postgres")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / "password").exists()


def test_valkey_asks_for_its_password_and_keeps_what_it_is_given(servers: Servers) -> None:
    with servers.valkey("wrong") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with servers.valkey() as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        client.set("kept", "yes")


def test_both_keep_the_mark_by_which_a_crash_finds_them(servers: Servers) -> None:
    assert {servers.pid("postgres"), servers.pid("valkey")} <= {process.pid for process in marked(servers.mark)}


def test_data_survives_a_restart_and_a_kill(servers: Servers) -> None:
    with psycopg.connect(servers.admin) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    with servers.valkey() as client:
        client.set("kept", "yes")
    servers.restart()
    # No checkpoint, no shutdown: what was committed comes back from the log.
    for name in ("postgres", "valkey"):
        os.kill(servers.pid(name), signal.SIGKILL)
    until(lambda: [view.restarts for view in servers.supervisor.views()] == [1, 1], 30)
    until(lambda: all(view.status is Status.READY for view in servers.supervisor.views()), 30)
    with psycopg.connect(servers.admin) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    with servers.valkey() as client:
        assert client.get("kept") == "yes"


def test_provisioning_gives_each_service_its_own_schema_only(servers: Servers, migrated: list[tuple[str, str]]) -> None:
    provision(servers.admin, ROLES)
    assert [service for service, _ in migrated] == list(SERVICES)
    for service, url in migrated:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS mine (n int)")
            where = connection.execute(
                "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'mine' AND schemaname = %s",
                (service,),
            ).fetchone()
            assert where == (service, service)
    for service, url in migrated:
        with psycopg.connect(url, autocommit=True) as connection:
            for other in SERVICES:
                if other != service:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(f"SELECT * FROM {other}.mine")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(f"CREATE TABLE {other}.theirs (n int)")
            for forbidden in ("CREATE TABLE public.leak (n int)", "CREATE SCHEMA more", "CREATE ROLE more"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(forbidden)


def test_a_service_enters_no_other_database(servers: Servers, migrated: list[tuple[str, str]]) -> None:
    provision(servers.admin, ROLES)
    for service, url in migrated:
        for database in ("postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(at(url, service, ROLES[service], database))


def test_provisioning_repeats_without_harm_and_changes_passwords(
    servers: Servers, migrated: list[tuple[str, str]]
) -> None:
    provision(servers.admin, ROLES)
    _, url = migrated[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS stays (n int)")
    provision(servers.admin, ROLES | {"api": "another"})
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url)
    with psycopg.connect(at(servers.admin, "api", "another", "millrace")) as connection:
        connection.execute("SELECT * FROM stays")


def test_two_at_once_wait_for_each_other(servers: Servers, migrated: list[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(provision, servers.admin, ROLES) for _ in range(4)]:
            done.result(timeout=60)
    assert len(migrated) == 4 * len(SERVICES)


def test_a_missing_password_is_named(servers: Servers) -> None:
    with pytest.raises(ProvisionError, match="role of reports"):
        provision(servers.admin, ROLES | {"reports": ""})
