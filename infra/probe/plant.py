"""The probe's processes: beside a whole stack, or with a PostgreSQL and a Valkey of their own and nothing else.

with plant() as running:
    httpx.post(f"{running.probe.url}/v1/jobs", headers=running.probe.headers, json=…)
"""

import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import OKPKey

from infra.local import ports, postgres, probes, valkey
from infra.local.process import Process, View
from infra.local.stack import ROOT, inherited, torn_down
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.provision import DATABASE, at
from shared import ids
from shared.auth import ISSUER

NAME: Final = "probe"
TOKEN_SECONDS: Final = 24 * 3600
START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Servers:
    """Where the servers are that the probe's processes use; a proxy may stand before each."""

    admin_url: str = field(repr=False)
    """The superuser's, without any proxy."""
    database_url: str = field(repr=False)
    """Any user's; the probe's own account is put into it."""
    broker_url: str = field(repr=False)


class Probe:
    """One probe: its secrets, its addresses, and the processes that it consists of."""

    def __init__(self, folder: Path, servers: Servers, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: settings in place of, or beside, those that are put together here."""
        self.record_file = folder / "probe.records"
        self.port = free_port()
        self.url = ports.url(self.port)
        self.workspace: UUID = ids.draw()
        self._servers = servers
        self._given = dict(environment or {})
        self._password = secrets.token_urlsafe(24)
        self._service_key = secrets.token_urlsafe(32)
        self._operator_key = secrets.token_urlsafe(32)
        self._signing_key = OKPKey.generate_key("Ed25519")

    @property
    def database_url(self) -> str:
        """The probe's own, straight to the server: for those who look into its tables."""
        return at(self._servers.admin_url, NAME, self._password, DATABASE)

    @property
    def headers(self) -> dict[str, str]:
        """What a caller of its workspace sends, good for a day."""
        return {"Authorization": f"Bearer {self.token()}"}

    @property
    def operator_headers(self) -> dict[str, str]:
        """What who runs it sends: limits are the operator's affair."""
        return {"Authorization": f"Bearer {self._operator_key}"}

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "caller",
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "scope": "admin read write",
            "workspace": str(self.workspace),
        }
        header = {"alg": "Ed25519", "kid": self._signing_key.thumbprint()}
        return jwt.encode(header, claims, self._signing_key, algorithms=["Ed25519"])

    def environment(self) -> dict[str, str]:
        """The settings of its processes."""
        keys = {"probe": (self._service_key, ["events"]), "operator": (self._operator_key, ["operator"])}
        accounts = {
            name: {"sha256": sha256(key.encode()).hexdigest(), "scopes": scopes} for name, (key, scopes) in keys.items()
        }
        return {
            "MILLRACE_DATABASE_URL": at(self._servers.database_url, NAME, self._password, DATABASE),
            "MILLRACE_BROKER_URL": self._servers.broker_url,
            "MILLRACE_OBJECTS_URL": self.record_file.with_name("probe.objects").as_uri(),
            "MILLRACE_SERVICE_URLS": json.dumps({"api": self.url, NAME: self.url}),
            "MILLRACE_STATIC_KEYS": json.dumps(accounts),
            "MILLRACE_SERVICE_KEY": self._service_key,
            "PROBE_PUBLIC_KEY": json.dumps(
                self._signing_key.as_dict(private=False, kid=self._signing_key.thumbprint())
            ),
            "PROBE_RECORD_FILE": str(self.record_file),
            **self._given,
        }

    def processes(self, after: str = "postgres", workers: Sequence[str] = ("probe-worker",)) -> list[Process]:
        """A step that makes its schema, its HTTP server, its workers, its Beat; they come after the process `after`."""
        made = [self._schema(after), self._http(), *map(self.worker, workers), self.beat()]
        return [replace(each, environment={**inherited(), **each.environment}, directory=ROOT) for each in made]

    def _schema(self, after: str) -> Process:
        return Process(
            name="probe-schema",
            command=(sys.executable, "-m", "infra.probe.schema"),
            environment={
                "MILLRACE_ADMIN_DATABASE_URL": self._servers.admin_url,
                "PROBE_PASSWORD": self._password,
            },
            after=(after,),
            step=True,
        )

    def _http(self) -> Process:
        return Process(
            name="probe-http",
            command=(
                *(sys.executable, "-m", "uvicorn", "--factory", "infra.probe.main:create", "--no-access-log"),
                *("--host", ports.HOST, "--port", str(self.port)),
            ),
            environment=self.environment(),
            after=("probe-schema",),
            ready=probes.answers(f"{self.url}/readyz"),
        )

    def beat(self, name: str = "probe-beat") -> Process:
        """A Beat's process; of several one leads."""
        return Process(
            name=name,
            command=(sys.executable, "-m", "celery", "-A", "infra.probe.worker", "beat", "--loglevel", "INFO"),
            environment=self.environment(),
            after=("probe-schema", "valkey"),
            ready=probes.logged("beat: Starting..."),
        )

    def worker(self, name: str = "probe-worker") -> Process:
        """A worker's process; its name is also the worker's."""
        return Process(
            name=name,
            command=(
                *(sys.executable, "-m", "celery", "-A", "infra.probe.worker"),
                *("worker", "-n", f"{name}@%h", "--loglevel", "INFO", "--without-mingle", "--without-gossip"),
            ),
            environment=self.environment(),
            after=("probe-schema", "valkey"),
            ready=probes.logged(" ready."),
            stop_seconds=15,
        )


@dataclass(frozen=True)
class Plant:
    """A probe that runs, with the servers that it has for itself."""

    probe: Probe
    servers: Servers
    state: State
    supervisor: Supervisor

    def view(self, process: str) -> View:
        """How a process stands: postgres, valkey, probe-http, probe-worker, probe-beat."""
        return next(view for view in self.supervisor.views() if view.name == process)


@contextmanager
def plant(environment: Mapping[str, str] | None = None) -> Iterator[Plant]:
    """Brings up PostgreSQL, Valkey and the probe on free ports in a temporary folder; nothing is left of them.

    `environment` goes to the probe's processes. Raises StackError when they do not start.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-probe-", ignore_cleanup_errors=True) as folder:
        state = State(Path(folder) / "state")
        state.create()
        chosen, password = ports.free(), secrets.token_urlsafe(24)
        admin = postgres.admin_url(chosen["postgres"], password)
        servers = Servers(admin, admin, valkey.url(chosen["valkey"], password))
        probe = Probe(state.folder, servers, environment)
        made = [
            postgres.process(state, chosen["postgres"], password),
            valkey.process(state, chosen["valkey"], password),
            *probe.processes(),
        ]
        supervisor = Supervisor(map(torn_down, made), state.log, f"probe-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            supervisor.start()
            supervisor.wait(timeout=START_SECONDS)
            yield Plant(probe, servers, state, supervisor)
        finally:
            supervisor.stop()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as held:
        held.bind((ports.HOST, 0))
        return int(held.getsockname()[1])
