"""Firing schedules. Runs in the service's leading Beat, on the connection that holds its lead.

What is fired of a schedule, what its history says and where it stands then commit together, under a lock on its
row. If the process dies anywhere before that, nothing happened and the next leader does it; a leader that was frozen
has lost its connection. The slot's id, which is also its job's, is derived from the schedule and the time: a slot
that was decided about once is left alone, also when clocks jump.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb

from shared import ids
from shared.db import Connection, Database, Row, Statements, is_locked, is_outage, raw
from shared.errors import MillraceError
from shared.ledger import requests
from shared.ledger.enqueue import insert
from shared.ledger.messages import JobArgs
from shared.ledger.redrive import cancelling
from shared.ledger.schedules import dumps, fired_job, in_utc, job_id, missed_row, place, plan_of, slot_row, write_slots
from shared.ledger.tasks import Tasks
from shared.ledger.values import storable, text_of
from shared.schedules.policies import Missed, Plan, look, undecided
from shared.schedules.timetable import Slot

log = structlog.get_logger(__name__)

SCHEDULES_A_ROUND = 500
"""Fired in one transaction; what is due beyond that follows in the next round."""
ROUND_SECONDS = 1.0
"""So long each step of a round takes: slots that were missed by the thousand take time, rows are locked meanwhile, and
jobs and events are to be given to the broker. The rest follows in the next round."""
WAITING_SLOTS = 100
"""So many slots of one schedule may wait for the job before them (overlap `queue`)."""
IDLE_SECONDS = 1.0
"""Longest time between two looks."""
AGAIN_SECONDS = 0.05
"""Shortest time between two looks while nothing is known to be due: rounds may follow each other without a pause."""
SET_BACK = timedelta(seconds=1)
"""A clock that is behind what it showed before by more than this was set back."""


class Firer:
    """Looks when it is time to; one cheap query a look."""

    def __init__(self, database: Database, tasks: Tasks, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._tasks = tasks
        self._monotonic = monotonic
        self._latest: datetime | None = None
        self._look_at = self._again_at = 0.0

    def fire(self, connection: Connection) -> int:
        """Fire what is due; answers how many schedules were worked on."""
        began = self._monotonic()
        if began < min(self._look_at, self._again_at):
            self._look_at = self._again_at  # whoever asked may know of something new
            return 0
        self._look_at, self._again_at = began + IDLE_SECONDS, began + AGAIN_SECONDS
        found = connection.execute(_LOOK).fetchone()
        assert found is not None
        now, due = found["now"].astimezone(UTC), found["due"]
        if self._latest is None:
            _revive(connection, self._tasks)
        if self._latest is None or now < self._latest - SET_BACK:
            rearm(connection, now)
        self._latest = now
        is_due = due is not None and due <= now
        fired = fire_due(connection, self._tasks, now) if is_due else 0
        if found["waiting"]:
            fired += make_way(self._database, connection, self._tasks) + release(connection, self._tasks, now)
        if fired:
            self._look_at = 0.0
        elif is_due:  # somebody changes it at this moment
            self._look_at = self._again_at
        elif due is not None:
            self._look_at = min(self._look_at, self._monotonic() + (due - now).total_seconds())
        return fired

    @property
    def wait(self) -> float:
        """Seconds until there may be something to fire."""
        return max(0.0005, self._look_at - self._monotonic())


_LOOK = """
SELECT clock_timestamp() AS now, (SELECT min(next_at) FROM schedule WHERE state = 'active') AS due,
       EXISTS (SELECT 1 FROM schedule WHERE waiting > 0) AS waiting"""


@dataclass
class _Deeds:
    """What a transaction is to write."""

    slots: list[Row] = field(default_factory=list)
    jobs: dict[UUID, Row] = field(default_factory=dict)
    """By the slots' ids."""
    schedules: list[Row] = field(default_factory=list)
    replaced: list[UUID] = field(default_factory=list)
    """Schedules whose waiting slots are given up for a newer one."""

    def __iadd__(self, other: "_Deeds") -> "_Deeds":
        self.slots += other.slots
        self.jobs |= other.jobs
        self.schedules += other.schedules
        self.replaced += other.replaced
        return self


