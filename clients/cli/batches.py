"""Batches in the terminal: lists, one in full, starting one from a file, and calling it off."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.text import Text

from clients.cli import place
from clients.cli.errors import BadInput
from clients.cli.jobs import STATES as JOB_STATES
from clients.cli.jobs import id_of
from clients.cli.tables import check, local, show, state_of, table, took
from clients.client import Client

Json = dict[str, Any]
STATES: Final = ("running", "ending", "succeeded", "failed", "cancelled")


def list_batches(folder: Path, state: str | None, run: str | None, limit: int, *, as_json: bool) -> None:
    """Raises BadInput; CommandError, when all else is told, when a service could not be asked."""
    if state is not None and state not in STATES:
        raise BadInput(f"--batch-state {state!r} is none of {', '.join(STATES)}")
    wanted = None if run is None else id_of(run, "run")
    with place.client(folder) as client:
        found = list(itertools.islice(client.batches(state, wanted), limit))
    if as_json:
        print(json.dumps({"batches": found, "unreachable": sorted(client.unreachable)}))
    else:
        rows = table("batch", "service", "name", "state", "step", "jobs", "created", "took", "reason")
        for each in found:
            rows.add_row(each["id"], each["service"], each["name"] or "", state_of(each), _step(each),
                         str(each["jobs"]), local(each["created_at"]), took(each, "created_at"),
                         _said(each["reason"]))  # fmt: skip
        show(rows, found, "no such batches")
    check(client.unreachable)


def show_batch(folder: Path, batch: str, *, as_json: bool) -> None:
    with place.client(folder) as client:
        _tell(client.batch(id_of(batch, "batch")), as_json=as_json)


def start_batch(folder: Path, file: Path, *, as_json: bool) -> None:
    """Raises BadInput when the file is no batch."""
    body = _read(file)
    with place.client(folder) as client:
        found = client.create_batch(**body)
    jobs = sum(len(step) for step in found["jobs"])
    said = f"batch {found['batch']['id']} of {jobs:,} jobs in run {found['run']['id']}"
    print(json.dumps(found) if as_json else said)


def start_burst(folder: Path, definition: str, file: Path, dataset: str | None, *, as_json: bool) -> None:
    """Raises BadInput when the file holds no recipients, or there is no such definition."""
    recipients = _load(file)
    if not isinstance(recipients, list):
        raise BadInput(f'{file} holds no recipients such as [{{"name": "North", "only": {{"region": "North"}}}}]')
    with place.client(folder) as client:
        found = client.burst(_definition(client, definition), recipients, dataset)
    said = f"batch {found['batch']['id']} of {found['renders']:,} reports in run {found['run']['id']}"
    print(json.dumps(found) if as_json else said)


def _definition(client: Client, text: str) -> str:
    """The id of the definition of this id or name."""
    try:
        return str(UUID(text))
    except ValueError:
        found = [each["id"] for each in client.definitions() if each["name"] == text]
    if not found:
        raise BadInput(f"there is no definition named {text!r}")
    return str(found[0])


def _load(file: Path) -> Any:
    try:
        return json.loads(sys.stdin.read() if str(file) == "-" else file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is no JSON: {error}") from None


def _read(file: Path) -> Json:
    body = _load(file)
    if not isinstance(body, dict) or not isinstance(body.get("steps"), list):
        raise BadInput(f'{file} holds no batch such as {{"steps": [[{{"kind": "…", "args": {{}}}}]]}}')
    if unknown := body.keys() - {"steps", "name", "on_failure"}:
        raise BadInput(f"{file} has {', '.join(sorted(unknown))}: a batch has steps, name and on_failure")
    found: Json = body
    return found


def cancel_batch(folder: Path, batch: str, *, as_json: bool) -> None:
    with place.client(folder) as client:
        _tell(client.cancel_batch(id_of(batch, "batch")), as_json=as_json)


def _tell(batch: Json, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(batch))
        return
    console = Console(soft_wrap=True, highlight=False)
    ended = f", ended {local(batch['finished_at'])}" if batch["finished_at"] else ""
    facts = {
        "batch": " ".join(filter(None, (batch["id"], batch["name"]))),
        "run": f"{batch['run']}, caused by {batch['cause']} {batch['cause_id']}",
        "times": f"created {local(batch['created_at'])}{ended}",
        "failure": "later steps are called off" if batch["on_failure"] == "stop" else "later steps open all the same",
    }
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:<10}", "dim"), value))
    console.print(Text.assemble((f"{'state':<10}", "dim"), state_of(batch), f", step {_step(batch)}"))
    if batch["reason"]:
        console.print(Text.assemble((f"{'reason':<10}", "dim"), f"{batch['reason']['code']}: {_said(batch['reason'])}"))
    rows = table("step", *JOB_STATES)
    for step in batch["counts"]:
        rows.add_row(str(step["step"]), *(str(step[state] or "") for state in JOB_STATES))
    console.print(rows)


def _step(batch: Json) -> str:
    return f"{batch['step']} of {batch['steps']}"


def _said(reason: Json | None) -> str:
    return str((reason or {}).get("detail", ""))
