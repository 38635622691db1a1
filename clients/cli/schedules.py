"""Schedules in the terminal: lists, one in full, its next fires, and what became of the last ones."""

import itertools
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from rich.console import Console
from rich.text import Text

from clients.cli import place
from clients.cli.errors import BadInput
from clients.cli.jobs import arguments, check_lane
from clients.cli.tables import check, local, show, table
from clients.client import Client

Json = dict[str, Any]
STYLES: Final = {
    "active": "green",
    "paused": "yellow",
    "ended": "dim",
    "broken": "bold red",
    "fired": "green",
    "waiting": "yellow",
    "skipped": "magenta",
}
_RULES: Final = {"cron", "every_seconds", "at"}
_DEFINITION: Final = {
    *("name", "kind", "args", "zone", "start", "end", "jitter_seconds", "misfire", "grace_seconds"),
    *("window_seconds", "overlap", "lane", *_RULES),
}
"""What people say of a schedule; the rest says how it stands."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


# What the options say


def times(
    *,
    cron: str | None,
    every: str | None,
    at: str | None,
    zone: str | None,
    start: str | None,
    end: str | None,
    jitter: str | None = None,
) -> Json:
    """Those that are given, in the API's words. Raises BadInput."""
    found = {
        "zone": zone,
        "cron": cron,
        "every_seconds": None if every is None else _seconds(every, "--every"),
        "at": None if at is None else _moment(at, "--at"),
        "start": None if start is None else _moment(start, "--start"),
        "end": None if end is None else _moment(end, "--end"),
        "jitter_seconds": None if jitter is None else _seconds(jitter, "--jitter"),
    }
    return {name: value for name, value in found.items() if value is not None}


def policies(
    *, misfire: str | None, grace: str | None, window: str | None, overlap: str | None, lane: str | None
) -> Json:
    """Those that are given, in the API's words. Raises BadInput."""
    check_lane(lane)
    found = {
        "misfire": misfire,
        "grace_seconds": None if grace is None else _seconds(grace, "--grace"),
        "window_seconds": None if window is None else _seconds(window, "--window"),
        "overlap": overlap,
        "lane": lane,
    }
    return {name: value for name, value in found.items() if value is not None}


