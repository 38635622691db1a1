"""The report of a run: one JSON object, and the tables that the documentation prints from it."""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final

from infra.chaos import limits, schedules
from infra.chaos.load import GIVE_UP_SECONDS
from infra.chaos.run import BACK_SECONDS, RECOVERY_EXTRA_SECONDS, Part, Run
from infra.chaos.verdict import NEVER, Counts, Verdict, as_json, percentile
from infra.chaos.world import World

Json = dict[str, Any]
STILL_SECONDS: Final = 15.0
"""Other jobs wait at most so long for what a fault holds. Without it they wait less than a second."""
SLOWER: Final = 10.0
SLOW_FLOOR_MS: Final = 2500.0
"""During a broker fault the API's p99 is at most so many times what it was before, or this. Generous: with some fifty
requests a p99 is the slowest one, and on two CPUs that is a matter of chance; an API that waits for a broker would
take its timeout, several seconds."""
WORDS: Final = 40
"""So many of the things that are not as they should be are told in words."""


def build(world: World, run: Run, verdict: Verdict, seed: int, seconds: float) -> Json:
    """The whole object. `broken` names each promise that was not kept; it is empty when all were."""
    everything = [value for values in verdict.recoveries.values() for value in values]
    late = [value for values in verdict.late.values() for value in values]
    total = verdict.total()
    calls = [call for part in run.parts for call in part.calls]
    p99 = percentile([call.seconds for call in calls if not call.is_error], 0.99)
    faults = [_of(part, verdict, world) for part in run.parts]
    return {
        "system": world.name,
        **as_json(total),
        "most_held": verdict.most_held,
        "recovery_p50_s": _rounded(percentile(everything, 0.5)),
        "recovery_p99_s": _rounded(percentile(everything, 0.99)),
        "recoveries": len(everything),
        **_fire_late(late),
        "api_errors": sum(len(part.errors) for part in run.parts),
        "api_p99_ms": None if p99 is None else round(1000 * p99, 1),
        "requests": len(world.record.calls),
        "unresolved": len(world.record.unresolved),
        "faults": faults,
        "broken": [
            *_broken(total, faults, len(world.record.unresolved)),
            *(f"not injected: {each}" for each in run.trouble),
            *(["no schedule's slot fell due"] if world.schedules and not total.schedule_slots else []),
            *(["no limit was reached"] if total.limited and verdict.most_held < limits.CONCURRENCY else []),
        ],
        "words": verdict.words[:WORDS],
        "conditions": {
            "seed": seed,
            "seconds": round(seconds),
            "lease_seconds": world.lease_seconds,
            "limits": limits.RULES if world.limits else {},
            "cpus": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "celery": version("celery"),
        },
    }


def _of(part: Part, verdict: Verdict, world: World) -> Json:
    counts = verdict.parts.get(part.name, Counts())
    recoveries = verdict.recoveries.get(part.name, [])
    says_when = sum(call.says_when for call in part.errors)
    return {
        "fault": part.name,
        "group": part.group,
        "seconds": round(part.ended - part.began, 1),
        "injected": part.injected,
        "missed": part.missed,
        **as_json(counts),
        "recovery_p50_s": _rounded(percentile(recoveries, 0.5)),
        "recovery_p99_s": _rounded(percentile(recoveries, 0.99)),
        "recovery_limit_s": world.lease_seconds + RECOVERY_EXTRA_SECONDS + part.others_seconds,
        "recoveries": len(recoveries),
        **_fire_late(verdict.late.get(part.name, [])),
        "fire_late_limit_s": schedules.TAKEOVER_SECONDS + part.beatless_seconds,
        "api_requests": len(part.calls),
        "api_errors": len(part.errors),
        "api_errors_with_retry_after": says_when,
        "api_errors_unanswered": sum(call.status is None for call in part.errors),
        "api_was_killed": part.name in world.record.silenced,
        "api_p99_ms": part.p99_ms,
        "api_p99_before_ms": part.before_p99_ms,
        "api_p99_limit_ms": max(SLOW_FLOOR_MS, SLOWER * (part.before_p99_ms or 0.0)),
        "resumed_s": part.resumed,
        "throughput_back_s": part.back,
        "quiet_s": part.quiet,
        "still_s": part.still,
        "still_limit_s": STILL_SECONDS if part.goes_on else None,
    }


def _fire_late(seconds: Sequence[float]) -> Json:
    """From slots' times to their jobs."""
    return {
        "fire_late_p50_s": _rounded(percentile(seconds, 0.5), 3),
        "fire_late_p99_s": _rounded(percentile(seconds, 0.99), 3),
        "fire_late_max_s": _rounded(max(seconds, default=None)),
    }


