"""One thin task a job."""

from services.api import operations
from services.api.jobs import RecordEvent
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks

tasks = Tasks()


@tasks.job(RecordEvent, time_limit=30)
def record_event(attempt: Attempt, args: RecordEvent) -> None:
    with attempt.finishing() as session:
        operations.record_event(session, args.envelope)
