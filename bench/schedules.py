"""How late schedules fire: 10,000 of them spread over time, all due in the same second, and one beside all the others.

Lateness is counted from the time at which a slot is due to its job's row (fired) and to its first attempt (started),
by PostgreSQL's clock for both.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from bench.jobs.conditions import conditions
from bench.jobs.meters import Window
from infra.local.errors import StackError
from infra.probe.jobs import Noop
from infra.probe.plant import Plant, plant
from infra.probe.tasks import tasks
from shared.db import Database, raw
from shared.ledger import schedules
from shared.schedules.request import ScheduleRequest

THEN = datetime(2150, 1, 1, tzinfo=UTC)
"""What the schedules' times are written for, before all of them are brought forward at once."""
FAR = "2199-01-01T00:00:00Z"
NOTICE = timedelta(seconds=5)
AWAY_SECONDS = 120
"""So long after the last slot all must have run."""


def main() -> int:
    """Exit codes: 0 measured, 1 it could not be."""
    options = argparse.ArgumentParser(prog="bench.schedules", description=__doc__)
    options.add_argument("--schedules", type=int, default=10_000)
    options.add_argument("--seconds", type=int, default=60, help="over which the spread ones are due")
    given = options.parse_args()
    found = conditions()
    try:
        with plant() as running:
            window = Window()
            figures = {name: case(running, given.schedules, given.seconds) for name, case in CASES.items()}
            calm = window.close()
    except (StackError, TimeoutError) as error:
        print(f"bench.schedules: {error}", file=sys.stderr)
        return 1
    asked = {"bench": "schedules", "schedules": given.schedules, "seconds": given.seconds}
    print(json.dumps({"figures": figures, "ratios": {}, "conditions": {**asked, **found, **calm}}))
    return 0


def spread(running: Plant, count: int, seconds: int) -> dict[str, float]:
    """Each is due at a moment of its own."""
    moments = [THEN + timedelta(seconds=seconds * number / count) for number in range(count)]
    return _measure(running, [{"at": moment.isoformat()} for moment in moments], count, seconds)


def together(running: Plant, count: int, seconds: int) -> dict[str, float]:
    """All are due in the same second."""
    return _measure(running, [{"at": THEN.isoformat()}] * count, count, seconds)


def alone(running: Plant, count: int, seconds: int) -> dict[str, float]:
    """One fires every second, and the others wait for a day that is far."""
    end = THEN + timedelta(seconds=seconds)
    one = {"every_seconds": 1, "start": THEN.isoformat(), "end": end.isoformat()}
    return _measure(running, [one, *[{"at": FAR}] * (count - 1)], seconds, seconds)


CASES: dict[str, Callable[[Plant, int, int], dict[str, float]]] = {
    "spread": spread,
    "together": together,
    "alone": alone,
}


def _measure(running: Plant, times: list[dict[str, Any]], fires: int, seconds: int) -> dict[str, float]:
    """Make schedules of these times, wait until all slots have fired and run, and look at them."""
    _make(running, times)
    with psycopg.connect(running.probe.database_url, autocommit=True) as connection:
        connection.execute(_BRING_FORWARD, {"by": THEN - datetime.now(UTC) - NOTICE, "far": FAR})
        end = time.monotonic() + seconds + AWAY_SECONDS
        while len(late := connection.execute(_LATE).fetchall()) < fires:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(late)} of {fires} slots have run")
            time.sleep(1.0)
        connection.execute("DELETE FROM schedule")
        connection.execute("DELETE FROM slot")
    fired, started = (sorted(1000 * row[column] for row in late) for column in (0, 1))
    return {
        "fires": len(late),
        **{f"fired_{name}_ms": _at(fired, share) for name, share in SHARES.items()},
        **{f"started_{name}_ms": _at(started, share) for name, share in SHARES.items()},
    }


SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}

_BRING_FORWARD = """
UPDATE schedule SET at = at - %(by)s, starts_at = starts_at - %(by)s, ends_at = ends_at - %(by)s,
  anchor = anchor - %(by)s, next_slot = next_slot - %(by)s, next_at = next_at - %(by)s
WHERE next_at < %(far)s"""

_LATE = """
SELECT extract(epoch FROM job.created_at - slot.due_at)::float,
       extract(epoch FROM attempt.started_at - slot.due_at)::float
FROM slot JOIN job ON job.id = slot.id JOIN attempt ON attempt.job = job.id AND attempt.number = 1"""


def _make(running: Plant, times: list[dict[str, Any]]) -> None:
    database = Database(running.probe.database_url, application="bench")
    with database.transaction() as session:
        for number, when in enumerate(times):
            wanted = ScheduleRequest.model_validate({"name": f"s{number}", "kind": Noop.kind, **when})
            schedules.create(raw(session), tasks, running.probe.workspace, wanted)
    database.dispose()


def _at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)


if __name__ == "__main__":
    sys.exit(main())
