"""Every event type there is. Adding one means: a class in its producer's file, a line here, an example."""

from shared.contracts.api import WorkspaceCreated
from shared.contracts.envelope import Event
from shared.contracts.ingest import DatasetCompleted, DatasetFailed
from shared.contracts.notifications import MessageDelivered, MessageFailed
from shared.contracts.reports import BurstCompleted, ReportFailed, ReportRendered, ReportSkipped

SERVICES = ("api", "ingest", "reports", "notifications")

EVENTS: dict[str, type[Event]] = {
    event.type: event
    for event in (
        WorkspaceCreated,
        DatasetCompleted,
        DatasetFailed,
        ReportRendered,
        ReportSkipped,
        ReportFailed,
        BurstCompleted,
        MessageDelivered,
        MessageFailed,
    )
}


def consumers(event_type: str) -> tuple[str, ...]:
    """Kinds of the jobs that an event of this type causes; of a type unknown here, none."""
    event = EVENTS.get(event_type)
    return event.consumers if event else ()
