"""Owing a job from the terminal."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from clients.cli import place
from clients.cli.errors import BadInput
from clients.cli.jobs import UNITS, arguments, check_lane

Json = dict[str, Any]
SCOPES: Final = ("queued", "unfinished")


def create_job(
    folder: Path,
    kind: str,
    *,
    args: str,
    lane: str | None,
    not_before: str | None,
    start_by: str | None,
    deadline: str | None,
    limit_key: str | None,
    unique: str | None,
    unique_while: str | None,
    unique_for: str | None,
    as_json: bool,
) -> None:
    """Raises BadInput, and what the client raises."""
    check_lane(lane)
    body = {
        "args": arguments(args),
        "lane": lane,
        "not_before": None if not_before is None else _moment(not_before, "--not-before"),
        "start_by": None if start_by is None else _moment(start_by, "--start-by"),
        "deadline": None if deadline is None else _moment(deadline, "--deadline"),
        "limit_key": limit_key,
        "unique": _unique(unique, unique_while, unique_for),
    }
    given: Json = {name: value for name, value in body.items() if value is not None}
    with place.client(folder) as client:
        answer = client.create_job(kind, **given)
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"job {answer['job']['id']}{' was there already' if answer['existing'] else ''}")
        print(f"run {answer['run']['id']}")


def _unique(key: str | None, scope: str | None, period: str | None) -> Json | None:
    if key is None:
        if scope is not None or period is not None:
            raise BadInput("--unique-while and --unique-for say for how long --unique KEY holds")
        return None
    if scope is not None and period is not None:
        raise BadInput("--unique-while or --unique-for, and not both")
    if scope is not None and scope not in SCOPES:
        raise BadInput(f"--unique-while {scope!r} is none of {', '.join(SCOPES)}")
    if period is not None:
        return {"key": key, "scope": "period", "period_seconds": round(_length(period, "--unique-for").total_seconds())}
    return {"key": key} if scope is None else {"key": key, "scope": scope}


def _moment(text: str, option: str) -> str:
    """A time of the caller's zone, unless it names its own; or so long from now."""
    try:
        if re.fullmatch(r"\d{1,6}[smhdw]", text):
            return (datetime.now(UTC) + _length(text, option)).isoformat()
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        said = "neither a time (2026-11-25T09:00) nor a while from now (30m, 12h)"
        raise BadInput(f"{option} {text!r} is {said}") from None


def _length(text: str, option: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not found:
        raise BadInput(f"{option} {text!r} is no length of time such as 30s, 15m, 6h or 1d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
