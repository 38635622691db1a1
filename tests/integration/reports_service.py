"""The reports service under test."""

from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
from fastapi.testclient import TestClient

from services.reports.handlers import SUBSCRIPTIONS
from services.reports.main import create
from services.reports.tasks import tasks
from shared import ids
from shared.contracts.envelope import Envelope
from shared.contracts.ingest import Column, DatasetCompleted
from shared.db import Database
from shared.ledger import leases
from shared.ledger.execute import Executor
from shared.objects import ObjectStore
from shared.testing.http import TestApp
from shared.testing.ledger import events, give_event, jobs, run_due

BARE = {"name": "summary", "title": "Orders of the year", "dataset": "*"}
TOTALS = {
    "name": "totals",
    "title": "Totals",
    "dataset": "orders",
    "formats": ["csv"],
    "figures": [{"label": "Total", "function": "sum", "column": "amount"}],
    "table": {"group_by": ["region"], "measures": [{"label": "Total", "function": "sum", "column": "amount"}]},
    "chart": "none",
}
COLUMNS = [Column(name="region", type="text"), Column(name="amount", type="decimal")]


class Reports:
    """The service under test, and what its neighbours would do."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.workspace = ids.draw()
        self.objects = ObjectStore(f"file://{folder / 'objects'}")
        self.app = TestApp(create())

    def client(self, workspace: UUID | None = None, **options: Any) -> TestClient:
        return self.app.client(workspace or self.workspace, **options)

    def define(self, definition: dict[str, Any]) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post("/v1/definitions", json=definition)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def completed(self, **fields: Any) -> DatasetCompleted:
        """The event of a version of `orders` whose Parquet is in the store."""
        parquet = self.folder / "data.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                f"""COPY (SELECT ['North', 'South'][1 + i % 2] AS region, (i + 0.5)::DECIMAL(18,2) AS amount
                    FROM range(10) t(i)) TO '{parquet}' (FORMAT parquet)"""
            )
        self.objects.put_file("datasets/orders/1.parquet", parquet)
        parquet.unlink()
        facts: dict[str, Any] = {
            "dataset_id": ids.draw(),
            "name": "orders",
            "version": 1,
            "object": "datasets/orders/1.parquet",
            "rows_loaded": 10,
            "rows_rejected": 2,
            "columns": COLUMNS,
        }
        return DatasetCompleted(**facts | fields)

    def give(self, event: DatasetCompleted, **options: Any) -> Envelope:
        return give_event(self.database, SUBSCRIPTIONS, event, workspace=self.workspace, **options)

    def run(self, event: DatasetCompleted, **options: Any) -> Envelope:
        """Take the event in and do everything that it causes."""
        envelope = self.give(event, **options)
        run_due(self.database, tasks)
        return envelope

    def do(self, kind: str) -> None:
        """Run the due jobs of one kind, and nothing that they cause."""
        worker = ids.draw()
        due = [job["id"] for job in jobs(self.database, kind=kind, state="queued")]
        with self.database.connect() as connection, closing(Executor(self.database, tasks, worker)) as executor:
            leases.renew(connection, worker, "test", 300.0)
            executor.run(kind, due)

    def renders(self, **query: Any) -> list[dict[str, Any]]:
        with self.client() as client:
            found: list[dict[str, Any]] = client.get("/v1/renders", params=query).json()["items"]
        return found

    def events(self) -> list[dict[str, Any]]:
        return events(self.database)
