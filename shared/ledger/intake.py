"""Taking events in: each becomes one job a subscription, once, from whichever way it came first."""

from collections.abc import Iterable
from typing import Any

import psycopg
import structlog
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from shared import telemetry
from shared.contracts.envelope import Envelope
from shared.db import Database, Row, raw
from shared.ledger.enqueue import event_job, insert, job_of
from shared.ledger.messages import EventArgs, Subscriptions

log = structlog.get_logger(__name__)


class Intake:
    """One service's intake. It only inserts jobs; retries and dead letters are then the ledger's."""

    def __init__(self, database: Database, subscriptions: Subscriptions) -> None:
        self._database = database
        self._by_type: dict[str, tuple[type[EventArgs], ...]] = {
            event.type: kinds for event, kinds in subscriptions.items()
        }

    def receive(self, messages: Iterable[Any]) -> int:
        """Take in CloudEvents from the broker; answers how many had a subscription.

        What is no CloudEvent is logged and dropped: the producer's feed holds the original.
        """
        events = []
        for message in messages:
            try:
                events.append(Envelope.model_validate(message))
            except ValidationError as error:
                log.error("malformed event dropped", reason=str(error)[:500])
        return self.take(events)

    def take(self, events: Iterable[Envelope]) -> int:
        """Insert the jobs of events; the same event twice adds nothing, and leaves no second span.

        What PostgreSQL cannot hold (NUL) no producer's feed can hold either: it is logged and dropped.
        """
        wanted = [event for event in events if event.type in self._by_type]
        try:
            self._insert(wanted)
        except psycopg.DataError as error:
            if len(wanted) == 1:
                log.error("event that cannot be stored dropped", event_id=str(wanted[0].id), reason=str(error)[:500])
            else:  # one must not take the others along
                for event in wanted:
                    self.take([event])
        return len(wanted)

    def _insert(self, wanted: list[Envelope]) -> None:
        if not wanted:
            return
        with self._database.transaction() as session:
            connection = raw(session)
            due = {job_of(event, kind): (event, kind) for event in wanted for kind in self._by_type[event.type]}
            known = connection.execute(_KNOWN, (list(due),)).fetchall()
            forgotten = [due[row["id"]][0].id for row in known if row["forgotten"]]
            for row in known:
                del due[row["id"]]
            insert(connection, [_received(event, kind) for event, kind in due.values()])
            session.info["wake"] = bool(due)
        if forgotten:
            log.warning("old events passed over", events=len(forgotten), first=[str(id) for id in forgotten[:10]])


_KNOWN = """
SELECT id, NOT known AS forgotten FROM (
  SELECT id, EXISTS (SELECT FROM job WHERE job.id = due.id) AS known,
         coalesce(id < (SELECT before FROM horizon WHERE name = 'job'), false) AS old
  FROM unnest(%s::uuid[]) AS due (id)) AS asked
WHERE known OR old"""
"""Jobs that the ledger has, or had: those behind the horizon were dropped (retention.py), and came long ago."""


def _received(event: Envelope, kind: type[EventArgs]) -> Row:
    """The job's row, below a span of its arrival."""
    traceparent = telemetry.mark(
        f"receive {event.type}",
        event.traceparent,
        SpanKind.CONSUMER,
        workspace=event.workspace,
        event_id=str(event.id),
    )
    return event_job(kind(envelope=event), traceparent)
