"""Event → job. `api` hears every completion event, to tell runs."""

from services.api.jobs import RecordEvent
from shared.contracts.catalog import EVENTS
from shared.ledger.messages import Subscriptions

SUBSCRIPTIONS: Subscriptions = dict.fromkeys(EVENTS.values(), (RecordEvent,))
