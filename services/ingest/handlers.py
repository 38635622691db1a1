"""Event → job. `ingest` begins the chain: it subscribes to nothing."""

from shared.ledger.messages import Subscriptions

SUBSCRIPTIONS: Subscriptions = {}
