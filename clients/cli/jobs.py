"""Jobs in the terminal: lists, one in full, and moving them by hand."""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from clients.cli import place
from clients.cli.errors import BadInput, CommandError
from clients.cli.progress import far
from clients.cli.tables import check, local, show, state_of, table, took
from clients.client import Client
from clients.problems import ProblemError

Json = dict[str, Any]
STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled")
MOVABLE: Final = {"retry": ("failed", "cancelled"), "cancel": ("queued", "running"), "prioritise": ("queued",)}
DONE: Final = {"retry": "driven again", "cancel": "cancelled", "prioritise": "prioritised"}
LANES: Final = ("urgent", "normal", "bulk")
MOVED_A_REQUEST: Final = 2_000
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Filter:
    """Which jobs are meant, in the API's words."""

    values: Json

    @classmethod
    def of(
        cls,
        *,
        run: str | None,
        state: str | None,
        kind: str | None,
        error: str | None,
        since: str | None,
        until: str | None,
        batch: str | None = None,
        queue: str | None = None,
        lane: str | None = None,
    ) -> "Filter":
        """Raises BadInput."""
        if state is not None and state not in STATES:
            raise BadInput(f"--job-state {state!r} is none of {', '.join(STATES)}")
        check_lane(lane)
        values = {
            "run": None if run is None else id_of(run, "run"),
            "batch": None if batch is None else id_of(batch, "batch"),
            "state": state,
            "kind": kind,
            "queue": queue,
            "lane": lane,
            "error": error,
            "created_from": None if since is None else _moment(since, "--since"),
            "created_until": None if until is None else _moment(until, "--until"),
        }
        return cls({name: value for name, value in values.items() if value is not None})


def id_of(text: str, what: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise BadInput(f"{text!r} is no id of a {what}") from None


def _moment(text: str, option: str) -> str:
    """A time of the caller's zone, unless it names its own; or so long ago."""
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhdw])", text):
            return (datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})).isoformat()
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        raise BadInput(f"{option} {text!r} is neither a time (2026-11-25T09:00) nor an age (30m, 12h, 7d)") from None


def list_jobs(folder: Path, wanted: Filter, limit: int, workspace: str | None, *, as_json: bool) -> None:
    """Raises CommandError, when all else is told, when a service could not be asked."""
    with _looking(folder, workspace) as (client, whose):
        found = list(itertools.islice(client.jobs(**wanted.values, **whose), limit))
    if as_json:
        print(json.dumps({"jobs": found, "unreachable": sorted(client.unreachable)}))
    else:
        _list(found)
    check(client.unreachable)


def _list(found: list[Json]) -> None:
    rows = table("job", "kind", "state", "attempt", "created", "took", "reason")
    for job in found:
        created, spent = local(job["created_at"]), took(job, "started_at")
        rows.add_row(job["id"], job["kind"], state_of(job), str(job["attempt"]), created, spent, _said(job["reason"]))
    show(rows, found, "no such jobs")


# One job


@contextmanager
def _looking(folder: Path, workspace: str | None) -> Iterator[tuple[Client, dict[str, str]]]:
    """Who may look: the workspace's own client, or the operator's with the workspace that it names."""
    whose = {} if workspace is None else {"workspace": id_of(workspace, "workspace")}
    with place.operator(folder) if whose else place.client(folder) as client:
        yield client, whose


def show_job(folder: Path, job: str, workspace: str | None, *, as_json: bool) -> None:
    with _looking(folder, workspace) as (client, whose):
        found = client.job(id_of(job, "job"), **whose)
    if as_json:
        print(json.dumps(found))
        return
    console = Console(soft_wrap=True, highlight=False)
    for line in _told(found):
        console.print(line)


def why(folder: Path, job: str, workspace: str | None, *, as_json: bool) -> None:
    with _looking(folder, workspace) as (client, whose):
        found = client.why(id_of(job, "job"), **whose)
    if as_json:
        print(json.dumps(found))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text.assemble(_line("job", f"{found['job']}, {found['kind']}, "), state_of(found)))
    for reason in found["reasons"]:
        console.print(Text.assemble(_line("why", f"{reason['detail']}  "), (reason["code"], "dim")))
        verb = "unfinished is" if "batch" in reason else "held by"
        for holder in reason.get("jobs", ()):
            console.print(_line("", f"{verb} job {holder}"))
        if reason.get("others"):
            console.print(_line("", f"{verb.replace(' is', ' are')} {reason['others']} others"))


