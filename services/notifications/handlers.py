"""Event → job. Whatever a rule can name is matched."""

from services.notifications.jobs import MatchEvent
from shared.contracts.ingest import DatasetCompleted, DatasetFailed
from shared.contracts.reports import BurstCompleted, ReportFailed, ReportRendered, ReportSkipped
from shared.ledger.messages import Subscriptions

SUBSCRIPTIONS: Subscriptions = {
    DatasetCompleted: (MatchEvent,),
    DatasetFailed: (MatchEvent,),
    ReportRendered: (MatchEvent,),
    ReportSkipped: (MatchEvent,),
    ReportFailed: (MatchEvent,),
    BurstCompleted: (MatchEvent,),
}
