"""What is measured. A case takes a contender's stand and answers flat figures; a phase says how calm it was."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from bench.jobs import meters
from bench.jobs.stand import RUN_SECONDS, BenchError, Stand
from infra.local.stack import ROOT
from shared import ids

Figures = dict[str, float]

CONNECTIONS = 32
START_RATE = 50.0
"""Jobs a second."""
KINDS = {"noop": "noop", "event": "say", "event_subscribed": "tell", "transaction": "write"}
"""Ours alone has the last three: a job that states an event, one whose event has a subscriber, whose job counts too,
and one with a transaction of its own."""
BATCH_JOBS = 1_000
SETTLE_SECONDS = 2.0


@dataclass
class Run:
    """How much is measured, and how calm the machine was in each phase so far."""

    scale: float = 1.0
    """Of the number of jobs and of the seconds."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Those of KINDS that are measured of ours."""
    windows: list[dict[str, float]] = field(default_factory=list)

    @contextmanager
    def phase(self) -> Iterator[None]:
        window = meters.Window()
        yield
        self.windows.append(window.close())

    def kinds_of(self, stand: Stand) -> dict[str, str]:
        """What the contender can do of it: name, and what its producer calls it."""
        return {name: KINDS[name] for name in self.kinds if stand.contender.ours or name == "noop"}

    def seconds(self, full: float) -> float:
        return max(1.0, full * self.scale)


def complete(stand: Stand, run: Run) -> Figures:
    """Throughput of jobs that wait (`drain`), and with the producer beside (`end_to_end`), by kind."""
    found: Figures = {}
    for name, kind in run.kinds_of(stand).items():
        count = max(50, int(stand.contender.jobs * run.scale / (1 if name == "noop" else 2)))
        figures = _complete(stand, run, kind, count)
        found |= {f"{name}.{measure}": value for measure, value in figures.items()}
    return found


def _complete(stand: Stand, run: Run, kind: str, count: int) -> Figures:
    drained = drain(stand, run, kind, count, of_the_first=count)
    stand.start_workers()
    stand.ready(BENCH_KIND=kind)
    before = stand.usage()
    with run.phase():
        produced = stand.produce(count, BENCH_KIND=kind)
        ended_ns = wait_for(stand, kind, count, produced["began_ns"])[-1]
    after = stand.usage()
    stand.stop_workers()
    jobs = count * jobs_each(kind)
    used = {role: (after[role] - before[role]) * 1000 / jobs for role in before}
    return {
        "end_to_end_per_s": jobs / _seconds(produced["began_ns"], ended_ns),
        "drain_per_s": drained.per_s,
        "enqueue_per_s": drained.enqueued_per_s,
        "cpu_s_per_1000": sum(used.values()),
        "producer_cpu_s_per_1000": produced["cpu_s"] * 1000 / jobs,
        **{f"{role}_cpu_s_per_1000": value for role, value in used.items()},
    }


@dataclass(frozen=True)
class Drained:
    enqueued_per_s: float
    """By one producer, while nothing else ran."""
    per_s: float
    """Jobs done a second, without the twentieth part that was done first: starting up is left out."""


def drain(stand: Stand, run: Run, kind: str, count: int, *, of_the_first: int) -> Drained:
    """`count` jobs wait before the workers start. Of these, the first so many that are done count."""
    stand.start_workers()
    stand.ready(BENCH_KIND=kind)  # how long such jobs take is known from here on
    stand.stop_workers()
    with run.phase():
        queued = stand.produce(count, BENCH_KIND=kind)
    with run.phase():
        stand.start_workers()
        times = wait_for(stand, kind, count, queued["began_ns"])
    stand.stop_workers()
    last = of_the_first * jobs_each(kind)
    first = last // 20
    return Drained(
        count / _seconds(queued["began_ns"], queued["ended_ns"]), (last - first) / _seconds(times[first], times[last])
    )


def jobs_each(kind: str) -> int:
    return 2 if kind == "tell" else 1


def _seconds(began_ns: int, ended_ns: int) -> float:
    return (ended_ns - began_ns) / 1e9


def wait_for(stand: Stand, kind: str, count: int, since_ns: int) -> list[int]:
    """Waits for `count` jobs and what they cause; answers when each ran, and in the end when all were committed.
    Raises BenchError when not each ran just once."""
    jobs = count * jobs_each(kind)
    with_first = jobs + jobs_each(kind)
    with stand.connect() as database:
        stand.wait(lambda: stand.reader.count() >= with_first, RUN_SECONDS, f"{jobs} jobs were not done")
        committed_ns = _committed_ns(stand, database, jobs, since_ns) if stand.contender.ours else 0
    records = stand.records()
    numbers = {(record.deed, record.number) for record in records}
    if len(numbers) != jobs or len(records) != jobs:
        raise BenchError(f"{stand.contender.label}: {len(records)} runs of {jobs} jobs, {len(numbers)} of them done")
    stand.reader.rewind()
    times = sorted(record.at_ns for record in records)
    return [*times, max(committed_ns, times[-1])]


