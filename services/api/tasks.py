"""One thin task a job."""

from datetime import UTC, datetime
from uuid import UUID

from services.api import operations
from services.api.adapters.parts import ask_parts, ask_tallies
from services.api.domain import Part, Tally, look_again, tallied
from services.api.jobs import RecordEvent, RunCanary, SettleRun, SweepRuns
from services.api.settings import ApiSettings
from shared import ids
from shared.auth import Principal, issue
from shared.db import raw
from shared.errors import Snooze
from shared.ledger import queries
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks

tasks = Tasks()


@tasks.job(RecordEvent, time_limit=30)
def record_event(attempt: Attempt, args: RecordEvent) -> None:
    with attempt.finishing() as session:
        operations.record_event(session, args.envelope)


@tasks.job(RunCanary, time_limit=30)
def run_canary(attempt: Attempt, args: RunCanary) -> dict[str, str]:
    return {"text": args.text}


@tasks.job(SettleRun, time_limit=60)
def settle_run(attempt: Attempt, args: SettleRun) -> str | None:
    with attempt.reading() as session:
        if not operations.is_newest(session, args):
            return "left to the job of a later event"
    found = operations.standing_by(*_parts(attempt, args.run))
    if found.state == "running":
        again = look_again(datetime.now(UTC) - ids.time_of(args.event or attempt.job.id))
        if again is None:
            return f"left alone: {found.reason}"
        raise Snooze(f"The run has not ended: {found.reason}.", after=again)
    with attempt.finishing(found.state) as session:
        operations.keep_standing(session, args.run, found)
    return None


@tasks.job(SweepRuns, time_limit=60)
def sweep_runs(attempt: Attempt, args: SweepRuns) -> None:
    found, unreachable = _tallies(attempt, args)
    with attempt.noting() as session:
        left = operations.sweep(session, attempt.workspace, args, tallied(found), unreachable)
    again = look_again(datetime.now(UTC) - ids.time_of(args.until))
    if left and again is not None:
        raise Snooze(f"{left} runs have not ended.", after=again)


def _tallies(attempt: Attempt, args: SweepRuns) -> tuple[list[Tally], list[str]]:
    settings = ApiSettings()
    found, unreachable = ask_tallies(settings.service_urls, _token(settings, attempt), args.since, args.until)
    with attempt.reading() as session:
        own = queries.tallies(raw(session), attempt.workspace, args.since, args.until)
    return [*found, *map(Tally.model_validate, own)], unreachable


def _token(settings: ApiSettings, attempt: Attempt) -> str:
    return issue(settings.signing_key, Principal("api", frozenset({"read"}), attempt.workspace))


def _parts(attempt: Attempt, run: UUID) -> tuple[list[Part], list[str]]:
    """The services' parts of a run; the own part last, so that the jobs which the others' events caused are in it."""
    settings = ApiSettings()
    parts, unreachable = ask_parts(settings.service_urls, _token(settings, attempt), run)
    with attempt.reading() as session:
        own = queries.part_of_run(raw(session), "api", attempt.workspace, run)
    return [*parts, Part.model_validate(own)], unreachable