def _seconds(text: str, option: str) -> int:
    found = re.fullmatch(r"(\d{1,8})([smhdw])", text)
    if not found:
        raise BadInput(f"{option} {text!r} is no length of time such as 30s, 15m, 6h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def _moment(text: str, option: str) -> str:
    """As it is: without an offset it is a reading of the schedule's zone."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{option} {text!r} is no time such as 2026-12-24T18:00") from None
    return text if len(text) > 10 else f"{text}T00:00"


def _find(client: Client, text: str) -> str:
    """The id of the schedule of this id or name. Raises BadInput when there is none, or more than one, and CommandError
    when it may be one of a service that could not be asked."""
    try:
        return str(UUID(text))
    except ValueError:
        found = list(itertools.islice(client.schedules(name=text), 5))
    if not found:
        check(client.unreachable)
        raise BadInput(f"there is no schedule named {text!r}")
    if len(found) > 1:
        raise BadInput(f"{text!r} is a schedule of {', '.join(each['service'] for each in found)}: give its id")
    return str(found[0]["id"])


# Commands


def list_schedules(folder: Path, kind: str | None, state: str | None, limit: int, *, as_json: bool) -> None:
    """Raises CommandError, when all else is told, when a service could not be asked."""
    filters = {name: value for name, value in (("kind", kind), ("state", state)) if value is not None}
    with place.client(folder) as client:
        found = list(itertools.islice(client.schedules(**filters), limit))
    if as_json:
        print(json.dumps({"schedules": found, "unreachable": sorted(client.unreachable)}))
    else:
        _list(found)
    check(client.unreachable)


def _list(found: list[Json]) -> None:
    rows = table("schedule", "kind", "when", "zone", "state", "next", "fired", "reason")
    for each in found:
        following = local(each["next_at"]) if each["next_at"] else ""
        when, said = _when(each), _said(each["reason"])
        rows.add_row(each["name"], each["kind"], when, each["zone"], _styled(each["state"]), following,
                     str(each["fired"]), said)  # fmt: skip
    show(rows, found, "no such schedules")


def show_schedule(folder: Path, schedule: str, *, as_json: bool) -> None:
    with place.client(folder) as client:
        found = client.schedule(_find(client, schedule))
    _tell(found, as_json=as_json)


def create_schedule(folder: Path, name: str, kind: str, args: str, more: Json, *, as_json: bool) -> None:
    body = {"name": name, "kind": kind, "args": arguments(args), **more}
    with place.client(folder) as client:
        _tell(client.create_schedule(**body), as_json=as_json)


def edit_schedule(folder: Path, schedule: str, changes: Json, *, as_json: bool) -> None:
    """What is not among the changes stays as it is; of `cron`, `every_seconds` and `at` a new one takes the old one's
    place."""
    if not changes:
        raise BadInput("say what is to change, such as --cron or --overlap")
    with place.client(folder) as client:
        id = _find(client, schedule)
        stays = _DEFINITION if changes.keys().isdisjoint(_RULES) else _DEFINITION - _RULES
        stands = {name: value for name, value in client.schedule(id).items() if name in stays and value is not None}
        _tell(client.replace_schedule(id, **(stands | changes)), as_json=as_json)


def act(folder: Path, schedule: str, what: Literal["pause", "resume"], *, as_json: bool) -> None:
    with place.client(folder) as client:
        do = client.pause_schedule if what == "pause" else client.resume_schedule
        _tell(do(_find(client, schedule)), as_json=as_json)


def run_schedule(folder: Path, schedule: str, *, as_json: bool) -> None:
    with place.client(folder) as client:
        found = client.run_schedule(_find(client, schedule))
    print(json.dumps(found) if as_json else f"job {found['job']['id']} in run {found['run']['id']}")


def delete_schedule(folder: Path, schedule: str) -> None:
    with place.client(folder) as client:
        client.delete_schedule(_find(client, schedule))
    print(f"{schedule} is deleted")


def preview(folder: Path, schedule: str | None, times: Json, count: int, *, as_json: bool) -> None:
    with place.client(folder) as client:
        if schedule is None:
            found = client.preview_times(count, **times)
        elif times != {"zone": "UTC"}:
            raise BadInput("name a schedule or give times, not both")
        else:
            found = client.preview_schedule(_find(client, schedule), count)
    if as_json:
        print(json.dumps(found))
        return
    rows = table(f"in {found['zone']}", "UTC", "with jitter", "reason")
    for slot in found["items"]:
        due = slot["due_at"] if slot["due_at"] != slot["at"] else None
        rows.add_row(slot["local"], slot["at"], due or "", slot["note"] or "")
    show(rows, found["items"], "it does not fire any more")


def history(folder: Path, schedule: str, outcome: str | None, limit: int, *, as_json: bool) -> None:
    with place.client(folder) as client:
        found = list(itertools.islice(client.schedule_history(_find(client, schedule), outcome), limit))
    if as_json:
        print(json.dumps({"slots": found}))
        return
    rows = table("slot", "through", "slots", "outcome", "job", "reason")
    for slot in found:
        through = local(slot["through"]) if slot["through"] else ""
        job = slot["job"]["id"] if slot["job"] else ""
        slots = "many" if slot["slots"] is None else str(slot["slots"])
        rows.add_row(local(slot["at"]), through, slots, _styled(slot["outcome"]), job, _said(slot["reason"]))
    show(rows, found, "nothing yet")


def _tell(schedule: Json, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(schedule))
        return
    facts = {
        "schedule": f"{schedule['name']}  {schedule['id']}",
        "fires": f"{schedule['kind']} {json.dumps(schedule['args'], ensure_ascii=False)}",
        "when": f"{_when(schedule)} in {schedule['zone']}{_bounds(schedule)}",
        "misfire": f"{schedule['misfire']}, grace {schedule['grace_seconds']} s",
        "overlap": schedule["overlap"],
        "lane": schedule["lane"] or "the kind's",
        "next": local(schedule["next_at"]) if schedule["next_at"] else "not any more, or not now",
        "fired": f"{schedule['fired']} times" + (f", last job {_last(schedule)}" if schedule["last_job"] else ""),
    }
    if schedule["waiting"]:
        facts["waiting"] = f"{schedule['waiting']} fires, for the job before them"
    console = Console(soft_wrap=True, highlight=False)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:<10}", "dim"), value))
    console.print(Text.assemble((f"{'state':<10}", "dim"), _styled(schedule["state"]), f" {_said(schedule['reason'])}"))


def _when(schedule: Json) -> str:
    if schedule["cron"]:
        return str(schedule["cron"])
    if schedule["every_seconds"]:
        return f"every {schedule['every_seconds']} s"
    return f"once, {local(schedule['at'])}"


def _bounds(schedule: Json) -> str:
    found = [f", {name} {local(schedule[name])}" for name in ("start", "end") if schedule[name]]
    jitter = f", jitter {schedule['jitter_seconds']} s" if schedule["jitter_seconds"] else ""
    return "".join(found) + jitter


def _last(schedule: Json) -> str:
    return f"{schedule['last_job']['id']} for {local(schedule['last_at'])}"


def _styled(word: str) -> Text:
    return Text(word, STYLES.get(word, ""))


def _said(reason: Json | None) -> str:
    return str((reason or {}).get("detail", ""))
