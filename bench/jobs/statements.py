"""How often a job asks PostgreSQL and the broker: PostgreSQL logs every statement of this one run."""

import re
from collections.abc import Iterable
from typing import Any

import psycopg

from bench.jobs.cases import Figures, Run, jobs_each, wait_for
from bench.jobs.stand import Stand

_LINE = re.compile(r"\[(\d+)\] \S+@(\S+) LOG:  (?:statement|execute [^:]+): (.*)")
_BEGINS, _ENDS = ("BEGIN", "START TRANSACTION"), ("COMMIT", "ROLLBACK", "END")
WAL_FSYNCS = "SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'"


def statements(stand: Stand, run: Run) -> Figures:
    """A job's statements and transactions (those of whoever enqueues, dispatches and runs it), the waits for the
    disk that all had, and commands to the broker."""
    found: Figures = {}
    for name, kind in run.kinds_of(stand).items():
        count = max(50, int(stand.contender.jobs / 5 * run.scale))
        figures = _count(stand, kind, count)
        found |= {f"{name}.{measure}": value for measure, value in figures.items()}
    return found


def _count(stand: Stand, kind: str, count: int) -> Figures:
    with psycopg.connect(stand.admin_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {stand.database} SET log_statement = 'all'")
        stand.start_workers()
        stand.ready(BENCH_KIND=kind)
        before, log_size = _counters(stand, admin), stand.state.log("postgres").stat().st_size
        produced = stand.produce(count, BENCH_KIND=kind)
        wait_for(stand, kind, count, produced["began_ns"])
        with stand.state.log("postgres").open(errors="replace") as log:
            log.seek(log_size)
            asked, transactions = tally(log, stand.database)
        stand.stop_workers()  # with its end a session reports what it has done
        after = _counters(stand, admin)
        admin.execute(f"ALTER DATABASE {stand.database} RESET log_statement")
    jobs = count * jobs_each(kind)
    return {
        "statements_a_job": asked / jobs,
        "transactions_a_job": transactions / jobs,
        "wal_fsyncs_a_job": (after["fsyncs"] - before["fsyncs"]) / jobs,
        "broker_commands_a_job": (after["commands"] - before["commands"]) / jobs,
    }


def tally(lines: Iterable[str], database: str) -> tuple[int, int]:
    """Statements in the log (BEGIN and COMMIT are such), and the transactions that they made."""
    asked = transactions = 0
    inside: set[str] = set()
    for line in lines:
        match = _LINE.search(line)
        if match is None or match[2] != database:
            continue
        asked += 1
        session, statement = match[1], match[3].upper()
        if statement.startswith(_BEGINS):
            inside.add(session)
        elif statement.startswith(_ENDS) or session not in inside:
            inside.discard(session)
            transactions += 1
    return asked, transactions


def _counters(stand: Stand, admin: psycopg.Connection[Any]) -> dict[str, int]:
    [row] = admin.execute(WAL_FSYNCS)
    with stand.broker() as broker:
        return {"fsyncs": row[0], "commands": broker.info("stats")["total_commands_processed"]}
