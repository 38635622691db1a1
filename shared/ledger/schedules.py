"""Schedules as rows of the service whose jobs they fire. The leading Beat fires them (shared/ledger/firing.py)."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from shared import ids, telemetry
from shared.db import Row, Statements
from shared.errors import Conflict, MillraceError, NotFound, Unprocessable
from shared.ledger import requests
from shared.ledger.enqueue import Origin, insert, job_row
from shared.ledger.messages import JobArgs, Lane
from shared.ledger.tasks import Tasks
from shared.ledger.values import storable
from shared.schedules.policies import Missed, Plan, pass_over
from shared.schedules.request import ScheduleRequest, times_of
from shared.schedules.timetable import Slot, Timetable, zone_of

dumps = partial(json.dumps, default=str)
"""Ids and times as PostgreSQL reads them."""
SCHEDULES_A_WORKSPACE = 20_000
"""In one service."""
PREVIEW_SLOTS = 100


class NameTaken(Conflict):
    code, title = "schedule.name_taken", "The name is taken"


class NeverFires(MillraceError):
    """No slot lies ahead."""

    code, status, title = "schedule.never", 422, "It would never fire"


class NotRunnable(Conflict):
    """The schedule's state does not allow it."""

    code, title = "schedule.state", "Not in this state"


class TooMany(Conflict):
    code, title = "schedule.too_many", "Too many schedules"


def plan_of(row: Row) -> Plan:
    """Raises ValueError when the row says what is no time."""
    times = times_of(zone_of(row["zone"]), row["cron"], row["every_seconds"], row["at"], row["anchor"])
    return Plan(
        Timetable(times, row["starts_at"], row["ends_at"]),
        timedelta(seconds=row["jitter_seconds"]),
        row["misfire"],
        timedelta(seconds=row["grace_seconds"]),
        timedelta(seconds=row["window_seconds"]),
        row["id"],
    )


def sound_plan(row: Row) -> Plan:
    """The same, for people. Raises NotRunnable."""
    try:
        return plan_of(row)
    except ValueError as error:
        raise NotRunnable(f"Its times cannot be read any more: {error}.", state=row["state"]) from error


def job_id(schedule: UUID, at: datetime) -> UUID:
    """The id of a slot and of its job: whoever fires it, however often, makes one."""
    return ids.derive(at, schedule, "slot")


def fired_job(row: Row, args: JobArgs, job: UUID, run: UUID) -> Row:
    """The row of a job that the schedule fires, at the beginning of a new run and a new trace."""
    because = Origin(row["workspace"], run, "schedule", row["id"])
    facts: dict[str, Any] = {"workspace": row["workspace"], "schedule_id": str(row["id"]), "job_id": str(job)}
    with telemetry.detached(), telemetry.span(f"schedule {row['kind']}", **facts):
        return in_lane(row, job_row(args, because, job))


def in_lane(schedule: Row, job: Row) -> Row:
    """The job in the lane that the schedule says."""
    return job if schedule["lane"] is None else job | {"priority": int(Lane.named(schedule["lane"]))}


# Made and changed by people. All of these run in the caller's transaction.


def create(connection: Statements, tasks: Tasks, workspace: UUID, wanted: ScheduleRequest) -> Row:
    """Make a schedule; answers its row. Raises KindUnknown, KindPrivate, ArgumentsInvalid, NeverFires, NameTaken,
    TooMany, Unprocessable."""
    _check_count(connection, workspace)
    now = clock(connection)
    id = ids.draw()
    row = {**_columns(tasks, wanted, now), "id": id, "workspace": workspace, "created_at": now}
    plan = plan_of(row)
    row |= place(plan, _first(plan, now - timedelta(microseconds=1)), now)
    try:
        _insert(connection, row)
    except psycopg.errors.UniqueViolation as error:
        raise NameTaken(f"There is a schedule named {wanted.name!r} already.", name=wanted.name) from error
    return show(connection, workspace, id)


