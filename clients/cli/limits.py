"""Limits and pauses in the terminal."""

import json
from pathlib import Path
from typing import Any

from clients.cli import place
from clients.cli.errors import CommandError
from clients.cli.tables import local, show, table

Json = dict[str, Any]


def list_limits(folder: Path, *, as_json: bool) -> None:
    """Raises CommandError, after what was found, when a service could not be asked."""
    with place.operator(folder) as client:
        found = client.limits()
    if as_json:
        print(json.dumps({"limits": found["items"], "unreachable": found["unreachable"]}))
    else:
        rows = table("service", "limit", "at once", "a second", "burst", "weight", "running", "paused")
        for rule in found["items"]:
            rows.add_row(*_row(rule))
        show(rows, found["items"], "no limits")
    if found["unreachable"]:
        raise CommandError(f"{', '.join(found['unreachable'])} could not be asked: limits there are not shown")


def set_limit(folder: Path, key: str, rule: Json, service: str | None, *, as_json: bool) -> None:
    given = {name: value for name, value in rule.items() if value is not None}
    with place.operator(folder) as client:
        _tell(client.set_limit(key, service=service, **given), as_json=as_json)


def delete_limit(folder: Path, key: str, service: str | None) -> None:
    with place.operator(folder) as client:
        client.delete_limit(key, service=service)
    print(f"{key} is deleted")


def pause(folder: Path, what: str, *, as_json: bool) -> None:
    with place.operator(folder) as client:
        _tell(client.pause(_key(what)), as_json=as_json)


def resume(folder: Path, what: str, *, as_json: bool) -> None:
    key = _key(what)
    with place.operator(folder) as client:
        client.resume(key)
    print(json.dumps({"resumed": key}) if as_json else f"{key} goes on")


def _key(what: str) -> str:
    """The rule's key of a queue (`service.name`) or a kind (`service.noun.verb`), if it is not one already."""
    if ":" in what:
        return what
    return f"kind:{what}" if what.count(".") >= 2 else f"queue:{what}"


def _tell(rule: Json, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rule))
        return
    said = [f"at most {rule['concurrency']} at once"] if rule["concurrency"] else []
    if rule["per_second"]:
        said.append(f"at most {rule['per_second']:g} a second after a burst of {rule['burst']}")
    if rule["weight"] != 1:
        said.append(f"weight {rule['weight']:g}")
    if rule["paused_at"]:
        said.append(f"paused since {local(rule['paused_at'])} by {rule['paused_by']}")
    print(f"{rule['key']} of {rule['service']}: {', '.join(said) or 'not limited'}; {rule['running']} running")


def _row(rule: Json) -> list[str]:
    rate = rule["per_second"]
    return [
        rule["service"],
        rule["key"],
        str(rule["concurrency"] or ""),
        f"{rate:g}" if rate else "",
        str(rule["burst"]) if rate else "",
        f"{rule['weight']:g}" if rule["weight"] != 1 else "",
        str(rule["running"]),
        f"{local(rule['paused_at'])} by {rule['paused_by']}" if rule["paused_at"] else "",
    ]