def _told(job: Json) -> Iterator[Text]:
    yield _line("job", job["id"])
    began = f" (owed as {job['began_as']})" if job.get("began_as") else ""
    yield _line("kind", f"{job['kind']}{began}, queue {job['queue']}, lane {job['lane']}")
    yield Text.assemble(_line("state", ""), state_of(job))
    if job["reason"]:
        yield _line("reason", f"{job['reason']['code']}: {_said(job['reason'])}")
    yield _line("attempts", f"{job['attempt']} of {job['max_attempts']}, {job['crashes']} crashed")
    yield _line("run", f"{job['run']}, caused by {job['cause']} {job['cause_id']}")
    if job["batch"]:
        yield _line("batch", f"{job['batch']}, step {job['step']}")
    times = [("created", "created_at"), ("due", "not_before"), ("started", "started_at"), ("finished", "finished_at")]
    yield _line("times", ", ".join(f"{name} {local(job[key])}" for name, key in times if job[key]))
    if job["start_by"]:
        yield _line("start by", local(job["start_by"]))
    if job["deadline"]:
        yield _line("deadline", local(job["deadline"]))
    if job["limit_key"]:
        yield _line("limit key", job["limit_key"])
    yield _line("arguments", json.dumps(job["args"], ensure_ascii=False))
    if job["progress"]:
        yield _line("progress", far(job["progress"]))
    if job["state"] == "succeeded":
        yield _line("result", json.dumps(job["result"], ensure_ascii=False))
    for _, lines in sorted([*_attempts(job), *_interventions(job)], key=lambda told: told[0]):
        yield Text()
        yield from lines


def _attempts(job: Json) -> Iterator[tuple[datetime, list[Text]]]:
    for attempt in job["history"]:
        head = f"attempt {attempt['number']}: {attempt['outcome']}"
        version = f", version {attempt['version']}" if attempt["version"] else ""
        when = f"  {local(attempt['started_at'])}, {took(attempt, 'started_at')}{version}"
        lines = [Text.assemble((head, "bold"), when)]
        if error := attempt["error"]:
            style = "" if attempt["outcome"] == "continued" else "red"
            lines.append(Text(f"  {error['code']}: {_said(error)}", style))
            facts = {k: v for k, v in error.items() if k not in ("code", "detail", "type", "traceback", "attempts")}
            if facts:
                lines.append(Text(f"  {json.dumps(facts, ensure_ascii=False)}"))
            lines += [Text(f"  {line}", "dim") for line in (error.get("traceback") or "").splitlines()]
        yield _time(attempt["finished_at"]), lines


def _interventions(job: Json) -> Iterator[tuple[datetime, list[Text]]]:
    for act in job["interventions"]:
        lines = [Text.assemble((f"{act['act']} by {act['by']}", "bold"), f"  {local(act['at'])}")]
        reason = f": {act['reason']['code']}: {_said(act['reason'])}" if act["reason"] else ""
        lines.append(Text(f"  it was {act['state']}, at attempt {act['attempt']}{reason}"))
        if act["lane"] is not None:
            lines.append(Text(f"  its lane was {act['lane']}"))
        if act["args"] is not None:
            lines.append(Text(f"  its arguments were {json.dumps(act['args'], ensure_ascii=False)}"))
        yield _time(act["at"]), lines


def _line(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<10}", "dim"), value)


def _said(reason: Json | None) -> str:
    return str((reason or {}).get("detail", ""))


