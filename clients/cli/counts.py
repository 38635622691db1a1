"""Jobs over time, drawn in the terminal: a line of bars for each kind, and how long its jobs waited and took."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from clients.cli import place
from clients.cli.errors import BadInput
from clients.cli.jobs import Filter
from clients.cli.tables import STATE_STYLES, check, local, show, table
from clients.cli.trace import duration

Json = dict[str, Any]
BUCKETS: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 60
"""At most so many bars: each then stands for several buckets."""


def count_jobs(
    folder: Path, bucket: str, kind: str | None, since: str | None, until: str | None, *, as_json: bool
) -> None:
    """Raises BadInput, and CommandError, when all else is told, when a service could not be asked."""
    if bucket not in BUCKETS:
        raise BadInput(f"--bucket {bucket!r} is none of {', '.join(BUCKETS)}")
    asked = Filter.of(run=None, state=None, kind=kind, error=None, since=since, until=until).values
    with place.client(folder) as client:
        found = client.job_counts(bucket=bucket, **asked)
    if as_json:
        print(json.dumps(found))
    else:
        _draw(found)
    check(found["unreachable"])


def _draw(found: Json) -> None:
    rows = table("kind", "jobs", "waiting", "running", "succeeded", "failed", "cancelled", "wait p50", "p95", "max",
                 "took p50", "p95", "max", "over time")  # fmt: skip
    for column in rows.columns[1:-1]:
        column.justify = "right"
    for kind in found["kinds"]:
        states = [str(kind["states"].get(state, "")) for state in STATE_STYLES]
        line = bars(over_time(found, kind["kind"]))
        rows.add_row(kind["kind"], str(kind["jobs"]), *states, *_times(kind["wait"]), *_times(kind["took"]), line)
    if found["kinds"]:
        span = f"{local(found['since'])} to {local(found['until'])}"
        print(f"jobs created from {span}, by the {found['bucket']}")
    show(rows, found["kinds"], "no jobs in that time")
    if not found["is_complete"]:
        print("There were more: the newest 100,000 of a service are counted.")


def _times(spread: Json | None) -> list[str]:
    return ["", "", ""] if spread is None else [duration(spread[name]) for name in ("p50", "p95", "max")]


def over_time(found: Json, kind: str) -> list[int]:
    """Jobs of the kind in each bucket of the range, also where there were none."""
    length, since = BUCKETS[found["bucket"]], datetime.fromisoformat(found["since"])
    counted = [0] * max(1, -(-(datetime.fromisoformat(found["until"]) - since) // length))
    for each in found["buckets"]:
        if each["kind"] == kind:
            where = (datetime.fromisoformat(each["start"]) - since) // length
            counted[min(max(where, 0), len(counted) - 1)] += each["jobs"]
    return counted


def bars(counts: Sequence[int]) -> str:
    """The highest bar is the largest count; none is drawn where there was nothing."""
    each = -(-len(counts) // WIDTH)
    drawn = [sum(counts[start : start + each]) for start in range(0, len(counts), each)]
    most = max(drawn)
    return "".join(BARS[(count * len(BARS) - 1) // most] if count else " " for count in drawn)
