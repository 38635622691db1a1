"""Workspaces take turns inside a lane: start-time fair queueing (Goyal, Vin and Cheng, 1996) over due jobs.

Each workspace has a clock that runs with the work it was given. The one whose clock is furthest behind goes next, so
that a single job does not wait for another workspace's backlog; one that comes anew begins where the others are.
"""

import heapq
from collections.abc import Callable
from typing import Any
from uuid import UUID

from shared.db import Connection, Row

FEW = 64
"""So many workspaces with queued jobs are looked up in each round; more of them only every so often."""
LOOK_SECONDS = 0.5


class Turns:
    """The turns of one queue. Forgotten with the leader: a new one begins with all clocks equal."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._spaces: dict[int, list[UUID]] = {}
        self._looked_at: dict[int, float] = {}
        self._clocks: dict[UUID, float] = {}
        self._now = 0.0
        """Where the workspace stands that went last."""

    def spaces(self, connection: Connection, queue: str, lane: int) -> list[UUID]:
        """Workspaces with queued jobs of the lane."""
        known = self._spaces.get(lane, [])
        now = self._monotonic()
        if len(known) <= FEW or now - self._looked_at[lane] >= LOOK_SECONDS:
            rows = connection.execute(_SPACES, {"queue": queue, "lane": lane}).fetchall()
            self._looked_at[lane] = now
            known = self._spaces[lane] = [row["workspace"] for row in rows]
            active = {space for spaces in self._spaces.values() for space in spaces}
            self._clocks = {space: at for space, at in self._clocks.items() if space in active or at > self._now}
        return known

    def take(
        self,
        due: list[Row],
        room: float,
        share: Callable[[Row], float],
        weight: Callable[[UUID], float] = lambda space: 1.0,
        admit: Callable[[Row], bool] = lambda row: True,
    ) -> list[Row]:
        """Those of `due` (each workspace's in its order) that are admitted and fit in `room`, in turns; at least one
        of them. `share`: what a row takes of the room; a workspace of twice the `weight` gets twice as much."""
        lines: dict[UUID, list[Row]] = {}
        for row in due:
            lines.setdefault(row["workspace"], []).append(row)
        for line in lines.values():
            line.reverse()
        turns: list[tuple[float, Any]] = [(self._clock(space), space) for space in lines]
        heapq.heapify(turns)
        taken: list[Row] = []
        while turns and (room > 0 or not taken):
            self._now, space = turns[0]
            row = lines[space].pop()
            if admit(row):
                taken.append(row)
                room -= share(row)
                self._clocks[space] = self._now + share(row) / weight(space)
            if lines[space]:
                heapq.heapreplace(turns, (self._clock(space), space))
            else:
                heapq.heappop(turns)
        return taken

    def _clock(self, space: UUID) -> float:
        return max(self._now, self._clocks.get(space, 0.0))


_SPACES = """
WITH RECURSIVE space (workspace) AS (
  (SELECT workspace FROM job
   WHERE state = 'queued' AND finished_at IS NULL AND queue = %(queue)s AND priority = %(lane)s
   ORDER BY workspace LIMIT 1)
  UNION ALL
  SELECT (SELECT job.workspace FROM job
          WHERE state = 'queued' AND finished_at IS NULL AND queue = %(queue)s AND priority = %(lane)s
            AND job.workspace > space.workspace
          ORDER BY job.workspace LIMIT 1)
  FROM space WHERE space.workspace IS NOT NULL)
SELECT workspace FROM space WHERE workspace IS NOT NULL"""
"""Jumps from one workspace to the next in the index, past all their jobs."""
