"""The dispatcher: gives due jobs and placed events to the broker. Runs in the service's leading Beat.

What it has given out it remembers in memory alone. A new leader begins with an empty memory and gives a few
jobs out twice; the claim drops the second message.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import SpanKind

from shared import ids, telemetry
from shared.contracts.envelope import Envelope
from shared.db import Connection, Row
from shared.ledger.enqueue import envelope
from shared.ledger.limits import Limits
from shared.ledger.messages import Lane
from shared.ledger.turns import Turns

log = structlog.get_logger(__name__)

MESSAGE_SECONDS = 0.2
"""Jobs of a kind that have been short share a message, up to about so much work. On a busy machine all take longer:
with much less, messages would shrink and cost more just when there is no time for it."""
EVENTS_A_ROUND = 500
EVENTS_A_MESSAGE = 100
LOOKS = 4
"""So many times within the redispatch time the broker is asked whether it still has what nobody claimed."""
MEASURE_SECONDS = 0.5
"""How often the recent durations of the kinds, and the live workers, are looked up."""
WINDOW_SECONDS = 0.5
"""What is in the broker, first in, first out, keeps all slots busy for about so long: an urgent job, or another
workspace's, waits no longer for it."""
UNKNOWN_SECONDS = 0.05
"""Taken for the duration of a kind of which none succeeded lately."""


class Broker(Protocol):
    """The broker as the dispatcher sees it. Each call raises when the broker is away; none waits for long."""

    def send_jobs(self, kind: str, queue: str, jobs: list[UUID]) -> None: ...

    def send_events(self, events: list[Envelope]) -> None: ...

    def depth(self, queue: str) -> int:
        """Messages that wait in the queue."""
        ...


@dataclass(frozen=True)
class Sent:
    """A job that the broker was given: when (monotonic), in which message, and how often it had been claimed."""

    at: float
    message: int
    priority: int
    attempt: int
    share: float
    row: Row


