"""The front door under test, with a real service behind it."""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey

from services.api.main import create
from shared import ids


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Say = Callable[..., tuple[int, str, str]]
"""Runs `millrace …`; answers its exit code and what it said on both streams."""
REFUSED_KIND = "refused.by.others"
MOVES = {"cancel": 200, "retry": 409}


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The app on a real socket of a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who calls before it is up waits
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


PEERS_SCHEDULE = ids.draw()
"""The schedule that the services behind the gateway have."""
PEERS_JOB = str(ids.draw())
"""The job that they have."""
PEERS_BATCH = ids.draw()
"""The batch that they have."""
PEERS_DEFINITION = ids.draw()
"""The definition of a report, named orders, that they have."""


PEERS_RUN = str(ids.draw())
"""A run that a schedule of theirs has begun; they tell of it whoever asks for seven."""


def a_job(id: str, state: str = "queued") -> dict[str, Any]:
    """A job as a service tells it."""
    nothing = dict.fromkeys(("reason", "progress", "result", "trace_id", "started_at", "finished_at", "start_by",
                             "deadline", "limit_key", "batch", "step"), None)  # fmt: skip
    counts = dict.fromkeys(("attempt", "max_attempts", "crashes"), 1)
    when = dict.fromkeys(("created_at", "not_before"), "2026-11-25T09:00:00Z")
    texts = {"service": "ingest", "kind": "ingest.x.y", "queue": "ingest.jobs", "state": state, "cause": "request"}
    lists = {"args": {}, "history": [], "interventions": []}
    more = {"lane": "normal", "url": ""}
    return {**nothing, **counts, **when, **texts, **lists, **more, "id": id, "run": id, "cause_id": id}


def a_batch(id: str) -> dict[str, Any]:
    """A batch as a service tells it."""
    nothing = dict.fromkeys(("name", "reason", "finished_at"), None)
    counts = dict.fromkeys(("step", "steps", "jobs"), 1)
    texts = {"service": "ingest", "state": "running", "on_failure": "stop", "cause": "request", "url": ""}
    return {**nothing, **counts, **texts, "id": id, "run": id, "cause_id": id, "created_at": "2026-11-25T09:00:00Z"}


