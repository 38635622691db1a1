"""Millrace under test: the embedded stack with the probe as a fifth service, proxies before the broker and the trace
collector, and sinks for what it sends."""

import base64
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx

from infra.chaos import limits
from infra.chaos.proxy import Proxy
from infra.chaos.record import Record, SmallJob
from infra.chaos.sinks import HookSink, MailSink
from infra.chaos.world import Endpoint, JobRow, Row, World
from infra.local import ports, postgres, valkey
from infra.local.ports import Ports
from infra.local.process import Process, View
from infra.local.secrets import SERVICES
from infra.local.stack import ROOT, Stack, inherited
from infra.local.state import Lock, State
from infra.probe.plant import Probe, Servers

SCHEMAS: Final = (*SERVICES, "probe")
WORKERS: Final = ("probe-worker", "probe-worker-2")
LEASE_SECONDS: Final = 30.0
"""The default of MILLRACE_LEASE_SECONDS."""

AUDIT: Final = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.move (
  at timestamptz NOT NULL DEFAULT clock_timestamp(), service text NOT NULL, job uuid NOT NULL,
  was text NOT NULL, became text NOT NULL, attempt_was integer NOT NULL, attempt integer NOT NULL);
CREATE FUNCTION chaos.note_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = chaos AS $$
BEGIN
  INSERT INTO chaos.move (service, job, was, became, attempt_was, attempt)
  VALUES (TG_ARGV[0], NEW.id, OLD.state, NEW.state, OLD.attempt, NEW.attempt);
  RETURN NULL;
END $$;
CREATE TABLE chaos.fire (at timestamptz NOT NULL DEFAULT clock_timestamp(), job uuid NOT NULL, number bigint NOT NULL);
CREATE FUNCTION chaos.note_fire() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = chaos AS $$
BEGIN
  INSERT INTO chaos.fire (job, number) VALUES (NEW.id, (NEW.args ->> 'number')::bigint);
  RETURN NULL;
END $$;
CREATE TRIGGER zz_chaos_fire AFTER INSERT ON probe.job FOR EACH ROW
WHEN (NEW.cause = 'schedule') EXECUTE FUNCTION chaos.note_fire();
GRANT USAGE ON SCHEMA chaos TO PUBLIC"""
"""A record of every move and of every fire that commits, kept by triggers of ours and not by the system's code."""

AUDIT_ONE: Final = """
CREATE TRIGGER zz_chaos AFTER UPDATE OF state ON {schema}.job FOR EACH ROW
WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION chaos.note_move('{schema}')"""


