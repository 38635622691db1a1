"""One thin task a job."""

from datetime import UTC, datetime

from services.api import operations
from services.api.adapters.parts import ask_parts
from services.api.domain import Part, look_again
from services.api.jobs import RecordEvent, SettleRun
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


@tasks.job(SettleRun, time_limit=60)
def settle_run(attempt: Attempt, args: SettleRun) -> dict[str, str]:
    with attempt.reading() as session:
        run = operations.to_settle(session, attempt.workspace, args)
    if run is None:
        return {"state": "settled already, or by a later event's job"}
    settings = ApiSettings()
    token = issue(settings.signing_key, Principal("api", frozenset({"read"}), attempt.workspace))
    parts, unreachable = ask_parts(settings.service_urls, token, args.run)
    with attempt.reading() as session:  # after the others: what their events caused here is seen
        parts.append(Part.model_validate(queries.part_of_run(raw(session), "api", attempt.workspace, args.run)))
    with attempt.noting() as session:
        found = operations.settle_from(session, run, parts, unreachable)
    again = look_again(datetime.now(UTC) - ids.time_of(args.event))
    if found.state == "running" and again is not None:
        raise Snooze(f"The run is running: {found.reason}.", after=again)
    return {"state": found.state}
