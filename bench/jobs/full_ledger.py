"""Whether a ledger that is full is as quick as an empty one."""

import time
from typing import Any

import psycopg

from bench.jobs.cases import Figures, Run, drain
from bench.jobs.stand import Stand

FINISHED_ROWS = 1_000_000
QUEUED_ROWS = 100_000
AUTOVACUUM_SECONDS = 70
"""PostgreSQL looks around every 60 seconds."""


def full_ledger(stand: Stand, run: Run) -> Figures:
    """Jobs that wait are worked off, first with nothing else in the ledger, then behind a million finished ones and
    with a hundred thousand in the queue; the same number of them counts, and more wait behind these in both. And the
    dead rows that this left."""
    jobs, queued = int(stand.contender.jobs * run.scale), int(QUEUED_ROWS * run.scale)
    empty = drain(stand, run, "noop", 2 * jobs, of_the_first=jobs).per_s
    with psycopg.connect(stand.admin_url.rpartition("/")[0] + f"/{stand.database}", autocommit=True) as admin:
        admin.execute("SET search_path = probe")
        _fill(admin, int(FINISHED_ROWS * run.scale))
        full = drain(stand, run, "noop", queued, of_the_first=jobs).per_s
        at_once = _rows(admin)
        time.sleep(AUTOVACUUM_SECONDS)
        later = _rows(admin)
    return {
        "empty_drain_per_s": empty,
        "full_drain_per_s": full,
        "drain_ratio": full / empty,
        "dead_rows": at_once["dead"],
        "dead_share": at_once["dead"] / max(1, at_once["live"]),
        "dead_rows_after_autovacuum": later["dead"],
        "hot_update_share": later["hot"] / max(1, later["updated"]),
    }


def _fill(admin: psycopg.Connection[Any], rows: int) -> None:
    """Jobs that succeeded in the last twelve hours, with their attempts, as if they had been there for long."""
    admin.execute("SET session_replication_role = replica")  # jobs enter queued: the trigger that says so is away
    admin.execute(_JOBS, {"rows": rows})
    admin.execute(_ATTEMPTS)
    admin.execute("SET session_replication_role = origin")
    admin.execute("VACUUM (ANALYZE) job")
    admin.execute("VACUUM (ANALYZE) attempt")
    admin.execute("CHECKPOINT")


_JOBS = """
INSERT INTO job (id, kind, queue, priority, args, workspace, run, cause, cause_id, state, attempt, max_attempts,
                 not_before, result, worker, created_at, started_at, finished_at)
SELECT id, 'probe.thing.noop', 'probe.jobs', 5, jsonb_build_object('number', n, 'sent_ns', 0), id, id, 'request', id,
       'succeeded', 1, 8, at, to_jsonb(n), id, at, at, at
FROM (SELECT n, uuidv7(-ago) AS id, now() - ago AS at
      FROM (SELECT n, interval '12 hours' * (1 - n::float / %(rows)s) AS ago FROM generate_series(1, %(rows)s) AS n)
     ) AS made"""
_ATTEMPTS = """
INSERT INTO attempt (job, number, outcome, worker, version, seconds, started_at, finished_at)
SELECT id, 1, 'succeeded', worker, '0', 0.0001, started_at, finished_at FROM job WHERE result IS NOT NULL
ON CONFLICT DO NOTHING"""


def _rows(admin: psycopg.Connection[Any]) -> dict[str, int]:
    """Of the ledger's tables, as PostgreSQL counts them."""
    admin.execute("SELECT pg_stat_clear_snapshot()")
    [row] = admin.execute(
        """SELECT sum(n_dead_tup), sum(n_live_tup), sum(n_tup_hot_upd), sum(n_tup_upd) FROM pg_stat_user_tables
           WHERE schemaname = 'probe' AND (relname LIKE 'job%' OR relname LIKE 'attempt%')"""
    )
    return dict(zip(("dead", "live", "hot", "updated"), map(int, row), strict=True))
