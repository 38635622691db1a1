"""Millrace: the probe's jobs, owed as its routes owe them, each below a span. BENCH_KIND: a key of KINDS.

This one runs in `.venv`.
"""

import os
import time
from collections.abc import Iterable

from infra.probe.jobs import Noop, Say, Tell, Write
from shared import ids, telemetry
from shared.db import Database
from shared.ledger.enqueue import Origin, job_row
from shared.ledger.enqueue import enqueue_many as owe_many
from shared.ledger.joint import Joint

ASYNC = False
KINDS = {"noop": Noop, "write": Write, "say": Say, "tell": Tell}
kind = KINDS[os.environ.get("BENCH_KIND", "noop")]
database = Database(os.environ["BENCH_DATABASE_URL"], application="millrace-bench", pool_size=8)
joint = Joint(database)
workspace = ids.draw()
telemetry.start("bench")


def enqueue(number: int, sent_ns: int) -> None:
    """Callers of several threads may share a commit, as those of a route do."""
    with telemetry.span("ask", workspace=workspace):
        joint.owe([job_row(kind(number=number, sent_ns=sent_ns), Origin.request(workspace), ids.draw())])


def enqueue_many(numbers: Iterable[int]) -> None:
    with (
        telemetry.span("ask", workspace=workspace),
        database.transaction(origin=Origin.request(workspace)) as session,
    ):
        owe_many(session, (kind(number=number, sent_ns=time.time_ns()) for number in numbers))
