"""Event → job."""

from infra.probe.jobs import NoteThing, ThingDone
from shared.ledger.messages import Subscriptions

SUBSCRIPTIONS: Subscriptions = {ThingDone: (NoteThing,)}