class ChaosStack(Stack):
    """The embedded stack with everything of ours in between. No mailbox: there are sinks."""

    def __init__(self, state: State, chosen: Ports, *, world: "Millrace", listener: Callable[[View], None]) -> None:
        self._world = world
        super().__init__(state, chosen, flower=False, lasting=False, listener=listener)

    def _environment(self, service: str) -> dict[str, str]:
        world = self._world
        own = {"NOTIFICATIONS_SMTP_URL": f"smtp://{ports.HOST}:{world.mail.port}"} if service == "notifications" else {}
        return {
            **super()._environment(service),
            "MILLRACE_BROKER_URL": valkey.url(world.broker.port, self.secrets.passwords["valkey"]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": ports.url(world.collector.port),
            **own,
        }

    def _processes(self, flower: bool) -> list[Process]:
        made = [each for each in super()._processes(flower) if each.name != "mailbox"]
        probe = self._world.make_probe(self)
        made += probe.processes("provision", WORKERS)
        return [self._forgetful(each) if each.name == "valkey" else each for each in made]

    def _forgetful(self, broker: Process) -> Process:
        """When the world wants it, the broker starts with nothing kept."""

        def prepare() -> None:
            if self._world.wipe.is_set():
                shutil.rmtree(self.state.path("valkey", "appendonlydir"), ignore_errors=True)
            if broker.prepare is not None:
                broker.prepare()

        return replace(broker, prepare=prepare)


class Millrace(World):
    """Millrace's four services and the probe."""

    name = "millrace"
    queue = "probe.jobs"
    workers = WORKERS
    others = ("ingest-worker", "reports-worker", "notifications-worker", "api-worker")
    https = ("api-http", "ingest-http", "probe-http")
    beats = ("probe-beat", "ingest-beat", "reports-beat", "notifications-beat", "api-beat")
    groups = True
    limits = True
    batches = True
    schedules = True
    stack: ChaosStack
    probe: Probe

    def __init__(
        self, folder: Path, record: Record, random_: random.Random, say: Callable[[str], None], resources: ExitStack
    ) -> None:
        self.state = State(folder / "state")
        self.state.create()
        super().__init__(record, self.state.path("probe.records"), random_, say)
        self.lease_seconds = float(os.environ.get("MILLRACE_LEASE_SECONDS", LEASE_SECONDS))
        chosen = ports.free()
        self.mail, self.hooks = MailSink(record.mails), HookSink(record.hooks)
        self.broker, self.collector = Proxy(chosen["valkey"]), Proxy(chosen["api"])
        for each in (self.mail, self.hooks, self.broker, self.collector):
            each.start()
            resources.callback(each.close)
        self.stack = ChaosStack(self.state, chosen, world=self, listener=lambda view: None)
        passwords = self.stack.secrets.passwords
        self.broker_url = valkey.url(chosen["valkey"], passwords["valkey"])
        self.admin_url = postgres.admin_url(chosen["postgres"], passwords["postgres"], "millrace")

    def make_probe(self, stack: ChaosStack) -> Probe:
        """Called while the stack puts its processes together."""
        passwords = stack.secrets.passwords
        admin = postgres.admin_url(stack.ports["postgres"], passwords["postgres"])
        broker = valkey.url(self.broker.port, passwords["valkey"])
        api = stack._environment("api")
        telemetry = {name: value for name, value in api.items() if name.startswith("OTEL_")}
        self.probe = Probe(self.state.folder, Servers(admin, admin, broker), telemetry)
        return self.probe

    def begin(self) -> None:
        """Everything is up, watched, and set up to be used."""
        self.stack.start()
        self.stack.wait()
        with self.connect() as connection:
            connection.execute(AUDIT.encode())
            for schema in SCHEMAS:
                connection.execute(AUDIT_ONE.format(schema=schema).encode())
        self.app_url = self.probe.database_url
        self.jobs = Endpoint(self.probe.url, self.probe.headers)
        for key, limit in limits.RULES.items():
            url = f"{self.probe.url}/v1/limits/{key}"
            httpx.put(url, json=limit, headers=self.probe.operator_headers, trust_env=False).raise_for_status()
        self.uploads = self._furnish()

    def _furnish(self) -> Endpoint:
        """A workspace with a key, a report of every dataset, and rules that tell of it by mail and by webhook."""
        gateway, operator = ports.url(self.stack.ports["api"]), self.stack.secrets.keys["operator"]
        with httpx.Client(base_url=gateway, timeout=30.0, trust_env=False) as client:

            def post(path: str, key: str, **body: Any) -> Row:
                answer = client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
                answer.raise_for_status()
                made: Row = answer.json()
                return made

            workspace = post("/v1/workspaces", operator, name="chaos")["id"]
            scopes = ["read", "write", "admin"]
            key = post(f"/v1/workspaces/{workspace}/keys", operator, name="chaos", scopes=scopes)["key"]
            post("/v1/definitions", key, name="overview", title="Overview", dataset="*")
            secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
            mail = post("/v1/channels", key, name="mail", kind="email", config={"to": ["team@example.org"]})
            config = {"url": self.hooks.url}
            hook = post("/v1/channels", key, name="hook", kind="webhook", config=config, secret=secret)
            for channel in (mail, hook):
                post(
                    "/v1/rules",
                    key,
                    name=channel["name"],
                    event_type="reports.report.rendered.v1",
                    channel_id=channel["id"],
                )
        return Endpoint(gateway, {"Authorization": f"Bearer {key}"})

    def message_of(self, job: SmallJob) -> Row:
        return {"args": ([job.job],), "task_id": job.job}

    def rows(self) -> list[JobRow]:
        found = self.query(
            """SELECT id::text AS job, (args->>'number')::bigint AS number, split_part(kind, '.', 3) AS kind, state,
                      error->>'code' AS reason
               FROM probe.job WHERE kind <> 'probe.thing.note'"""
        )
        return [JobRow(**row) for row in found]

    def still_open(self) -> list[str]:
        parts = " UNION ALL ".join(
            f"""SELECT concat_ws(' ', kind, id, 'is', state) AS words
                FROM {schema}.job WHERE state IN ('queued', 'running')
                UNION ALL SELECT concat_ws(' ', type, id, 'is not told') FROM {schema}.event
                WHERE position IS NULL
                   OR position > coalesce((SELECT position FROM {schema}.cursor WHERE name = 'published'), 0)"""  # noqa: S608
            for schema in SCHEMAS
        )
        return [row["words"] for row in self.query(parts)]

    def upload_rows(self) -> dict[str, Row]:
        parts = " UNION ALL ".join(
            f"SELECT run, state, error FROM {schema}.job"  # noqa: S608  # constants
            for schema in SERVICES
        )
        found = self.query(
            f"""WITH jobs AS (
                  SELECT run, count(*) FILTER (WHERE state IN ('queued', 'running')) AS unfinished,
                         count(*) FILTER (WHERE state IN ('failed', 'cancelled')) AS failed,
                         count(*) FILTER (WHERE error->>'code' = 'job.quarantined') AS quarantined
                  FROM ({parts}) AS all_jobs GROUP BY run)
                SELECT dataset.name AS dataset, unfinished, failed, quarantined,
                  (SELECT count(*) FROM ingest.dataset_version AS v WHERE v.dataset = dataset.id) AS versions,
                  (SELECT count(*) FROM reports.render AS r WHERE r.run = jobs.run) AS renders,
                  (SELECT count(*) FROM notifications.delivery AS d WHERE d.run = jobs.run) AS deliveries
                FROM ingest.dataset JOIN ingest.dataset_version AS version ON version.dataset = dataset.id
                JOIN jobs ON jobs.run = version.run"""  # noqa: S608  # the same
        )
        return {row["dataset"]: row for row in found}

    def moves(self) -> list[Row]:
        return self.query(
            """SELECT service, job::text AS job, was, became, attempt_was, attempt, extract(epoch FROM at)::float AS at
               FROM chaos.move ORDER BY at"""
        )

    def fires(self) -> list[Row]:
        return self.query(
            "SELECT job::text AS job, number, extract(epoch FROM at)::float AS at FROM chaos.fire ORDER BY at"
        )

    def together(self) -> set[int]:
        found = self.query(
            """SELECT (args->>'number')::bigint AS number FROM (
                 SELECT job, count(*) OVER (PARTITION BY worker, started_at) AS jobs FROM probe.attempt) AS begun
               JOIN probe.job ON job.id = begun.job WHERE jobs > 1 AND args ? 'number'"""
        )
        return {row["number"] for row in found}

    def views(self) -> list[View]:
        return self.stack.views()

    def process(self, name: str) -> Process:
        made = self.probe.beat(name)
        return replace(made, environment={**inherited(), **made.environment}, directory=ROOT)

    def mark(self) -> str:
        return self.stack.secrets.stack

    def log(self, name: str) -> Path:
        return self.state.log(name)


@contextmanager
def millrace(record: Record, random_: random.Random, say: Callable[[str], None]) -> Iterator[Millrace]:
    """Brings Millrace up in a temporary folder, on free ports; nothing is left of it. Raises StackError."""
    with (
        tempfile.TemporaryDirectory(prefix="millrace-chaos-", ignore_cleanup_errors=True) as folder,
        ExitStack() as held,
    ):
        world = Millrace(Path(folder), record, random_, say, held)
        with Lock(world.state):
            try:
                world.begin()
                yield world
            finally:
                world.stack.stop()
