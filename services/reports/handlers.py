"""Event → job."""

from services.reports.jobs import MatchDefinitions
from shared.contracts.ingest import DatasetCompleted
from shared.ledger.messages import Subscriptions

SUBSCRIPTIONS: Subscriptions = {DatasetCompleted: (MatchDefinitions,)}