def fire_due(connection: Connection, tasks: Tasks, now: datetime, limit: int = SCHEDULES_A_ROUND) -> int:
    """Decide about the slots of schedules that are due at `now`; answers how many schedules that were."""
    found: list[UUID] = []
    try:
        with connection.transaction():
            rows = [in_utc(row) for row in connection.execute(_DUE, {"now": now, "limit": limit})]
            found = [row["id"] for row in rows]
            return _decide_all(connection, tasks, rows, now)
    except Exception as error:
        if is_outage(error) or not found:
            raise
        log.exception("schedules are fired one by one", schedules=len(found))
        for id in found:  # one that cannot be written down must not hold up the others
            _fire_alone(connection, tasks, id, now)
    return len(found)


def _fire_alone(connection: Connection, tasks: Tasks, id: UUID, now: datetime) -> None:
    try:
        with connection.transaction():
            rows = connection.execute(_DUE_ONE, {"now": now, "id": id}).fetchall()
            _decide_all(connection, tasks, [in_utc(row) for row in rows], now)
    except Exception as error:
        if is_outage(error):
            raise
        _disable(connection, id, error)


_DUE = """
SELECT * FROM schedule WHERE state = 'active' AND next_at <= %(now)s
ORDER BY next_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED"""

_DUE_ONE = "SELECT * FROM schedule WHERE id = %(id)s AND state = 'active' AND next_at <= %(now)s FOR UPDATE SKIP LOCKED"


def _decide_all(connection: Connection, tasks: Tasks, rows: list[Row], now: datetime) -> int:
    """Answers how many there was time for; the others are due as before."""
    unfinished = _unfinished(connection, [row["id"] for row in rows if row["overlap"] != "allow"])
    deeds, decided, end = _Deeds(), 0, time.monotonic() + ROUND_SECONDS
    for row in rows:
        if decided and time.monotonic() > end:
            break
        decided += 1
        try:
            deeds += _decide(connection, row, tasks, unfinished[row["id"]], now)
        except Exception as error:  # whatever is wrong with the row: the others are not its affair
            _disable(connection, row["id"], error)
    _write(connection, deeds, now)
    return decided


def _unfinished(connection: Statements, schedules: list[UUID]) -> dict[UUID, list[UUID]]:
    """The jobs of each schedule that wait or run, whoever put them there."""
    found: dict[UUID, list[UUID]] = defaultdict(list)
    if schedules:
        for row in connection.execute(
            """SELECT cause_id, id FROM job
               WHERE cause = 'schedule' AND state IN ('queued', 'running') AND cause_id = ANY(%s)""",
            (schedules,),
        ):
            found[row["cause_id"]].append(row["id"])
    return found


def _decide(connection: Statements, row: Row, tasks: Tasks, unfinished: list[UUID], now: datetime) -> _Deeds:
    plan = plan_of(row)
    found = look(plan, Slot(row["next_slot"], row["next_slot"]), now)
    turn = _Turn(row, requests.read(tasks, row["kind"], row["args"]), plan, unfinished, now)
    reason = {"code": "schedule.missed", "detail": _MISSED[row["misfire"]]}
    for missed in _missed(connection, row["id"], plan, found.missed):
        turn.deeds.slots.append(missed_row(row["id"], missed, now, reason))
    for slot in found.fire:
        turn.take(slot, is_last=slot is found.fire[-1])
    state = "active" if found.next is not None else "ended"
    turn.deeds.schedules.append({"id": row["id"], "state": state, **place(plan, found.next, now)})
    return turn.deeds


