"""How far a job is, how fast it goes, and how long that will take. Pure: the time is given.

What is stored needs no history: each report is made of the one before.
"""

import math
from datetime import datetime
from typing import Any

Json = dict[str, Any]

SMOOTHING_SECONDS = 10.0
"""The rate is a mean over about so long, in which what is newer weighs more."""


def told(before: Json | None, done: float, total: float | None, unit: str, message: str, now: datetime) -> Json:
    """The report that follows `before`, the attempt's last one: what is done now, since when, and at which rate.

    Work that begins anew (less is done than before, or it is counted in another unit) is measured anew; so is all when
    the clock was set back.
    """
    went_on = before is not None and before["unit"] == unit and done >= before["done"] and now > _at(before)
    began_at = before["began_at"] if before is not None and went_on else now.isoformat()
    rate = _rate(before, done, now) if before is not None and went_on else None
    counted = {"done": done, "total": total, "unit": unit, "message": message}
    return {**counted, "began_at": began_at, "at": now.isoformat(), "rate": rate}


def shown(report: Json | None) -> Json | None:
    """The report for people: with `remaining_seconds`, from `at` on; None when that is not known."""
    if report is None:
        return None
    return {"began_at": None, "at": None, "rate": None, **report, "remaining_seconds": _remaining(report)}


def _rate(before: Json, done: float, now: datetime) -> float:
    """Units a second."""
    seconds = (now - _at(before)).total_seconds()
    latest: float = (done - before["done"]) / seconds
    if before["rate"] is None:
        return latest
    weight = math.exp(-seconds / SMOOTHING_SECONDS)
    return weight * float(before["rate"]) + (1 - weight) * latest


def _remaining(report: Json) -> float | None:
    total, rate = report["total"], report.get("rate")
    if total is None or not rate:
        return None
    return max(0.0, float((total - report["done"]) / rate))


def _at(report: Json) -> datetime:
    return datetime.fromisoformat(report["at"])
