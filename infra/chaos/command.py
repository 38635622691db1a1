"""What `millrace chaos` does."""

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from infra.chaos.faults import GROUPS, Fault, all_faults
from infra.chaos.load import Load
from infra.chaos.millrace import millrace
from infra.chaos.record import Record
from infra.chaos.report import build
from infra.chaos.run import MIXED, Run
from infra.chaos.verdict import judge
from infra.chaos.world import World
from infra.local.errors import BadInputError

JOBS_A_SECOND: Final = 8.0
UPLOAD_EVERY_SECONDS: Final = 8.0
MIXED_SECONDS: Final = 120.0
ALL: Final = "all"
Say = Callable[[str], None]


class BadPlan(BadInputError):
    """What is to be injected, or for how long, makes no sense."""


def choose(names: Sequence[str], known: dict[str, Fault]) -> tuple[list[Fault], bool]:
    """The faults to inject alone, and whether a mixed plan is wanted. Raises BadPlan."""
    if not names:
        raise BadPlan("no fault is named")
    chosen: dict[str, Fault] = {}
    for name in names:
        if name == MIXED:
            continue
        found = {each.name: each for each in known.values() if name in (ALL, each.group, each.name)}
        if not found:
            raise BadPlan(
                f"there is no fault {name!r}: give {ALL}, {MIXED}, a group ({', '.join(GROUPS)}), "
                f"or one of {', '.join(known)}"
            )
        chosen |= found
    return list(chosen.values()), MIXED in names


def run_chaos(
    names: Sequence[str], seconds: float | None, seed: int, say: Say, *, stock: bool = False
) -> dict[str, Any]:
    """Brings a system up, breaks it, and answers the report. Raises BadPlan, StackError.

    `seconds`: how long a mixed plan goes on, and at most each fault alone. `stock`: stock Celery instead.
    """
    record, chance = Record(), random.Random(seed)  # noqa: S311  # a run that can be repeated
    began = time.monotonic()
    foreseen = all_faults(1.0)
    choose(names, foreseen)  # bad names are refused before anything is started
    barred = [name for name in names if name != MIXED and not any(each.stock for each in choose([name], foreseen)[0])]
    if stock and barred:
        raise BadPlan(f"{', '.join(barred)}: does not apply to stock Celery")
    if seconds is not None and not math.isfinite(seconds):
        raise BadPlan("--seconds must be a number of seconds")
    say("starting the system")
    with _system(stock)(record, chance, say) as world:
        known = {name: fault for name, fault in all_faults(world.lease_seconds).items() if fault.stock or not stock}
        alone, mixed = choose(names, known)
        say(f"ready after {time.monotonic() - began:.0f} s")
        load = Load(world, jobs_a_second=JOBS_A_SECOND, upload_every=UPLOAD_EVERY_SECONDS, seed=seed)
        run = Run(world, load, say)
        load.start()
        try:
            for fault in alone:
                run.alone(fault, min(fault.seconds, seconds) if seconds is not None else fault.seconds)
            if mixed:
                run.mixed(list(known.values()), seconds if seconds is not None else MIXED_SECONDS, seed)
            load.end_schedules()
        finally:
            run.stop()
            load.stop()
        say("counting")
        return build(world, run, judge(world), seed, time.monotonic() - began)


def _system(stock: bool) -> Callable[[Record, random.Random, Say], AbstractContextManager[World]]:
    if stock:
        from infra.chaos.stock import stock_celery

        return stock_celery
    return millrace