def replace(connection: Statements, tasks: Tasks, workspace: UUID, id: UUID, wanted: ScheduleRequest) -> Row:
    """Give the schedule a new definition. A paused one stays paused; one that had ended or was broken goes on. Its
    next slot stays what it was while its times are the same. Raises as `create`, and NotFound."""
    row = _lock(connection, workspace, id)
    now = clock(connection)
    changed = _columns(tasks, wanted, now)
    if changed["every_seconds"] == row["every_seconds"] and changed["starts_at"] == row["starts_at"]:
        changed["anchor"] = row["anchor"]
    same = all(changed[name] == row[name] for name in _TIMING) and row["state"] in ("active", "paused")
    state = "paused" if row["state"] == "paused" else "active"
    row |= changed | {"state": state}
    plan = plan_of(row)
    row |= place(plan, Slot(row["next_slot"], row["next_slot"]) if same else _first(plan, now), now)
    try:
        _save(connection, row)
    except psycopg.errors.UniqueViolation as error:
        raise NameTaken(f"There is a schedule named {wanted.name!r} already.", name=wanted.name) from error
    return row


def pause(connection: Statements, workspace: UUID, id: UUID) -> Row:
    """Fire nothing until it is resumed; also what waits for an earlier job stays where it is. Idempotent."""
    row = _lock(connection, workspace, id)
    if row["state"] in ("ended", "broken"):
        raise NotRunnable(f"The schedule is {row['state']}: there is nothing to pause.", state=row["state"])
    row |= {"state": "paused", "updated_at": clock(connection)}
    _save(connection, row)
    return row


def resume(connection: Statements, workspace: UUID, id: UUID) -> Row:
    """Fire again, from the next slot on; those that came meanwhile are skipped, and the history says so. One that was
    broken is tried again. Idempotent. Raises NotFound, and NotRunnable for one that has ended."""
    row = _lock(connection, workspace, id)
    if row["state"] == "ended":
        raise NotRunnable("The schedule has ended: no fire lies ahead.", state="ended")
    if row["state"] == "active":
        return row
    now, plan, was = clock(connection), sound_plan(row), row["state"]
    stood = Slot(row["next_slot"], row["next_slot"])
    slot: Slot | None = stood
    if plan.due(stood) <= now:
        missed, slot = pass_over(plan, stood, now)
        reason = {"code": f"schedule.{was}", "detail": f"The schedule was {was} at that time."}
        write_slots(connection, [missed_row(row["id"], missed, now, reason)])
    row |= {"state": "active" if slot else "ended", "reason": None, "updated_at": now}
    row |= place(plan, slot, now)
    _save(connection, row)
    return row


def run_now(connection: Statements, tasks: Tasks, workspace: UUID, id: UUID, job: UUID, run: UUID) -> None:
    """Fire the job in its run and the request's trace, at once, whatever the schedule's state and overlap policy; its
    slots stay as they are. Raises NotFound, KindUnknown, KindPrivate, ArgumentsInvalid."""
    row, now = _lock(connection, workspace, id), clock(connection)
    args = requests.read(tasks, row["kind"], row["args"])
    reason = {"code": "schedule.run_now", "detail": "Somebody asked for it, besides its times."}
    write_slots(connection, [slot_row(id, job, now, now, "fired", now, run=run, reason=reason)])
    insert(connection, [in_lane(row, job_row(args, Origin(workspace, run, "schedule", id), job))])
    connection.execute(
        "UPDATE schedule SET fired = fired + 1, last_slot = %s, last_job = %s WHERE id = %s", (now, job, id)
    )


def delete(connection: Statements, workspace: UUID, id: UUID) -> None:
    """Delete a schedule and what waits in it. Jobs that it has fired go on; its history ages out with theirs."""
    _lock(connection, workspace, id)
    connection.execute("DELETE FROM slot WHERE schedule = %s AND outcome = 'waiting'", (id,))
    connection.execute("DELETE FROM schedule WHERE id = %s", (id,))


