"""Which processes the embedded stack is made of, and their environments: as compose and Kubernetes run them."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from infra.local import ports, postgres, probes, secrets, valkey
from infra.local.ports import Ports
from infra.local.process import Process, View
from infra.local.secrets import SERVICES
from infra.local.state import State
from infra.local.supervisor import Supervisor
from infra.local.watchdog import sweep

ROOT: Final = Path(__file__).parents[2]
WEB_USER: Final = "millrace"
MAIL_FROM: Final = "Millrace <reports@millrace.localhost>"
START_SECONDS: Final = 120.0
# What a process may see of the caller's environment: a stray PGUSER, HTTP_PROXY or WEB_CONCURRENCY in a shell
# would change how the services connect. Their own settings pass, so that each can be tuned from outside.
_INHERITED: Final = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZDIR"})
_PASSED_PREFIXES: Final = ("MILLRACE_", *(f"{service.upper()}_" for service in SERVICES))
# The command line's own settings.
_NOT_PASSED: Final = frozenset({"MILLRACE_STATE", "MILLRACE_URL", "MILLRACE_KEY", "MILLRACE_STACK"})


class Stack:
    """The whole stack on one state folder. The caller holds the folder's lock."""

    def __init__(
        self,
        state: State,
        chosen: Ports,
        *,
        flower: bool = True,
        lasting: bool = True,
        listener: Callable[[View], None] = lambda view: None,
    ) -> None:
        """A stack that is not lasting is torn down instead of stopped in order: its folder is thrown away.

        `listener` hears of every change of a process, in the supervisor's thread.
        """
        self.state, self.ports = state, chosen
        self.secrets = secrets.load(state)
        self._listener = listener
        made = self._processes(flower)
        self.processes = made if lasting else [torn_down(each) for each in made]
        self._supervisor = Supervisor(self.processes, state.log, self.secrets.stack, self._changed)

    def start(self) -> None:
        """Starts everything and returns at once. Raises PortTaken when a port is in use."""
        # What a killed stack left running would hold the very ports.
        sweep(self.secrets.stack)
        ports.check(self.ports)
        self.state.write("stack.json", {"ports": self.ports, "pid": os.getpid(), "started": time.time()})
        self._supervisor.start()

    def wait(self, names: Iterable[str] | None = None, timeout: float = START_SECONDS) -> None:
        """Returns when the named processes are ready, by default all that do the work. Raises StartFailed."""
        working = [process.name for process in self.processes if process.name != "flower"]
        self._supervisor.wait(working if names is None else names, timeout)

    def check(self) -> None:
        """Raises StartFailed when a process has been given up."""
        self._supervisor.check()

    def stop(self) -> None:
        """Stops everything; nothing is left running."""
        self._supervisor.stop()
        self._write_status()

    def hurry(self) -> None:
        """Kills what is still stopping."""
        self._supervisor.hurry()

    def views(self) -> list[View]:
        return self._supervisor.views()

    def _changed(self, view: View) -> None:
        self._write_status()
        self._listener(view)

    def _write_status(self) -> None:
        self.state.write(
            "status.json",
            durable=False,
            value={"processes": [dataclasses.asdict(view) for view in self.views()]},
        )

    def _processes(self, flower: bool) -> list[Process]:
        made = [
            postgres.process(self.state, self.ports["postgres"], self.secrets.passwords["postgres"]),
            valkey.process(self.state, self.ports["valkey"], self.secrets.passwords["valkey"]),
            self._mailbox(),
            self._provision(),
        ]
        for service in SERVICES:
            made += self._service(service)
        if flower:
            made.append(self._flower())
        # PostgreSQL has its own; every other process gets exactly what is put together here.
        base = {**inherited(), "TMPDIR": str(self.state.path("tmp"))}
        return [replace(each, environment={**base, **each.environment}, directory=ROOT) for each in made]

    def _mailbox(self) -> Process:
        """Catches all mail and receives the demo's webhooks."""
        smtp, http = self.ports["smtp"], self.ports["mailbox"]
        return Process(
            name="mailbox",
            command=(
                *(sys.executable, "-m", "infra.local.mailbox"),
                *("--host", ports.HOST, "--smtp-port", str(smtp), "--http-port", str(http)),
                *("--directory", str(self.state.path("mailbox"))),
            ),
            environment={"MAILBOX_KEY": self.secrets.passwords["web"]},
            ready=probes.answers(f"{ports.url(http)}/healthz"),
        )

    def _provision(self) -> Process:
        admin = postgres.admin_url(self.ports["postgres"], self.secrets.passwords["postgres"])
        passwords = {f"MILLRACE_{name.upper()}_PASSWORD": self.secrets.passwords[name] for name in SERVICES}
        return Process(
            name="provision",
            command=(sys.executable, "-m", "infra.provision"),
            environment={"MILLRACE_ADMIN_DATABASE_URL": admin, **passwords},
            after=("postgres",),
            step=True,
        )

    def _service(self, service: str) -> list[Process]:
        """A service's three processes."""
        environment = self._environment(service)
        celery = (sys.executable, "-m", "celery", "-A", f"services.{service}.worker")
        factory = f"services.{service}.main:create"
        port = self.ports[service]
        return [
            Process(
                name=f"{service}-http",
                command=(
                    *(sys.executable, "-m", "uvicorn", "--factory", factory),
                    *("--host", ports.HOST, "--port", str(port)),
                ),
                environment=environment,
                after=("provision",),
                ready=probes.answers(f"{ports.url(port)}/readyz"),
            ),
            Process(
                name=f"{service}-worker",
                command=(
                    *(*celery, "worker", "-n", f"{service}@%h", "--loglevel", "INFO"),
                    # Nobody here needs to hear of the other workers, and asking them takes a second.
                    *("--without-mingle", "--without-gossip"),
                ),
                environment=environment,
                after=("provision", "valkey"),
                ready=probes.logged(" ready."),
                # A warm shutdown sees the running jobs to their end; what takes longer starts again elsewhere.
                stop_seconds=15,
            ),
            Process(
                name=f"{service}-beat",
                command=(*celery, "beat", "--loglevel", "INFO"),
                environment=environment,
                after=("provision", "valkey"),
                ready=probes.logged("beat: Starting..."),
            ),
        ]

    def _flower(self) -> Process:
        port = self.ports["flower"]
        celery = (sys.executable, "-m", "celery", "-A", "services.api.worker")
        return Process(
            name="flower",
            # It is for looking only: neither the start nor the work waits for it.
            command=("nice", *celery, "flower", f"--address={ports.HOST}", f"--port={port}"),
            environment={
                **self._environment("api"),
                # Not on the command line, which every user of the machine can read.
                "FLOWER_BASIC_AUTH": f"{WEB_USER}:{self.secrets.passwords['web']}",
            },
            after=("valkey", "provision"),
            ready=probes.answers(f"{ports.url(port)}/healthcheck"),
        )

    def _environment(self, service: str) -> dict[str, str]:
        """The settings of a service's processes."""
        database, broker = self.ports["postgres"], self.ports["valkey"]
        password = self.secrets.passwords[service]
        telemetry = quote(f"Bearer {self.secrets.keys['telemetry']}")
        own = {
            "api": {"API_SIGNING_KEY_FILE": str(self.secrets.signing_key)},
            "notifications": {
                "NOTIFICATIONS_SMTP_URL": f"smtp://{ports.HOST}:{self.ports['smtp']}",
                "NOTIFICATIONS_MAIL_FROM": MAIL_FROM,
                # The mailbox's webhook receiver is on this machine, where webhooks otherwise may not go.
                "NOTIFICATIONS_ALLOWED_NETWORKS": json.dumps([f"{ports.HOST}/32"]),
            },
        }
        return {
            "MILLRACE_DATABASE_URL": f"postgresql://{service}:{password}@{ports.HOST}:{database}/millrace",
            "MILLRACE_BROKER_URL": valkey.url(broker, self.secrets.passwords["valkey"]),
            "MILLRACE_OBJECTS_URL": self.state.path("objects").as_uri(),
            "MILLRACE_SERVICE_URLS": json.dumps({name: ports.url(self.ports[name]) for name in SERVICES}),
            "MILLRACE_STATIC_KEYS": self.secrets.static_keys(),
            "MILLRACE_SERVICE_KEY": self.secrets.keys[service],
            "OTEL_EXPORTER_OTLP_ENDPOINT": ports.url(self.ports["api"]),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={telemetry}",
            **own.get(service, {}),
        }


def torn_down(process: Process) -> Process:
    # PostgreSQL's immediate shutdown: killed outright it would leave its shared memory segment behind.
    return replace(process, stop_signal=signal.SIGQUIT if process.name == "postgres" else signal.SIGKILL)


def inherited() -> dict[str, str]:
    """What every process sees of the caller's environment, and the tone of the logs."""
    seen = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_PASSED and (name in _INHERITED or name.startswith(_PASSED_PREFIXES))
    }
    if seen.get("MILLRACE_LOG_LEVEL") not in ("DEBUG", "INFO"):
        # A worker is known to be ready by what it logs.
        seen["MILLRACE_LOG_LEVEL"] = "INFO"
    return seen
