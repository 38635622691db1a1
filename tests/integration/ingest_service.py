"""The ingest service under test: its HTTP application, its jobs run in the test's process, its object store."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import uvicorn
from fastapi.testclient import TestClient

from services.ingest.main import create
from services.ingest.tasks import tasks
from shared import ids
from shared.db import Database
from shared.ledger import leases
from shared.ledger.execute import Executor
from shared.objects import ObjectStore
from shared.testing.http import ALL, TestApp
from shared.testing.ledger import events, jobs, run_due
from shared.testing.waiting import until


class Ingest:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.workspace = ids.draw()
        self.objects = ObjectStore(f"file://{folder / 'objects'}")
        self.app = TestApp(create())

    def client(
        self, workspace: UUID | None = None, scopes: frozenset[str] = ALL, content: str | None = "text/csv"
    ) -> TestClient:
        client = self.app.client(workspace or self.workspace, scopes)
        if content:
            client.headers["Content-Type"] = content
        return client

    def upload(self, data: Any, name: str = "orders", key: str | None = None, **options: Any) -> Any:
        """Sends a CSV; answers the response."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        with self.client(**options) as client:
            return client.post("/v1/datasets", params={"name": name}, content=data, headers=headers)

    def load(self, data: Any, name: str = "orders") -> dict[str, Any]:
        """Sends a CSV, runs its job to the end, and answers the dataset as it then is."""
        answer = self.upload(data, name)
        assert answer.status_code == 202, answer.text
        run_due(self.database, tasks)
        return self.show(answer.json()["dataset"]["url"])

    def show(self, path: str, workspace: UUID | None = None, **query: Any) -> dict[str, Any]:
        with self.client(workspace) as client:
            answer = client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def attempt(self, job: UUID) -> None:
        """One attempt at a job, by a worker of its own."""
        worker = ids.draw()
        with self.database.connect() as connection, closing(Executor(self.database, tasks, worker)) as executor:
            leases.renew(connection, worker, "test", 300.0)
            [found] = self.jobs(id=job)
            executor.run(found["kind"], [job])

    def jobs(self, **where: Any) -> list[dict[str, Any]]:
        return jobs(self.database, **where)

    def events(self) -> list[dict[str, Any]]:
        return events(self.database)

    def rows(self, key: str) -> list[tuple[Any, ...]]:
        """The rows of a stored Parquet file."""
        copy = self.folder / "copy.parquet"
        self.objects.get_file(key, copy)
        with duckdb.connect() as connection:
            return connection.execute("SELECT * FROM read_parquet(?)", [str(copy)]).fetchall()

    def nothing_is_left(self) -> bool:
        """No row, no job, no event, no key, no object, and no file that the store began to write."""
        with self.database.connect() as connection:
            counted = connection.execute(
                """SELECT (SELECT count(*) FROM dataset) + (SELECT count(*) FROM dataset_version)
                        + (SELECT count(*) FROM job) + (SELECT count(*) FROM event)
                        + (SELECT count(*) FROM idempotency) AS rows"""
            ).fetchone()
        files = [path for path in (self.folder / "objects").rglob("*") if path.is_file()]
        return counted is not None and (counted["rows"], files) == (0, [])

    @contextmanager
    def serving(self) -> Iterator[int]:
        """The application behind a real socket of 127.0.0.1; answers the port."""
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            server = uvicorn.Server(uvicorn.Config(self.app.app, log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                until(lambda: server.started)
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
                thread.join(30)
