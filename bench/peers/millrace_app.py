"""Millrace: the probe's jobs, owed as a service owes them. BENCH_KIND: `noop`, `write` or `tell`. In `.venv`."""

import os
import time
from collections.abc import Iterable

from infra.probe.jobs import Noop, Tell, Write
from shared import ids
from shared.db import Database
from shared.ledger.enqueue import Origin
from shared.ledger.enqueue import enqueue as owe
from shared.ledger.enqueue import enqueue_many as owe_many

ASYNC = False
KINDS = {"noop": Noop, "write": Write, "tell": Tell}
kind = KINDS[os.environ.get("BENCH_KIND", "noop")]
database = Database(os.environ["MILLRACE_DATABASE_URL"], application="bench", pool_size=8)
workspace = ids.draw()


def enqueue(number: int, sent_ns: int) -> None:
    with database.transaction(origin=Origin.request(workspace)) as session:
        owe(session, kind(number=number, sent_ns=sent_ns))


def enqueue_many(numbers: Iterable[int]) -> None:
    with database.transaction(origin=Origin.request(workspace)) as session:
        owe_many(session, (kind(number=number, sent_ns=time.time_ns()) for number in numbers))
