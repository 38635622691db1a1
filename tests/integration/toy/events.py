"""Events stated and taken in by the toy service."""

from typing import Any
from uuid import UUID

from shared import ids
from shared.contracts.envelope import Envelope, Event
from shared.ledger.enqueue import Origin, publish
from shared.ledger.messages import Subscriptions
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import NoteThing, ThingDone

SUBSCRIPTIONS: Subscriptions = {ThingDone: (NoteThing,)}


def state(toy: Toy, event: Event, **options: Any) -> UUID:
    """State a fact in a transaction of its own."""
    with toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        return publish(session, event, subject=ids.draw(), **options)


def envelope_of(name: str = "a", **fields: Any) -> Envelope:
    """An event of another service's, as it comes over the wire."""
    run = ids.draw()
    facts: dict[str, Any] = {
        "id": ids.draw(),
        "source": "/millrace/toy",
        "type": ThingDone.type,
        "subject": str(run),
        "time": ids.time_of(run),
        "workspace": ids.draw(),
        "runid": run,
        "causationid": run,
        "data": {"name": name},
    }
    return Envelope(**(facts | fields))


def noted(toy: Toy) -> list[str]:
    """Names of the events that became jobs, in the alphabet's order."""
    rows = toy.execute("SELECT args FROM job WHERE kind = %s", NoteThing.kind)
    return sorted(row["args"]["envelope"]["data"]["name"] for row in rows)