def _committed_ns(stand: Stand, ledger: psycopg.Connection[Any], jobs: int, since_ns: int) -> int:
    """When another session saw that the ledger has all of them succeeded; a body's own record is earlier. What lies
    between its looks (stand.LOOK_SECONDS) counts against us."""

    def settled() -> bool:
        found = ledger.execute(
            "SELECT NOT EXISTS (SELECT 1 FROM job WHERE state IN ('queued', 'running') AND finished_at IS NULL)"
        )
        return bool(found.fetchone()[0])  # type: ignore[index]

    stand.wait(settled, RUN_SECONDS, "the ledger has unfinished jobs")
    seen_ns = time.time_ns()
    since = ids.floor(datetime.fromtimestamp(since_ns / 1e9, UTC))
    [row] = ledger.execute("SELECT count(*) FROM job WHERE id >= %s AND state = 'succeeded'", (since,))
    if row[0] < jobs:
        raise BenchError(f"{row[0]} of {jobs} jobs succeeded")
    return seen_ns


def idle(stand: Stand, run: Run) -> Figures:
    """Memory and CPU of a system that has nothing to do."""
    stand.start_workers()
    stand.ready()
    time.sleep(SETTLE_SECONDS)
    sizes = {role: meters.memory(pids) for role, pids in stand.pids().items()}
    seconds, before = run.seconds(10), stand.usage()
    with run.phase():
        time.sleep(seconds)
    used = {role: (value - before[role]) / seconds for role, value in stand.usage().items()}
    workers = [role for role in ("worker", "beat") if role in sizes]
    stand.stop_workers()
    return {
        "rss_mb": sum(sizes[role][0] for role in workers),
        "pss_mb": sum(sizes[role][1] for role in workers),
        "cpu_percent": 100 * sum(used.values()),
        **{f"{role}_pss_mb": size[1] for role, size in sizes.items()},
        **{f"{role}_cpu_percent": 100 * value for role, value in used.items()},
    }


def start(stand: Stand, run: Run) -> Figures:
    """From the call that enqueues, and from its return (the commit), to the first line of the body, in ms."""
    stand.start_workers()
    stand.ready()
    count = int(START_RATE * run.seconds(20))
    with run.phase():
        produced = stand.produce(count, START_RATE)
        stand.wait(lambda: stand.reader.count() > count, 30, f"{count} jobs were not started")
    records = stand.records()
    stand.stop_workers()
    called = [(record.at_ns - record.sent_ns) / 1e6 for record in records]
    returned = [(record.at_ns - produced["returned_ns"][record.number]) / 1e6 for record in records]
    return {
        **{f"p{percent}_ms": meters.percentile(called, percent) for percent in (50, 95, 99)},
        **{f"after_return_p{percent}_ms": meters.percentile(returned, percent) for percent in (50, 95, 99)},
        "max_ms": max(called),
    }


def accept(stand: Stand, run: Run) -> Figures:
    """POST of one job a request over 32 connections while the workers run; ours also with the broker stopped."""
    found = _accept(stand, run, "bare")
    if stand.contender.ours:
        found |= _accept(stand, run, "bare_no_broker") | _accept(stand, run, "route")
        found |= _accept(stand, run, "route_no_broker") | _accept_batches(stand, run)
    return found


def _accept(stand: Stand, run: Run, how: str) -> Figures:
    stand.start_workers()
    stand.ready()
    url = stand.serve(route=how.startswith("route"))
    request: dict[str, Any] = {"url": f"{url}/jobs", "headers": {}, "body": ""}
    if how.startswith("route"):
        request = _route_request(stand, f"{url}/v1/jobs", {"kind": "probe.thing.noop", "args": {"number": 1}})
    stopped = how.endswith("no_broker")
    if stopped:
        stand.signal_broker(signal.SIGSTOP)  # it takes connections and never answers
    try:
        with run.phase():
            figures = _load(request, CONNECTIONS, run.seconds(5))
    finally:
        if stopped:
            stand.signal_broker(signal.SIGCONT)
        stand.stop()
    _empty(stand)
    return {f"{how}.{measure}": value for measure, value in figures.items()}


def _accept_batches(stand: Stand, run: Run) -> Figures:
    """POST of BATCH_JOBS jobs a request over one connection, without workers."""
    url = stand.serve(route=True)
    jobs = [{"kind": "probe.thing.noop", "args": {"number": number}} for number in range(BATCH_JOBS)]
    with run.phase():
        figures = _load(_route_request(stand, f"{url}/v1/jobs:batch", {"jobs": jobs}), 1, run.seconds(5))
    stand.stop()
    _empty(stand)
    return {"batch.per_s": figures["per_s"] * BATCH_JOBS, "batch.p99_ms": figures["p99_ms"]}


def _route_request(stand: Stand, url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {**stand.probe.headers, "content-type": "application/json"}
    return {"url": url, "headers": headers, "body": json.dumps(body)}


def _load(request: dict[str, Any], connections: int, seconds: float) -> Figures:
    command = [sys.executable, "-m", "bench.jobs.load", str(connections), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(request), text=True, capture_output=True)
    if done.returncode:
        raise BenchError(f"the load failed: {done.stderr.strip().splitlines()[-1][:300]}")
    found: Figures = json.loads(done.stdout)
    if refused := found.pop("refused"):
        raise BenchError(f"{refused:.0f} requests were not answered with 202")
    return found


def _empty(stand: Stand) -> None:
    """Whatever a load left waiting is not run: the next case begins with nothing."""
    stand.broker().flushall()
    if stand.contender.ours:
        with stand.connect() as ledger:
            ledger.execute("UPDATE job SET state = 'cancelled', finished_at = now() WHERE state = 'queued'")
            ledger.execute("UPDATE job SET state = 'cancelled', finished_at = now() WHERE state = 'running'")
    elif stand.contender.setup:
        with stand.connect() as database:
            database.execute("TRUNCATE procrastinate_jobs CASCADE")