# Read


def show(connection: Statements, workspace: UUID, id: UUID) -> Row:
    """Raises NotFound, also for another workspace's."""
    row = connection.execute("SELECT * FROM schedule WHERE id = %s AND workspace = %s", (id, workspace)).fetchone()
    if row is None:
        raise NotFound("There is no such schedule.", id=str(id))
    return in_utc(row)


def list_schedules(
    connection: Statements,
    workspace: UUID,
    *,
    state: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> tuple[list[Row], UUID | None]:
    """A page of schedules, newest first, and the `next` cursor or None."""
    rows = connection.execute(
        """SELECT * FROM schedule WHERE workspace = %(workspace)s AND (%(state)s::text IS NULL OR state = %(state)s)
             AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND (%(name)s::text IS NULL OR name = %(name)s)
             AND (%(after)s::uuid IS NULL OR id < %(after)s)
           ORDER BY id DESC LIMIT %(limit)s""",
        {"workspace": workspace, "state": state, "kind": kind, "name": name, "after": after, "limit": limit + 1},
    ).fetchall()
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None


def history(
    connection: Statements,
    workspace: UUID,
    id: UUID,
    *,
    outcome: str | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> tuple[list[Row], UUID | None]:
    """A page of what became of its slots, newest first, and the `next` cursor or None. Raises NotFound."""
    show(connection, workspace, id)
    rows = connection.execute(
        """SELECT * FROM slot WHERE schedule = %(id)s AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
             AND (%(after)s::uuid IS NULL OR id < %(after)s) ORDER BY id DESC LIMIT %(limit)s""",
        {"id": id, "outcome": outcome, "after": after, "limit": limit + 1},
    ).fetchall()
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None


def counts(connection: Statements) -> list[Row]:
    """By `state`: `schedules`, and of active ones `overdue` (seconds since the first of them was to fire)."""
    return connection.execute(
        """SELECT state, count(*) AS schedules,
                  extract(epoch FROM now() - min(next_at) FILTER (WHERE state = 'active'))::float AS overdue
           FROM schedule GROUP BY state"""
    ).fetchall()


def in_utc(row: Row) -> Row:
    """Instants as UTC, in which alone they may be added to: psycopg gives them in the session's zone."""
    return {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}


def preview(timetable: Timetable, after: datetime, count: int) -> list[Slot]:
    """The next slots later than `after`, at most `count`."""
    found: list[Slot] = []
    while len(found) < count and (slot := timetable.after(found[-1].at if found else after)) is not None:
        found.append(slot)
    return found


def clock(connection: Statements) -> datetime:
    """PostgreSQL's: schedules are due by it alone, whatever machine looks at them."""
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert row is not None
    found: datetime = row["now"]
    return found.astimezone(UTC)


# Rows

_TIMING = ("cron", "every_seconds", "at", "zone", "starts_at", "ends_at", "anchor")
_SAVED = (
    *("name", "kind", "args", *_TIMING, "jitter_seconds", "misfire", "grace_seconds", "window_seconds"),
    *("overlap", "lane", "state", "reason", "next_slot", "next_at", "moved_at", "updated_at"),
)


def _columns(tasks: Tasks, wanted: ScheduleRequest, now: datetime) -> Row:
    args = requests.read(tasks, wanted.kind, wanted.args).model_dump(mode="json", exclude_unset=True)
    if storable(args) != args or storable(wanted.name) != wanted.name:
        raise Unprocessable("A NUL character or half a character cannot be stored.")
    start = wanted.instant("start")
    taken = ("name", "kind", "cron", "every_seconds", "zone", "jitter_seconds", "misfire", "grace_seconds",
             "window_seconds", "overlap", "lane")  # fmt: skip
    return {
        **{name: getattr(wanted, name) for name in taken},
        "args": args,
        "at": wanted.instant("at"),
        "starts_at": start,
        "ends_at": wanted.instant("end"),
        "anchor": start or now,
        "state": "active",
        "reason": None,
        "updated_at": now,
    }


def _first(plan: Plan, after: datetime) -> Slot:
    """Raises NeverFires."""
    slot = plan.after(after)
    if slot is None:
        raise NeverFires("No fire lies ahead: its times are over.")
    return slot


def place(plan: Plan, slot: Slot | None, now: datetime) -> Row:
    """The columns that say where the schedule stands: before `slot`, or at its end."""
    due = slot and plan.due(slot)
    return {"next_slot": slot and slot.at, "next_at": due, "moved_at": now}


def missed_row(schedule: UUID, missed: Missed, now: datetime, reason: dict[str, Any]) -> Row:
    """The history's row of slots that were passed over."""
    id, single = job_id(schedule, missed.first), missed.first == missed.last
    row = slot_row(schedule, id, missed.first, missed.first, "skipped", now, reason=reason)
    return row | {"through": None if single else missed.last, "slots": missed.slots}


def slot_row(
    schedule: UUID,
    id: UUID,
    at: datetime,
    due_at: datetime,
    outcome: str,
    now: datetime,
    *,
    run: UUID | None = None,
    reason: dict[str, Any] | None = None,
) -> Row:
    return {
        "id": id,
        "schedule": schedule,
        "at": at,
        "through": None,
        "slots": 1,
        "due_at": due_at,
        "outcome": outcome,
        "run": run,
        "reason": reason,
        "decided_at": now,
    }


def write_slots(connection: Statements, rows: list[Row]) -> set[UUID]:
    """Enter slots; answers the ids of those that nothing was decided about before."""
    if not rows:
        return set()
    added = connection.execute(
        """INSERT INTO slot SELECT * FROM jsonb_to_recordset(%s) AS decided (
             id uuid, schedule uuid, at timestamptz, through timestamptz, slots integer, due_at timestamptz,
             outcome text, run uuid, reason jsonb, decided_at timestamptz)
           ON CONFLICT (id) DO NOTHING RETURNING id""",
        (Jsonb(rows, dumps=dumps),),
    ).fetchall()
    return {row["id"] for row in added}


def _insert(connection: Statements, row: Row) -> None:
    names = [*_SAVED, "id", "workspace", "created_at"]
    connection.execute(
        f"INSERT INTO schedule ({', '.join(names)}) VALUES ({', '.join(f'%({name})s' for name in names)})",  # noqa: S608
        _storable(row),
    )


def _save(connection: Statements, row: Row) -> None:
    columns = ", ".join(f"{name} = %({name})s" for name in _SAVED)
    connection.execute(f"UPDATE schedule SET {columns} WHERE id = %(id)s", _storable(row))  # noqa: S608


def _storable(row: Row) -> Row:
    return {**row, "args": Jsonb(row["args"]), "reason": row["reason"] and Jsonb(row["reason"])}


def _lock(connection: Statements, workspace: UUID, id: UUID) -> Row:
    """Its row, which the leading Beat passes over until the transaction ends. Raises NotFound."""
    row = connection.execute(
        "SELECT * FROM schedule WHERE id = %s AND workspace = %s FOR UPDATE", (id, workspace)
    ).fetchone()
    if row is None:
        raise NotFound("There is no such schedule.", id=str(id))
    return in_utc(row)


def _check_count(connection: Statements, workspace: UUID) -> None:
    row = connection.execute("SELECT count(*) AS number FROM schedule WHERE workspace = %s", (workspace,)).fetchone()
    if row is not None and row["number"] >= SCHEDULES_A_WORKSPACE:
        raise TooMany(f"A workspace has at most {SCHEDULES_A_WORKSPACE:,} schedules in a service.")