def peer_service() -> FastAPI:
    """A service behind the gateway that tells what reached it."""
    app = FastAPI()

    @app.api_route("/v1/datasets", methods=["GET", "POST"])
    async def datasets(request: Request):
        body = hashlib.sha256()
        size = 0
        async for chunk in request.stream():
            body.update(chunk)
            size += len(chunk)
        return {"headers": dict(request.headers), "query": request.url.query, "bytes": size, "sha256": body.hexdigest()}

    @app.get("/v1/datasets/{rest:path}")
    @app.get("/metrics")
    def below(request: Request):
        return {"raw": request.scope["raw_path"].decode(), "query": request.url.query}

    @app.get("/v1/artifacts/big")
    async def artifact():
        async def chunks():
            for _ in range(64):
                yield b"x" * 65536

        return StreamingResponse(chunks(), media_type="application/pdf", headers={"ETag": '"one"'})

    run = ids.draw()

    @app.post("/v1/rules", status_code=202)
    def accept():
        return {"job": {"id": str(run), "url": "x"}, "run": {"id": str(run), "url": "y"}}

    @app.post("/v1/jobs", status_code=202)
    @app.post("/v1/jobs:batch", status_code=202)
    async def owe(request: Request):
        return {"run": {"id": str(run), "url": "y"}, "got": await request.json(), "headers": dict(request.headers)}

    @app.post("/v1/jobs/{id}/{move}")
    def move_job(id: str, move: str):
        if not id.startswith("0190"):
            return JSONResponse({}, 404)
        return JSONResponse({"state": "cancelled", "run": str(run), "code": "job.wrong_state"}, MOVES[move])

    @app.post("/v1/jobs:{move}")
    async def move_jobs(request: Request):
        body = await request.json()
        if body["filter"]["kind"] == REFUSED_KIND:
            return JSONResponse({"code": "auth.forbidden", "detail": "No."}, 403)
        dry = body["dry_run"]
        return {"dry_run": dry, "jobs": 7, "more": not dry, "by_kind": {"x": 7} if dry else None}

    @app.get("/v1/runs/scheduled")
    def list_scheduled(limit: int):
        return [PEERS_RUN] if limit == 7 else []

    @app.get("/v1/jobs:counts")
    def count_jobs(bucket: str, created_until: str):
        counted = {"service": "reports", "jobs": 7, "states": {"failed": 7}, "took": None,
                   "wait": {"p50": 0.1, "p95": 2, "max": 3}}  # fmt: skip
        start = ids.time_of(run).replace(minute=0, second=0, microsecond=0).isoformat()
        kinds = [counted | {"kind": "x"}]
        return {"bucket": bucket, "since": start, "until": created_until, "is_complete": False, "kinds": kinds,
                "buckets": [counted | {"kind": "x", "start": start}]}  # fmt: skip

    @app.get("/v1/jobs")
    def list_jobs():
        return {"items": [], "next": None}

    @app.get("/v1/jobs/{id}")
    def show_job(id: str):
        return a_job(id) if id == PEERS_JOB else JSONResponse({}, 404)

    watched: list[str] = []

    @app.get("/v1/jobs/{id}/events")
    async def watch_job(id: str, seconds: float):
        watched.append(id)
        states = ("queued", "running") if len(watched) == 1 else ("running", "succeeded")

        async def events():
            for state in states:
                yield f"event: job\ndata: {json.dumps(a_job(id, state))}\n\n"
            if len(watched) == 1:
                raise ConnectionError("the service is killed in the middle")
            yield "event: end\ndata: {}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/v1/jobs/{id}/why")
    def why(id: str):
        reasons = [{"code": "wait.nothing", "detail": "Nothing."}]
        told = {"service": "ingest", "job": id, "kind": "x", "queue": "y", "state": "queued", "url": "z"}
        return told | {"reasons": reasons} if id.startswith("0190") else JSONResponse({"status": 404}, 404)

    @app.get("/v1/limits")
    def list_limits():
        return {"items": []}

    @app.put("/v1/limits/{key}")
    async def put_limit(key: str, request: Request):
        path = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        return {"got": await request.json(), "path": path}

    @app.post("/v1/schedules", status_code=201)
    @app.put("/v1/schedules/{id}")
    async def make_schedule(request: Request):
        return {"got": await request.json()}

    @app.get("/v1/schedules")
    def list_schedules():
        return {"items": [], "next": None}

    @app.get("/v1/schedules/{id}")
    def show_schedule(id: str):
        return {"id": id} if id == str(PEERS_SCHEDULE) else JSONResponse({"status": 404}, 404)

    @app.post("/v1/schedules/{id}/run", status_code=202)
    def run_schedule(id: str):
        return {"job": {"id": str(run), "url": "x"}, "run": {"id": str(run), "url": "y"}}

    @app.delete("/v1/schedules/{id}", status_code=204)
    def delete_schedule(id: str):
        return None

    @app.post("/v1/batches", status_code=202)
    async def owe_batch(request: Request):
        body = await request.json()
        return {"batch": {"id": str(run), "url": "x"}, "run": {"id": str(run), "url": "y"}, "jobs": [], "got": body}

    @app.get("/v1/batches")
    def list_batches():
        return {"items": [a_batch(str(PEERS_BATCH))], "next": None}

    @app.get("/v1/definitions")
    def list_definitions():
        return {"items": [{"id": str(PEERS_DEFINITION), "name": "orders"}], "next": None}

    @app.post("/v1/definitions/{id}/bursts", status_code=202)
    async def burst(id: str, request: Request):
        renders = len((await request.json())["recipients"])
        return {"batch": {"id": id, "url": "x"}, "run": {"id": str(run), "url": "y"}, "renders": renders}

    @app.get("/v1/batches/{id}")
    def show_batch(id: str):
        return a_batch(id) | {"counts": []} if id == str(PEERS_BATCH) else JSONResponse({"status": 404}, 404)

    @app.post("/v1/batches/{id}/cancel")
    def cancel_batch(id: str):
        return a_batch(id) | {"counts": [], "state": "cancelled"}

    @app.get("/v1/runs/tallies")
    def list_tallies():
        return []

    @app.get("/v1/queues")
    def list_queues():
        counts = dict.fromkeys(("due", "later", "running", "workers", "slots", "in_per_second", "out_per_second"), 0)
        return {"items": [{"service": "far", "name": "far.jobs", "oldest_due_seconds": None, "lanes": {}, **counts}]}

    @app.post("/v1/workers/{id}/drain")
    def drain(id: str):
        return JSONResponse({"code": "worker.gone"}, 409 if id.startswith("0190") else 404)

    @app.get("/v1/runs/{id}/part")
    def part(id: str):
        return {"jobs": [], "events": []}

    return app


@contextmanager
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FastAPI]:
    """The gateway's app, with a service behind it that tells what reached it; after `environment("api")`."""
    key = OKPKey.generate_key("Ed25519", private=True)
    (tmp_path / "signing.pem").write_bytes(key.as_pem(private=True))
    monkeypatch.setenv("API_SIGNING_KEY_FILE", str(tmp_path / "signing.pem"))
    accounts = {
        "operator": {"sha256": sha256("the operator"), "scopes": ["operator"]},
        "telemetry": {"sha256": sha256("the collector"), "scopes": ["spans"]},
    }
    monkeypatch.setenv("MILLRACE_STATIC_KEYS", json.dumps(accounts))
    with serving(peer_service()) as peer:
        services = {"api": "http://127.0.0.1:1", "ingest": peer, "reports": peer, "notifications": peer}
        monkeypatch.setenv("MILLRACE_SERVICE_URLS", json.dumps(services))
        yield create()


@contextmanager
def front_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TestClient]:
    """The gateway, called without a socket."""
    with gateway(monkeypatch, tmp_path) as app, TestClient(app) as client:
        yield client


class ServedDoor(httpx.Client):
    """Calls the gateway on its socket, and knows the app that answers there."""

    def __init__(self, url: str, app: FastAPI) -> None:
        super().__init__(base_url=url, timeout=10)
        self.url, self.app = url, app


@contextmanager
def served_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServedDoor]:
    """The gateway on a real socket, for the command and the client."""
    with gateway(monkeypatch, tmp_path) as app, serving(app) as url, ServedDoor(url, app) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def workspace_and_key(client, name="acme", scopes=("read", "write", "admin")):
    made = client.post("/v1/workspaces", json={"name": name}, headers=bearer("the operator"))
    assert made.status_code == 201, made.text
    key = client.post(
        f"/v1/workspaces/{made.json()['id']}/keys", json={"name": "k", "scopes": scopes}, headers=bearer("the operator")
    )
    assert key.status_code == 201, key.text
    return made.json()["id"], key.json()["key"]