def _time(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


# Moving


@dataclass(frozen=True)
class Moving:
    """Retry, cancel or prioritise: jobs that are named, or all that a filter matches after it was shown how many."""

    folder: Path
    move_name: str
    dry_run: bool
    yes: bool
    as_json: bool
    lane: str = ""
    """Into which jobs are put."""

    def move(
        self,
        ids: list[str],
        wanted: Filter,
        *,
        everything: bool,
        args: str | None = None,
        per_second: float | None = None,
    ) -> None:
        """Raises BadInput, CommandError when some could not be moved, and what the client raises."""
        if bool(ids) == bool(wanted.values or everything):
            raise BadInput("name jobs, or say which by options (--all: every one), and not both")
        if ids and self.dry_run:
            raise BadInput("--dry-run counts what options match: leave the ids out")
        if args is not None and len(ids) != 1:
            raise BadInput("--args is for one job that is named")
        if ids and per_second is not None:
            raise BadInput("--per-second is for what options match: leave it or the ids out")
        if per_second is not None and not 0.001 <= per_second <= 1000:
            raise BadInput("--per-second is from 0.001 to 1000")
        state = wanted.values.get("state")
        if state is not None and state not in MOVABLE[self.move_name]:
            allowed = " and ".join(MOVABLE[self.move_name])
            raise BadInput(f"--job-state {state}: only {allowed} jobs can be {DONE[self.move_name]}")
        named, edited = [id_of(each, "job") for each in ids], None if args is None else arguments(args)
        with place.client(self.folder) as client:
            if named:
                self._move_named(client, named, edited)
            else:
                self._move_matching(client, wanted.values, per_second)

    def _move_named(self, client: Client, ids: list[str], args: Json | None) -> None:
        moved, refused = [], {}
        for job in ids:
            try:
                moved.append(self._move_one(client, job, args))
            except ProblemError as error:
                if len(ids) == 1:
                    raise
                refused[job] = error.detail or error.title
        self._say({"moved": [job["id"] for job in moved], "refused": refused}, f"{len(moved)} {DONE[self.move_name]}")
        if refused:
            job, why = next(iter(refused.items()))
            raise CommandError(f"{len(refused)} of {len(ids)} jobs were not {DONE[self.move_name]}. {job}: {why}")

    def _move_one(self, client: Client, job: str, args: Json | None) -> Json:
        if self.move_name == "prioritise":
            return client.prioritise_job(job, self.lane)
        return client.cancel_job(job) if self.move_name == "cancel" else client.retry_job(job, args)

    def _move_matching(self, client: Client, wanted: Json, per_second: float | None) -> None:
        counted = self._ask(client, wanted, dry_run=True)
        kinds = ", ".join(f"{jobs} {kind}" for kind, jobs in counted["by_kind"].items())
        matching = "1 job matches" if counted["jobs"] == 1 else f"{counted['jobs']} jobs match"
        said = matching + (f": {kinds}" if kinds else "")
        if self.dry_run or not counted["jobs"]:
            self._say({"dry_run": self.dry_run, "matched": counted["jobs"], "by_kind": counted["by_kind"]}, said)
            check(counted["unreachable"])
            return
        if not self.yes:
            self._confirm(said)
        moved, unreachable, answer = 0, set[str](), Json(more=True, until=None)
        while answer["more"] and moved < counted["jobs"]:  # what fails again meanwhile matches again
            given = {"per_second": per_second, "not_before": answer["until"]} if self.move_name == "retry" else {}
            spread = {name: value for name, value in given.items() if value is not None}
            answer = self._ask(client, wanted, dry_run=False, limit=MOVED_A_REQUEST, **spread)
            moved += answer["jobs"]
            unreachable |= set(answer["unreachable"])
        until = f", the last of them due at {local(answer['until'])}" if answer["until"] else ""
        self._say(
            {"moved": moved, "until": answer["until"]},
            f"{moved} job{'' if moved == 1 else 's'} {DONE[self.move_name]}{until}",
        )
        if unreachable:
            raise CommandError(f"{', '.join(sorted(unreachable))} did not answer: it is not known if jobs there moved")

    def _ask(self, client: Client, wanted: Json, **more: Any) -> Json:
        if self.move_name == "prioritise":
            return client.prioritise_jobs(wanted, self.lane, **more)
        move = client.cancel_jobs if self.move_name == "cancel" else client.retry_jobs
        return move(wanted, **more)

    def _confirm(self, said: str) -> None:
        if self.as_json or not sys.stdin.isatty():
            raise BadInput(f"{said}. They will be {DONE[self.move_name]} with --yes")
        if not typer.confirm(f"{said}. {DONE[self.move_name].capitalize()}?", err=True):
            raise CommandError("nothing was done")

    def _say(self, facts: Json, line: str) -> None:
        print(json.dumps(facts) if self.as_json else line)


def check_lane(lane: str | None) -> None:
    """Raises BadInput."""
    if lane == "":
        raise BadInput(f"say into which lane: --lane {', '.join(LANES)}")
    if lane is not None and lane not in LANES:
        raise BadInput(f"--lane {lane!r} is none of {', '.join(LANES)}")


def arguments(text: str) -> Json:
    """Raises BadInput."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--args is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput('--args is a JSON object, such as {"name": "value"}')
    return found
