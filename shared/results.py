"""Celery's result backend on the job table: `AsyncResult(job id)` reads the ledger. Celery itself writes nothing."""

from typing import Any
from uuid import UUID

from celery import states
from celery.backends.base import BaseBackend

from shared.db import is_away, raw

STATES = {
    "queued": states.PENDING,
    "running": states.STARTED,
    "succeeded": states.SUCCESS,
    "failed": states.FAILURE,
    "cancelled": states.REVOKED,
}


class LedgerBackend(BaseBackend):
    """Read-only for Celery: the state of a job is moved by the ledger alone."""

    persistent = True
    supports_autoexpire = True

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """A read whose connection PostgreSQL has just dropped is done again on another."""
        return is_away(exc)

    def _store_result(self, *_: Any, **__: Any) -> None:
        return None

    def _forget(self, task_id: str) -> None:
        return None

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self._find(task_id)
        if row is None:
            return {"status": states.PENDING, "result": None, "task_id": task_id}
        result: Any = row["result"]
        if row["state"] in ("failed", "cancelled"):
            reason = row["error"] or {}
            result = {
                "exc_type": reason.get("code", "cancelled"),
                "exc_message": reason.get("detail", ""),
                "exc_module": "millrace",
            }
        meta: dict[str, Any] = self.meta_from_decoded(
            {
                "status": STATES[row["state"]],
                "result": result,
                "traceback": None,
                "children": [],
                "date_done": row["finished_at"],
                "task_id": task_id,
                "name": row["kind"],
                "retries": max(0, row["attempt"] - 1),
            }
        )
        return meta

    def _find(self, task_id: str) -> dict[str, Any] | None:
        try:
            job = UUID(task_id)
        except ValueError:
            return None
        with self.app.service.database.transaction() as session:
            return raw(session).execute("SELECT * FROM job WHERE id = %s", (job,)).fetchone()