def _broken(total: Counts, faults: Iterable[Json], unresolved: int) -> list[str]:
    broken = [f"{name} is {getattr(total, name)}" for name in NEVER if getattr(total, name)]
    if total.accepted != total.succeeded + total.failed + total.cancelled:
        broken.append("accepted is not succeeded + failed + cancelled")
    if unresolved:
        broken.append(f"{unresolved} requests were repeated for {GIVE_UP_SECONDS:.0f} s without a proper answer")
    for fault in faults:
        broken += [f"{fault['fault']}: {words}" for words in (*_recovery(fault), *_front(fault))]
    return broken


def _recovery(fault: Json) -> Iterator[str]:
    """What did not go on by itself."""
    slowest, limit = fault["recovery_p99_s"], fault["recovery_limit_s"]
    if slowest is not None and slowest > limit:
        yield f"recovery p99 is {slowest} s, more than {limit:.0f} s"
    latest, limit = fault["fire_late_max_s"], fault["fire_late_limit_s"]
    if latest is not None and latest > limit:
        yield f"a schedule fired {latest} s late, more than {limit:.0f} s"
    if fault["group"] == "workers" and not fault["recoveries"]:
        yield "it hit no process that had a job in hand"
    if fault["throughput_back_s"] is None:
        yield f"throughput was not back within {BACK_SECONDS:.0f} s"
    if fault["still_limit_s"] is not None and fault["still_s"] > fault["still_limit_s"]:
        yield f"for {fault['still_s']} s no other job was done, or no event was heard"
    if fault["quiet_s"] is None:
        yield "it never became quiet"


def _front(fault: Json) -> Iterator[str]:
    """What callers noticed, and were not to notice."""
    errors, unanswered = fault["api_errors"], fault["api_errors_unanswered"]
    unsaid = errors - unanswered - fault["api_errors_with_retry_after"]
    if unsaid:
        yield f"{unsaid} errors were no 503 with Retry-After"
    if fault["group"] == "database" and unanswered and not fault["api_was_killed"]:
        yield f"{unanswered} requests got no answer"
    if fault["group"] != "broker":
        return
    if errors:
        yield f"it showed in the API: {errors} errors"
    if fault["api_p99_ms"] is None:
        yield "no request met it"
    elif fault["api_p99_ms"] > fault["api_p99_limit_ms"]:
        yield f"API p99 is {fault['api_p99_ms']} ms, more than {fault['api_p99_limit_ms']:.0f} ms"


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


_COLUMNS: Final = (
    ("fault", "fault"),
    ("s", "seconds"),
    ("accepted", "accepted"),
    ("succeeded", "succeeded"),
    ("failed", "failed"),
    ("lost", "lost"),
    ("effects twice", "duplicated_effects"),
    ("messages twice", "duplicate_messages"),
    ("over a limit / limited", ("limit_exceeded", "limited")),
    ("slots missed / due", ("slots_missed", "schedule_slots")),
    ("latest fire, s", "fire_late_max_s"),
    ("recovery p50 / p99, s", ("recovery_p50_s", "recovery_p99_s")),
    ("first job after, s", "resumed_s"),
    ("throughput back, s", "throughput_back_s"),
    ("API errors / requests", ("api_errors", "api_requests")),
    ("API p99 before / during, ms", ("api_p99_before_ms", "api_p99_ms")),
)


_IN_TABLE: Final = ("lost", "duplicated_effects", "limit_exceeded", "slots_missed")
COUNTED: Final = ("quarantined", "unconfirmed", "most_held")
"""What may be, and is told."""


def markdown(found: Json) -> str:
    """A table of the run, a line a fault and one of the whole; then what is not in it, and the conditions."""
    whole = {
        **found,
        "fault": "**all**",
        "seconds": sum(fault["seconds"] for fault in found["faults"]),
        "resumed_s": None,
        "throughput_back_s": None,
        "api_requests": sum(fault["api_requests"] for fault in found["faults"]),
        "api_p99_before_ms": None,
    }
    # A report of an earlier harness has not counted all that this one does.
    columns = [(title, key) for title, key in _COLUMNS if whole.keys() >= ({key} if isinstance(key, str) else {*key})]
    lines = [
        "| " + " | ".join(title for title, _ in columns) + " |",
        "|---" + "|---:" * (len(columns) - 1) + "|",
        *("| " + " | ".join(_cell(row, key) for _, key in columns) + " |" for row in (*found["faults"], whole)),
    ]
    counted = [name for name in (*NEVER, *COUNTED) if name not in _IN_TABLE and name in found]
    beside = ", ".join(f"`{name}` {found[name]:,}" for name in counted)
    said = found["conditions"]
    lines += [
        "",
        f"Also counted: {beside}. {found['recoveries']:,} recoveries, {found['requests']:,} requests in "
        f"{said['seconds'] // 60:.0f} minutes on {said['cpus']} CPUs that others used, too; Python {said['python']}, "
        f"Celery {said['celery']}, seed {said['seed']}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: Json, key: str | tuple[str, str]) -> str:
    if isinstance(key, tuple):
        pair = [_cell(row, each) for each in key]
        return " / ".join(pair) if any(pair) else ""
    value = row[key]
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
