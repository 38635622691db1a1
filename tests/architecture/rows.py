"""One row of everything that a service shows by id, for the test that walks every route."""

from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient
from psycopg.types.json import Jsonb

from shared import ids
from shared.db import Database
from shared.testing.objects import put

Ids = dict[str, str]
"""Id by the part of the path that stands before it."""
AT, FAR = "2026-11-22T09:00:00Z", "2199-01-01T00:00:00Z"
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/definitions/{id}/bursts"): {"recipients": [{"name": "walked", "only": {"a": "1"}}]},
    ("PUT", "/v1/schedules/{id}"): {"name": "walked", "kind": "api.x.y", "cron": "0 0 1 1 *"},
    ("POST", "/v1/jobs/{id}/prioritise"): {"lane": "urgent"},
}
"""What routes need to be told before they look for the row."""


def make(service: str, database: Database, client: TestClient, workspace: UUID) -> Ids:
    """Rows of the workspace; `client` may do everything in it."""
    run, job = ids.draw(), ids.draw()
    _insert(database, "job", id=job, kind=f"{service}.x.y", queue=f"{service}.jobs", priority=5, args=Jsonb({}),
            workspace=workspace, run=run, cause="request", cause_id=run, max_attempts=1, not_before=AT,
            created_at=AT)  # fmt: skip
    batch = ids.draw()
    _insert(database, "batch", id=batch, workspace=workspace, run=run, cause="request", cause_id=run, on_failure="stop",
            jobs=1, steps=1, first_job=batch, last_job=batch, created_at=AT)  # fmt: skip
    schedule = ids.draw()
    _insert(database, "schedule", id=schedule, workspace=workspace, name="walked", kind=f"{service}.x.y",
            args=Jsonb({}), cron="0 0 1 1 *", zone="UTC", anchor=AT, jitter_seconds=0, misfire="once", grace_seconds=60,
            window_seconds=0, overlap="allow", next_slot=FAR, next_at=FAR, moved_at=AT, created_at=AT,
            updated_at=AT)  # fmt: skip
    worker = ids.draw()
    _insert(database, "worker", id=worker, name="w", version="0", lease_until=FAR)
    return {
        "runs": str(run),
        "jobs": str(job),
        "batches": str(batch),
        "schedules": str(schedule),
        "workers": str(worker),
    } | OWN[service](database, client, workspace, run)


def _api(database: Database, client: TestClient, workspace: UUID, run: UUID) -> Ids:
    trace, key = ids.draw().hex, ids.draw()
    _insert(database, "workspace", id=workspace, name=str(workspace), created_at=AT)
    _insert(database, "api_key", id=key, workspace=workspace, name="k", prefix="mr_", digest=key.hex,
            scopes=["read"], created_at=AT)  # fmt: skip
    _insert(database, "run", id=run, workspace=workspace, state="running", created_at=AT)
    _insert(database, "span", trace_id=trace, span_id=trace[:16], workspace=workspace, service="api", name="x",
            kind="internal", status="unset", started_at=AT, finished_at=AT, attributes=Jsonb({}))  # fmt: skip
    return {"keys": str(key), "traces": trace, "workspaces": str(workspace)}


def _ingest(database: Database, client: TestClient, workspace: UUID, run: UUID) -> Ids:
    made = client.post("/v1/datasets?name=walked", content=b"a,b\n1,2\n", headers={"Content-Type": "text/csv"})
    assert made.status_code == 202, made.text
    return {"datasets": made.json()["dataset"]["id"]}


def _reports(database: Database, client: TestClient, workspace: UUID, run: UUID) -> Ids:
    made = client.post("/v1/definitions", json={"name": "walked", "title": "Walked", "dataset": "*"})
    assert made.status_code == 201, made.text
    render, artifact, object = ids.draw(), ids.draw(), "reports/walked.csv"
    put(client.app.state.objects, object, b"a,b\n")
    definition = Jsonb({"name": "walked", "title": "Walked", "formats": ["csv"]})
    _insert(database, "render", id=render, workspace=workspace, run=run, job=ids.draw(), definition_id=ids.draw(),
            definition=definition, dataset_id=ids.draw(), dataset="d", version=1,
            object="d.parquet", rows_loaded=1, rows_rejected=0, state="ready", figures=Jsonb([]), created_at=AT,
            finished_at=AT)  # fmt: skip
    _insert(database, "artifact", id=artifact, workspace=workspace, render=render, format="csv", object=object,
            bytes=4, media_type="text/csv", filename="walked.csv", created_at=AT)  # fmt: skip
    return {"definitions": made.json()["id"], "renders": str(render), "artifacts": str(artifact)}


def _notifications(database: Database, client: TestClient, workspace: UUID, run: UUID) -> Ids:
    channel = client.post("/v1/channels", json={"name": "c", "kind": "email", "config": {"to": ["a@example.org"]}})
    assert channel.status_code == 201, channel.text
    rule = client.post("/v1/rules", json={"name": "r", "event_type": "*", "channel_id": channel.json()["id"]})
    assert rule.status_code == 201, rule.text
    message, delivery = ids.draw(), ids.draw()
    _insert(database, "message", id=message, workspace=workspace, run=run, rule=rule.json()["id"], rule_name="r",
            event=Jsonb({}), event_id=ids.draw(), event_type="x", created_at=AT)  # fmt: skip
    _insert(database, "delivery", id=delivery, workspace=workspace, run=run, message=message,
            channel=channel.json()["id"], channel_name="c", channel_kind="email", destination="a@example.org",
            status="pending", created_at=AT)  # fmt: skip
    return {
        "channels": channel.json()["id"],
        "rules": rule.json()["id"],
        "messages": str(message),
        "deliveries": str(delivery),
    }


OWN = {"api": _api, "ingest": _ingest, "reports": _reports, "notifications": _notifications}


def _insert(database: Database, table: str, **values: Any) -> None:
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    with database.connect() as connection:
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))
