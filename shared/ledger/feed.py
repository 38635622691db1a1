"""The feed: every event of a producer in order, over HTTP, so that a consumer catches up with what the broker lost."""

import httpx2 as httpx
import structlog
from pydantic import BaseModel

from shared.contracts.envelope import Envelope
from shared.db import Database, Statements
from shared.ledger.enqueue import envelope
from shared.ledger.intake import Intake

log = structlog.get_logger(__name__)

PAGE_EVENTS = 500


class Page(BaseModel):
    """Events after a cursor, oldest first; `next` is the cursor behind all that was looked at."""

    events: list[Envelope]
    next: int
    missed: int = 0
    """Up to this position events were dropped for their age before this reader asked for them; 0: none."""


def read(connection: Statements, service: str, after: int, types: list[str], limit: int = PAGE_EVENTS) -> Page:
    """A page of the service's own events of the given types (all, if none are given).

    `next` passes over events of other types too: a reader of rare ones must not search all of them each time.
    """
    newest = connection.execute(
        """SELECT coalesce((SELECT max(position) FROM event), 0) AS position,
                  coalesce((SELECT position FROM horizon WHERE name = 'event'), 0) AS dropped"""
    ).fetchone()
    assert newest is not None
    missed = newest["dropped"] if after < newest["dropped"] else 0
    rows = connection.execute(
        """SELECT * FROM event WHERE position > %s AND position <= %s AND (%s::text[] = '{}' OR type = ANY(%s))
           ORDER BY position LIMIT %s""",
        (after, newest["position"], types, types, limit),
    ).fetchall()
    behind = rows[-1]["position"] if len(rows) == limit else max(after, newest["position"])
    return Page(events=[envelope(service, row) for row in rows], next=behind, missed=missed)


class Follower:
    """Reads one producer's feed from this consumer's own cursor."""

    def __init__(self, producer: str, url: str, key: str, types: list[str]) -> None:
        self._name = f"feed:{producer}"
        self._producer = producer
        self._url = url
        self._key = key
        self._types = types

    def catch_up(self, database: Database, intake: Intake, client: httpx.Client) -> int:
        """Take in all that is new; answers how many events came. Raises httpx.HTTPError.

        The cursor moves after the jobs are committed: dying in between reads a page twice.
        """
        seen = 0
        with database.connect() as connection:
            while True:
                after = self._cursor(connection)
                page = self._get(client, after)
                if page.missed:
                    log.error(
                        "events were dropped before they were read",
                        producer=self._producer,
                        after=after,
                        until=page.missed,
                    )
                intake.take(page.events)
                place = {"name": self._name, "position": max(page.next, page.missed), "end": not page.events}
                connection.execute(_MOVE, place)
                if not page.events:
                    return seen
                seen += len(page.events)

    def _cursor(self, connection: Statements) -> int:
        row = connection.execute("SELECT position FROM cursor WHERE name = %s", (self._name,)).fetchone()
        return int(row["position"]) if row else 0

    def _get(self, client: httpx.Client, after: int) -> Page:
        answer = client.get(
            f"{self._url}/v1/events",
            params={"after": after, "type": self._types},
            headers={"Authorization": f"Bearer {self._key}"},
        )
        answer.raise_for_status()
        return Page.model_validate(answer.json())


_MOVE = """
INSERT INTO cursor (name, position, moved_at)
VALUES (%(name)s, %(position)s, CASE WHEN %(end)s THEN now() ELSE 'epoch' END)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursor.position, excluded.position),
                                 moved_at = greatest(cursor.moved_at, excluded.moved_at)"""
"""Its time is that at which the end of the feed was last reached: until then what comes may be old."""