def _missed(connection: Statements, schedule: UUID, plan: Plan, missed: Missed | None) -> list[Missed]:
    """What was passed over, without the slots that were fired while the clock was ahead."""
    if missed is None:
        return []
    end = ids.floor(missed.last + timedelta(milliseconds=1))
    decided = connection.execute(_DECIDED, (schedule, ids.floor(missed.first), end)).fetchall()
    return undecided(plan, missed, [in_utc(row)["at"] for row in decided])


_DECIDED = """
SELECT at FROM slot WHERE schedule = %s AND id >= %s AND id < %s AND outcome IN ('fired', 'waiting') ORDER BY id"""

_MISSED = {
    "skip": "Nobody fired it in time, and its schedule makes up for nothing (misfire skip).",
    "once": "Nobody fired it in time, and a later fire stands for all that were missed (misfire once).",
    "all": "Nobody fired it in time, nor within the schedule's window (misfire all).",
}


class _Turn:
    """The slots of one schedule that fire now, one after the other, by its overlap policy."""

    def __init__(self, row: Row, args: JobArgs, plan: Plan, unfinished: list[UUID], now: datetime) -> None:
        self.deeds = _Deeds()
        self._row, self._args, self._plan, self._now = row, args, plan, now
        self._unfinished = list(unfinished)
        self._waiting = row["waiting"]

    def take(self, slot: Slot, *, is_last: bool) -> None:
        overlap = self._row["overlap"]
        if overlap == "cancel" and not is_last:
            self._skip(slot, "schedule.replaced", "A later fire took its place (overlap cancel).")
        elif overlap == "allow" or not (self._unfinished or self._waiting):
            self._fire(slot)
        elif overlap == "skip":
            self._skip(slot, "schedule.overlap", "An earlier job of the schedule was unfinished (overlap skip).")
        elif overlap == "cancel":
            self.deeds.replaced.append(self._row["id"])
            self._wait(slot)
        elif self._waiting < WAITING_SLOTS:
            self._wait(slot)
        else:
            self._skip(slot, "schedule.queue_full", f"{WAITING_SLOTS} fires were waiting already (overlap queue).")

    def _fire(self, slot: Slot) -> None:
        run = ids.draw()
        id = self._enter(slot, "fired", run=run)
        self.deeds.jobs[id] = fired_job(self._row, self._args, id, run)
        self._unfinished.append(id)

    def _wait(self, slot: Slot) -> None:
        self._waiting += 1
        self._enter(slot, "waiting", reason={"code": "schedule.overlap", "detail": "An earlier job is unfinished."})

    def _skip(self, slot: Slot, code: str, detail: str) -> None:
        jobs = [str(job) for job in self._unfinished[:10]]
        self._enter(slot, "skipped", reason={"code": code, "detail": detail, "jobs": jobs})

    def _enter(self, slot: Slot, outcome: str, **more: Any) -> UUID:
        id, due = job_id(self._row["id"], slot.at), self._plan.due(slot)
        self.deeds.slots.append(slot_row(self._row["id"], id, slot.at, due, outcome, self._now, **more))
        return id


def _write(connection: Connection, deeds: _Deeds, now: datetime) -> None:
    """In this order: who waits no more, who waits or fires now, and where the schedules stand then."""
    if deeds.replaced:
        connection.execute(_REPLACE, {"schedules": deeds.replaced, "now": now})
    added = write_slots(connection, deeds.slots)
    insert(connection, [job for id, job in deeds.jobs.items() if id in added])
    fired: dict[UUID, list[Row]] = defaultdict(list)
    for slot in deeds.slots:
        if slot["outcome"] == "fired" and slot["id"] in added:
            fired[slot["schedule"]].append(slot)
    for schedule in deeds.schedules:
        mine = fired[schedule["id"]]
        schedule |= {"more": len(mine), "last_slot": mine[-1]["at"] if mine else None,
                     "last_job": mine[-1]["id"] if mine else None}  # fmt: skip
    if deeds.schedules:
        connection.execute(_MOVE, (Jsonb(deeds.schedules, dumps=dumps),))


