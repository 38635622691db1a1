"""What limits cost, and how long a workspace waits behind another's backlog.

Cost: 100,000 jobs of 1,000 workspaces wait; the first 10,000 that are done count, without the twentieth part that was
done first. Without a rule; with rules that cover other jobs; with every kind of limit in use, none of which holds
anything up; and beside that with 10,000 jobs of a paused kind in front of the others.

Delay: one workspace has 100,000 jobs waiting, another asks for one job twenty times a second. From its commit to its
body.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final
from uuid import UUID

from bench.jobs.conditions import conditions
from bench.jobs.contenders import CONTENDERS, OURS
from bench.jobs.meters import Window, percentile
from bench.jobs.stand import RUN_SECONDS, BenchError, Stand, standing
from infra.local.errors import StackError
from infra.probe.jobs import Keyed, Numbered, Take, Write
from shared import ids
from shared.db import Database
from shared.ledger.enqueue import Origin, enqueue_many

WORKSPACES: Final = 1_000
FEWEST: Final = 20 * WORKSPACES
THINGS: Final = 250
COUNTED_SHARE: Final = 0.1
PAUSED_SHARE: Final = 0.1
ALONE: Final = 10**12
"""Numbers of the jobs that come one at a time begin here."""
ASKED: Final = 100
EVERY_SECONDS: Final = 0.05
LONG_SECONDS: Final = 0.02
Figures = dict[str, float]


@dataclass(frozen=True)
class Run:
    """What a case works with."""

    stand: Stand
    jobs: int
    """That wait when it begins."""
    calm: list[dict[str, float]]
    """How quiet and how fast the machine was while the cases so far were measured."""

    @contextmanager
    def working(self) -> Iterator[None]:
        self.stand.start_workers()
        window = Window()
        try:
            yield
            self.calm.append(window.close())
        finally:
            self.stand.stop()

    def wait_for(self, records: int) -> None:
        wanted = f"{records} jobs were not done"
        self.stand.wait(lambda: self.stand.reader.count() >= records, RUN_SECONDS, wanted)


RULE: Final = "INSERT INTO limit_rule (key, concurrency, per_second, burst, weight) VALUES (%s, %s, %s, %s, %s)"
PAUSE: Final = "INSERT INTO limit_rule (key, paused_at) VALUES (%s, now())"


def main() -> int:
    """Exit codes: 0 measured, 1 it could not be, 2 bad input."""
    options = argparse.ArgumentParser(prog="bench.limits", description=__doc__)
    options.add_argument("--jobs", type=int, default=100_000)
    options.add_argument("--only", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    given = options.parse_args()
    names = given.only.split(",")
    if {*names} - {*CASES} or given.jobs < FEWEST:
        print(f"bench.limits: at least {FEWEST} jobs, and cases of {', '.join(CASES)}", file=sys.stderr)
        return 2
    found, calm = conditions(), list[dict[str, float]]()
    figures: dict[str, Figures] = {}
    try:
        for name in names:
            with standing(CONTENDERS[OURS]) as stand:
                figures[name] = CASES[name](Run(stand, given.jobs, calm))
            print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
    except (StackError, BenchError) as error:
        print(f"bench.limits: {error}", file=sys.stderr)
        return 1
    asked = {"bench": "limits", "jobs": given.jobs, "workspaces": WORKSPACES}
    seen = {name: {"median": median(each[name] for each in calm)} for name in calm[0]}
    print(json.dumps({"figures": figures, "ratios": _ratios(figures), "conditions": {**asked, **found, **seen}}))
    return 0


def _ratios(figures: dict[str, Figures]) -> Figures:
    """To the same without a rule."""
    without = figures.get("no_rules", {})
    return {
        f"{name}.{measure}": round(found[measure] / without[measure], 3)
        for name, found in figures.items()
        for measure in ("per_s", "cpu_s_per_1000")
        if name != "no_rules" and measure in found and without
    }


def no_rules(run: Run) -> Figures:
    return _cost(run)


def other_rules(run: Run) -> Figures:
    with run.stand.connect() as ledger:
        ledger.execute(RULE, ("kind:probe.thing.write", 5, 1.0, 5, 1))
        ledger.execute(RULE, ("each:elsewhere", 5, None, 1, 1))
    return _cost(run)


def all_rules(run: Run) -> Figures:
    return _cost(run, _use_all)


def all_rules_and_paused(run: Run) -> Figures:
    """The paused jobs are older, and of a tenth of the workspaces."""
    paused = int(run.jobs * PAUSED_SHARE)
    spaces = [ids.draw() for _ in range(WORKSPACES)]
    few = spaces[: WORKSPACES // 10]
    _owe(run.stand, few, paused, lambda number, space: Write(number=ALONE + number))
    with run.stand.connect() as ledger:
        ledger.execute(PAUSE, ("kind:probe.thing.write",))
    return _cost(run, _use_all, spaces)


def _use_all(stand: Stand, spaces: list[UUID]) -> None:
    """Concurrency by key, rate by kind, weights for half of the workspaces, a paused queue."""
    with stand.connect() as ledger:
        ledger.execute(RULE, ("each:thing", 8, None, 1, 1))
        ledger.execute(RULE, (f"kind:{Keyed.kind}", None, 100_000.0, 100_000, 1))
        for number, space in enumerate(spaces[: WORKSPACES // 2]):
            ledger.execute(RULE, (f"workspace:{space}", None, None, 1, 1 + number % 3))
        ledger.execute(PAUSE, ("queue:probe.other",))


def _cost(
    run: Run,
    limit: Callable[[Stand, list[UUID]], None] = lambda stand, spaces: None,
    spaces: list[UUID] | None = None,
) -> Figures:
    """CPU seconds of 1,000 jobs by process, and jobs a second."""
    stand, jobs = run.stand, run.jobs
    spaces = spaces or [ids.draw() for _ in range(WORKSPACES)]
    limit(stand, spaces)
    thing = {space: f"t{number % THINGS}" for number, space in enumerate(spaces)}
    _owe(stand, spaces, jobs, lambda number, space: Keyed(number=number, thing=thing[space]))
    counted = int(jobs * COUNTED_SHARE)
    with run.working():
        run.wait_for(counted // 20)
        began, first, before = time.monotonic(), stand.reader.count(), stand.usage()
        run.wait_for(counted)
        done, seconds = stand.reader.count() - first, time.monotonic() - began
        used = {role: (value - before[role]) * 1000 / done for role, value in stand.usage().items()}
    return {
        "per_s": done / seconds,
        "cpu_s_per_1000": sum(used.values()),
        **{f"{role}_cpu_s_per_1000": value for role, value in used.items()},
    }


def behind_short(run: Run) -> Figures:
    """The backlog is of jobs that do nothing."""
    return _delay(run, lambda number, space: Keyed(number=number))


def behind_short_limited(run: Run) -> Figures:
    """Of its backlog at most four run at once."""
    with run.stand.connect() as ledger:
        ledger.execute(RULE, ("key:thing:busy", 4, None, 1, 1))
    return _delay(run, lambda number, space: Keyed(number=number, thing="busy"))


def behind_long(run: Run) -> Figures:
    """The backlog is of jobs that take 20 ms."""
    return _delay(run, lambda number, space: Take(number=number, seconds=LONG_SECONDS))


def _delay(run: Run, backlog: Callable[[int, UUID], Numbered]) -> Figures:
    stand, jobs = run.stand, run.jobs
    _owe(stand, [ids.draw()], jobs, backlog)
    space, database = ids.draw(), Database(stand.database_url, application="millrace-bench")
    returned: dict[int, int] = {}
    with run.working():
        run.wait_for(jobs // 200)
        began = time.monotonic()
        for number in range(ALONE, ALONE + ASKED):
            with database.transaction(origin=Origin.request(space)) as session:
                enqueue_many(session, [Keyed(number=number)])
            returned[number] = time.time_ns()
            time.sleep(max(0.0, began + (number - ALONE + 1) * EVERY_SECONDS - time.monotonic()))
        stand.wait(lambda: returned.keys() <= _started(stand).keys(), RUN_SECONDS, "lone jobs were not done")
        started, left = _started(stand), _queued(stand)
    database.dispose()
    if left < jobs // 100:
        raise BenchError(f"the backlog was down to {left} jobs: it was no test")
    waited = [(started[number] - at) / 1e6 for number, at in returned.items()]
    return {
        "asked": ASKED,
        **{f"p{percent}_ms": round(percentile(waited, percent), 1) for percent in (50, 99)},
        "max_ms": round(max(waited), 1),
        "backlog_left": left,
    }


def _started(stand: Stand) -> dict[int, int]:
    return {record.number: record.at_ns for record in stand.reader.records() if record.number >= ALONE}


def _queued(stand: Stand) -> int:
    with stand.connect() as ledger:
        [row] = ledger.execute("SELECT count(*) FROM job WHERE state = 'queued' AND finished_at IS NULL")
    return int(row[0])


def _owe(stand: Stand, spaces: list[UUID], jobs: int, make: Callable[[int, UUID], Numbered]) -> None:
    """So many jobs, the same number of each workspace, as any service owes them."""
    database = Database(stand.database_url, application="millrace-bench")
    each = jobs // len(spaces)
    for at, space in enumerate(spaces):
        with database.transaction(origin=Origin.request(space)) as session:
            enqueue_many(session, (make(at * each + number, space) for number in range(each)))
    database.dispose()


CASES: Final[dict[str, Callable[[Run], Figures]]] = {
    case.__name__: case
    for case in (
        *(no_rules, other_rules, all_rules, all_rules_and_paused),
        *(behind_short, behind_short_limited, behind_long),
    )
}

if __name__ == "__main__":
    sys.exit(main())
