"""One commit for the jobs of several requests: a commit waits for the disk, and many may wait for the same one."""

import threading
import time

import structlog

from shared.db import Database, Row, raw
from shared.ledger.enqueue import insert

log = structlog.get_logger(__name__)

BREATH_SECONDS = 0.002
"""While requests come together a commit waits so long for further ones: fewer of them, and less time of the interpreter
for each request."""


class Joint:
    """Owes jobs for many threads. Those that come while a commit is under way share the next one. One that comes alone,
    after another that did, is committed at once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._open: _Batch | None = None
        self._is_shared = False
        """Whether the last commit was."""

    def owe(self, rows: list[Row]) -> None:
        """Insert the jobs of `rows`; they are stored when this returns.

        When the joint transaction fails, each caller inserts its own jobs and gets its own error: what one of them
        asked for spoils nothing for the others, and after a connection that broke at the commit the ids that are
        stored already add nothing.
        """
        with self._lock:
            leads = self._open is None
            batch = self._open = self._open or _Batch()
            batch.writes.append(rows)
        if leads:
            self._lead(batch)
        else:
            batch.ended.wait()
        if not batch.is_stored:
            self._insert(rows)

    def _lead(self, batch: "_Batch") -> None:
        try:
            with self._turn:
                if self._is_shared:
                    time.sleep(BREATH_SECONDS)
                with self._lock:
                    self._open = None
                self._is_shared = len(batch.writes) > 1
                self._insert([row for rows in batch.writes for row in rows])
            batch.is_stored = True
        except Exception as error:
            if len(batch.writes) == 1:
                raise
            log.warning("joint commit failed", requests=len(batch.writes), reason=type(error).__name__)
        finally:
            batch.ended.set()

    def _insert(self, rows: list[Row]) -> None:
        with self.database.transaction(wake=True) as session:
            insert(raw(session), rows)


class _Batch:
    """The jobs of the requests that commit together. Closed under the lock of its `Joint`, then read by its leader."""

    def __init__(self) -> None:
        self.writes: list[list[Row]] = []
        self.is_stored = False
        self.ended = threading.Event()