_REPLACE = """
UPDATE slot SET outcome = 'skipped', decided_at = %(now)s,
  reason = '{"code": "schedule.replaced", "detail": "A later fire took its place (overlap cancel)."}'
WHERE schedule = ANY(%(schedules)s) AND outcome = 'waiting'"""

_MOVE = """
UPDATE schedule SET state = moved.state, next_slot = moved.next_slot, next_at = moved.next_at,
  moved_at = moved.moved_at, fired = fired + moved.more, last_slot = coalesce(moved.last_slot, schedule.last_slot),
  last_job = coalesce(moved.last_job, schedule.last_job),
  waiting = CASE WHEN overlap IN ('queue', 'cancel') OR waiting > 0 THEN
    (SELECT count(*) FROM slot WHERE slot.schedule = schedule.id AND outcome = 'waiting') ELSE 0 END
FROM jsonb_to_recordset(%s) AS moved (id uuid, state text, next_slot timestamptz, next_at timestamptz,
  moved_at timestamptz, more integer, last_slot timestamptz, last_job uuid)
WHERE schedule.id = moved.id"""


def make_way(database: Database, connection: Connection, tasks: Tasks) -> int:
    """Call off the jobs that stand in the way of a newer fire (overlap `cancel`); answers how many.

    Not in the transaction in which that fire began to wait: what the end of a job means to its service is written in
    one of its own. Dying in between leaves it waiting, and the next look comes here, as it does for jobs that somebody
    holds now or that there is no time for. Between jobs PostgreSQL hears that the leader is alive.
    """
    moved, end = 0, time.monotonic() + ROUND_SECONDS
    for number, row in enumerate(connection.execute(_IN_THE_WAY).fetchall()):
        if number and time.monotonic() > end:
            break
        connection.execute("SELECT 1")
        call_off = cancelling(tasks, row["workspace"], f"its schedule {row['name']}, whose next fire takes its place")
        try:
            with database.transaction() as session:
                raw(session).execute("SET LOCAL lock_timeout = '50ms'")
                moved += len(call_off.make(session, [row["job"]], 0))
        except Exception as error:
            if is_outage(error) and not is_locked(error):
                raise
            log.warning("job not called off", job=str(row["job"]), reason=text_of(error)[:300])  # perhaps it just ends
    return moved


_IN_THE_WAY = """
SELECT schedule.name, schedule.workspace, job.id AS job FROM schedule JOIN job ON job.cause_id = schedule.id
WHERE waiting > 0 AND overlap = 'cancel' AND schedule.state IN ('active', 'ended')
  AND cause = 'schedule' AND job.state IN ('queued', 'running')
LIMIT 500 FOR NO KEY UPDATE OF job SKIP LOCKED"""
"""The locks are gone when it has answered: they only tell who holds none."""


def release(connection: Connection, tasks: Tasks, now: datetime, limit: int = SCHEDULES_A_ROUND) -> int:
    """Fire the oldest waiting slot of each schedule whose earlier jobs have ended; answers of how many."""
    released, end = 0, time.monotonic() + ROUND_SECONDS
    with connection.transaction():
        rows = [in_utc(row) for row in connection.execute(_WAITING, {"limit": limit})]
        # Asked anew under the lock: another leader may have fired since.
        unfinished = _unfinished(connection, [row["id"] for row in rows])
        for row in (row for row in rows if not unfinished[row["id"]]):
            if released and time.monotonic() > end:
                break
            released += 1
            try:
                with connection.transaction():
                    _release_one(connection, tasks, row, now)
            except Exception as error:
                if is_outage(error):
                    raise
                _disable(connection, row["id"], error)
    return released


def _release_one(connection: Connection, tasks: Tasks, row: Row, now: datetime) -> None:
    slot = connection.execute(
        "SELECT id, at FROM slot WHERE schedule = %s AND outcome = 'waiting' ORDER BY id LIMIT 1", (row["id"],)
    ).fetchone()
    if slot is not None:
        run = ids.draw()
        insert(connection, [fired_job(row, requests.read(tasks, row["kind"], row["args"]), slot["id"], run)])
        connection.execute(
            "UPDATE slot SET outcome = 'fired', reason = NULL, run = %s, decided_at = %s WHERE id = %s",
            (run, now, slot["id"]),
        )
    connection.execute(_RELEASED, {"id": row["id"], "slot": slot and slot["at"], "job": slot and slot["id"]})