class Dispatcher:
    """Keeps at most a window of each queue's jobs in the broker, and sends again what nobody claimed."""

    def __init__(
        self,
        service: str,
        queues: Iterable[str],
        broker: Broker,
        *,
        window: int,
        redispatch_seconds: float,
        slots: int,
        together: Mapping[str, int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._broker = broker
        self._window = window
        self._redispatch = redispatch_seconds
        self._slots = slots
        self._together = together or {}
        self._monotonic = monotonic
        self._sent: dict[str, dict[UUID, Sent]] = {queue: {} for queue in queues}
        self._turns: dict[str, Turns] = {queue: Turns(monotonic) for queue in self._sent}
        self._limits = Limits()
        self._looked_at = dict.fromkeys(self._sent, float("-inf"))
        self._messages_sent = 0
        self.claimed = 0
        """Jobs seen to be claimed in the last round."""
        self.waiting = False
        """Whether due jobs wait for room in the broker, which claims make, or for a limit."""
        self.again_in = math.inf
        """Seconds until a rate lets something begin that waits for it."""
        self._durations: dict[str, float] = {}
        self._workers = 1
        self._measured_at = float("-inf")

    def dispatch(self, connection: Connection) -> int:
        """One round over the queues; answers how many jobs were given to the broker."""
        self._measure(connection)
        self.claimed, self.waiting = 0, False
        for queue in self._sent:
            self._forget(connection, queue)
        self._look_at_limits(connection)
        given = sum(self._dispatch_queue(connection, queue) for queue in self._sent)
        self.again_in = self._limits.again_in
        return given

    def _look_at_limits(self, connection: Connection) -> None:
        """A job that ended makes room under a limit as a claim does in the broker."""
        before = self._limits.running
        self._limits.look(connection, (was.row for sent in self._sent.values() for was in sent.values()))
        self.claimed += self._limits.running != before

    def _dispatch_queue(self, connection: Connection, queue: str) -> int:
        given = 0
        for lane in Lane:
            fresh = self._next(connection, queue, lane)
            for kind, rows in self._messages(fresh):
                self._send(queue, kind, rows)
            given += len(fresh)
        return given

    def _send(self, queue: str, kind: str, rows: list[Row]) -> None:
        self._broker.send_jobs(kind, queue, [row["id"] for row in rows])
        self._messages_sent += 1
        at, share = self._monotonic(), self._share(kind)
        for row in rows:
            self._sent[queue][row["id"]] = Sent(at, self._messages_sent, row["priority"], row["attempt"], share, row)
            _trace(row)

    def _forget(self, connection: Connection, queue: str) -> None:
        """What has been claimed since (and may be due again), has ended, or was lost by the broker."""
        sent = self._sent[queue]
        if not sent:
            return
        rows = connection.execute(_BEGUN, (list(sent),)).fetchall()
        gone = [row["id"] for row in rows if row["state"] != "queued" or row["attempt"] != sent[row["id"]].attempt]
        self.claimed += len(gone)
        for id in gone:
            del sent[id]
        for id in self._lost(queue):
            del sent[id]

    def _next(self, connection: Connection, queue: str, lane: Lane) -> list[Row]:
        """Due jobs of the lane for which there is room, in the order in which they go: workspaces take turns.

        While half a window of jobs that go before them, or with them, is on its way they wait, so as to go in full
        messages.
        """
        sent, limits = self._sent[queue], self._limits
        if limits.is_paused(queue):
            self.waiting = True
            return []
        room = self._window - sum(was.share for was in sent.values() if was.priority <= lane)
        if room < self._window / 2:
            self.waiting = True
            return []
        turns, blocked = self._turns[queue], limits.blocked()
        known = turns.spaces(connection, queue, lane)
        spaces = [space for space in known if space not in blocked.workspaces]
        self.waiting |= len(spaces) < len(known) or bool(known and (blocked.kinds or blocked.keys))
        if not spaces:
            return []
        fresh = connection.execute(
            _DUE,
            {
                "queue": queue,
                "lane": lane,
                "spaces": spaces,
                "kinds": blocked.kinds,
                "keys": blocked.keys,
                "sent": list(sent),
                "most": -(-2 * self._window // len(spaces)),
            },
        ).fetchall()
        going = turns.take(fresh, room, lambda row: self._share(row["kind"]), limits.weight, limits.admit)
        self.waiting |= len(going) < len(fresh)
        return going

    def _lost(self, queue: str) -> list[UUID]:
        """Jobs that nobody claimed in time and whose message is not in the broker any more.

        A queue is first in, first out: of what we sent, its `depth` newest messages may still be there. So
        while no worker takes anything, nothing is sent twice.
        """
        now, sent = self._monotonic(), self._sent[queue]
        late = [id for id, was in sent.items() if now - was.at > self._redispatch]
        if not late or now - self._looked_at[queue] < self._redispatch / LOOKS:
            return []
        self._looked_at[queue] = now
        newest = sorted({was.message for was in sent.values()}, reverse=True)
        waiting = set(newest[: self._broker.depth(queue)])
        lost = [id for id in late if sent[id].message not in waiting]
        if lost:
            log.warning("unclaimed jobs are dispatched again", queue=queue, jobs=len(lost))
        return lost

    def _messages(self, due: list[Row]) -> Iterable[tuple[str, list[Row]]]:
        """Group jobs of a kind. A job that crashed a worker travels alone."""
        share = max(1, -(-len(due) // max(1, self._slots)))
        open_: dict[str, list[Row]] = {}
        for row in due:
            kind = row["kind"]
            group = [] if row["crashes"] else open_.setdefault(kind, [])
            group.append(row)
            if row["crashes"] or len(group) >= min(self._size(kind), share):
                yield kind, group if row["crashes"] else open_.pop(kind)
        yield from open_.items()

    def _size(self, kind: str) -> int:
        """How many jobs of a kind share a message: as many as fit in MESSAGE_SECONDS by their recent duration."""
        duration = self._durations.get(kind)
        if duration is None:
            return 1
        return max(1, min(self._together.get(kind, 1), int(MESSAGE_SECONDS / max(duration, 1e-6))))

    def _share(self, kind: str) -> float:
        """What a job of the kind takes of the window: 1, or more when it is so long that the window would hold more
        than WINDOW_SECONDS of work for the live workers. What is in the broker cannot be overtaken."""
        seconds = self._durations.get(kind, UNKNOWN_SECONDS)
        return max(1.0, seconds * self._window / (WINDOW_SECONDS * self._slots * self._workers))

    def _measure(self, connection: Connection) -> None:
        if self._monotonic() - self._measured_at < MEASURE_SECONDS:
            return
        self._measured_at = self._monotonic()
        since = ids.floor(datetime.now(UTC) - timedelta(hours=1))
        found = connection.execute(_DURATIONS, (since,)).fetchall()
        self._durations = {row["kind"]: row["seconds"] for row in found}
        [live] = connection.execute("SELECT count(*) AS workers FROM worker WHERE lease_until > now()").fetchall()
        self._workers = max(1, live["workers"])


_BEGUN = "SELECT id, attempt, state FROM job WHERE id = ANY(%s) AND (state <> 'queued' OR attempt > 0)"

_DUE = """
SELECT due.* FROM unnest(%(spaces)s::uuid[]) AS space (workspace)
CROSS JOIN LATERAL (
  SELECT id, kind, queue, priority, attempt, crashes, traceparent, not_before, workspace, limit_key FROM job
  WHERE state = 'queued' AND finished_at IS NULL AND queue = %(queue)s AND job.priority = %(lane)s
    AND job.workspace = space.workspace AND not_before <= now()
    AND id <> ALL(%(sent)s) AND kind <> ALL(%(kinds)s) AND (limit_key IS NULL OR limit_key <> ALL(%(keys)s))
  ORDER BY not_before, id LIMIT %(most)s) AS due"""

_DURATIONS = """
SELECT kind, avg(seconds)::float AS seconds FROM (
  SELECT job.kind, attempt.seconds
  FROM (SELECT * FROM attempt WHERE job > %s ORDER BY job DESC LIMIT 200) AS attempt JOIN job ON job.id = attempt.job
  WHERE attempt.outcome = 'succeeded') AS recent GROUP BY kind"""


def _trace(row: Row) -> None:
    """A span from the moment the job was due until the broker has it."""
    if row["traceparent"]:
        telemetry.mark(
            f"dispatch {row['kind']}",
            row["traceparent"],
            SpanKind.PRODUCER,
            workspace=row["workspace"],
            start_at=row["not_before"],
            job_id=str(row["id"]),
        )


class EventPublisher:
    """Gives events their place in the feed, then to the broker.

    One leader does it, so places are given in the order of commits as seen by it, with no gap: whoever has
    read up to a place has seen all before it. The cursor `published` moves behind the broker's answer;
    dying in between sends events twice, and intake drops the second.
    """

    def __init__(self, service: str, broker: Broker) -> None:
        self._service = service
        self._broker = broker

    def place(self, connection: Connection) -> int:
        """Give new events their places; answers how many. The lock keeps a leader that was frozen out."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('place ' || current_schema()))")
            return connection.execute(
                """UPDATE event SET position = placed.position
                   FROM (SELECT id, nextval('event_positions') AS position
                         FROM (SELECT id FROM event WHERE position IS NULL ORDER BY id LIMIT %s) AS fresh) AS placed
                   WHERE event.id = placed.id""",
                (EVENTS_A_ROUND,),
            ).rowcount

    def publish(self, connection: Connection) -> int:
        """Give placed events to the broker, in their order; answers how many."""
        rows = connection.execute(
            """SELECT * FROM event WHERE position > coalesce((SELECT position FROM cursor WHERE name = 'published'), 0)
               ORDER BY position LIMIT %s""",
            (EVENTS_A_ROUND,),
        ).fetchall()
        if not rows:
            return 0
        by_type: dict[str, list[Envelope]] = defaultdict(list)
        for row in rows:
            by_type[row["type"]].append(envelope(self._service, row))
        for events in by_type.values():
            for start in range(0, len(events), EVENTS_A_MESSAGE):
                self._broker.send_events(events[start : start + EVENTS_A_MESSAGE])
        connection.execute(MOVE_CURSOR, ("published", rows[-1]["position"]))
        for row in rows:
            telemetry.mark(
                f"publish {row['type']}",
                row["traceparent"],
                SpanKind.PRODUCER,
                workspace=row["workspace"],
                event_id=str(row["id"]),
            )
        return len(rows)


MOVE_CURSOR = """
INSERT INTO cursor (name, position) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursor.position, excluded.position), moved_at = now()"""