_WAITING = """
SELECT * FROM schedule WHERE waiting > 0 AND state IN ('active', 'ended') AND NOT EXISTS (
  SELECT 1 FROM job WHERE cause = 'schedule' AND cause_id = schedule.id AND job.state IN ('queued', 'running'))
LIMIT %(limit)s FOR UPDATE SKIP LOCKED"""

_RELEASED = """
UPDATE schedule SET fired = fired + (%(job)s::uuid IS NOT NULL)::integer, last_slot = coalesce(%(slot)s, last_slot),
  last_job = coalesce(%(job)s, last_job),
  waiting = (SELECT count(*) FROM slot WHERE slot.schedule = schedule.id AND outcome = 'waiting')
WHERE id = %(id)s"""


def _disable(connection: Statements, id: UUID, error: Exception) -> None:
    """Fire the schedule no more, and say why, until somebody has seen to it."""
    if isinstance(error, MillraceError):
        reason = error.reason()
    else:
        reason = {
            "code": "schedule.broken",
            "detail": f"It could not be fired: {type(error).__name__}: {text_of(error)}",
        }
    log.error("schedule disabled", schedule=str(id), reason=reason)
    connection.execute(
        "UPDATE schedule SET state = 'broken', reason = %s WHERE id = %s", (Jsonb(storable(reason, 1000)), id)
    )


def _revive(connection: Statements, tasks: Tasks) -> None:
    """Schedules of kinds that an older release did not know go on from where they stood."""
    connection.execute(
        """UPDATE schedule SET state = 'active', reason = NULL
           WHERE state = 'broken' AND reason ->> 'code' = 'job.kind_unknown' AND kind = ANY(%s)""",
        (sorted(tasks.by_kind),),
    )


def rearm(connection: Connection, now: datetime) -> int:
    """After the clock was set back: schedules that stand ahead of it go back to the next slot; answers how many.

    Slots that fired while it was ahead stay fired and do not fire again. Those that were passed over as missed are not
    missed any more.
    """
    count = 0
    with connection.transaction():
        for row in map(in_utc, connection.execute(_AHEAD, {"now": now + SET_BACK}).fetchall()):
            try:
                plan = plan_of(row)
                slot = plan.after(now)
            except ValueError as error:
                _disable(connection, row["id"], error)
                continue
            if slot is not None and (row["next_slot"] is None or slot.at < row["next_slot"]):
                count += 1
                _unskip(connection, row["id"], plan, now)
                state = "paused" if row["state"] == "paused" else "active"
                _write(connection, _Deeds(schedules=[{"id": row["id"], "state": state, **place(plan, slot, now)}]), now)
    if count:
        log.warning("the clock was set back", schedules=count)
    return count


_AHEAD = "SELECT * FROM schedule WHERE state <> 'broken' AND moved_at > %(now)s FOR UPDATE SKIP LOCKED"


def _unskip(connection: Statements, schedule: UUID, plan: Plan, now: datetime) -> None:
    """Slots behind `now` were not passed over yet."""
    behind = (schedule, ids.floor(now), now)
    connection.execute("DELETE FROM slot WHERE schedule = %s AND id >= %s AND outcome = 'skipped' AND at > %s", behind)
    across = "SELECT id, at FROM slot WHERE schedule = %s AND outcome = 'skipped' AND at <= %s AND through > %s"
    for row in map(in_utc, connection.execute(across, (schedule, now, now)).fetchall()):
        last = plan.timetable.last(row["at"], now)
        connection.execute(
            "UPDATE slot SET through = %s, slots = %s WHERE id = %s", (last and last.at, None if last else 1, row["id"])
        )
