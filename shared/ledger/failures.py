"""From an exception, a crash or a deadline to the job's next state, with the reason kept."""

import traceback
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID

import structlog
from sqlmodel import Session

from shared.db import Database, is_away, is_outage, raw
from shared.errors import LeaseLost, MillraceError, RetryLater, Snooze, Unavailable
from shared.ledger import moves
from shared.ledger.enqueue import Origin
from shared.ledger.messages import Retry
from shared.ledger.tasks import Task, Tasks
from shared.ledger.values import storable, text_of

log = structlog.get_logger(__name__)

TRACEBACK_CHARACTERS = 8_000
DETAIL_CHARACTERS = 2_000
AWAY = "database.away"
ABSENCES = 5
"""So many attempts in a row that PostgreSQL's absence ended do not count; more do: every job comes to an end."""
LOCK_SECONDS = 0.2
"""Whoever takes a job back waits so long for its row: a frozen worker may hold it. The next round comes soon."""
LONGEST_SECONDS = 24 * 3600.0
"""A job waits for its next try at most so long, whatever Retry-After says."""


@dataclass(frozen=True)
class Held:
    """A job that somebody must decide about: the facts that a decision needs."""

    id: UUID
    kind: str
    attempt: int
    crashes: int
    max_attempts: int
    workspace: UUID
    run: UUID
    args: dict[str, Any]

    @property
    def origin(self) -> Origin:
        return Origin(self.workspace, self.run, "job", self.id)


def describe(error: BaseException) -> dict[str, Any]:
    """The reason of a failed attempt: code, detail, facts, and the traceback for the attempt's record.

    Whatever the exception and its facts are, this answers something that can be stored.
    """
    if isinstance(error, MillraceError):
        reason = error.reason()
    elif isinstance(error, RetryLater):
        reason = {"code": error.code, "detail": error.detail}
    else:
        reason = {"code": AWAY if is_away(error) else "attempt.error", "detail": _text(error)}
    lines = "".join(traceback.format_tb(error.__traceback__))[-TRACEBACK_CHARACTERS:]
    described: dict[str, Any] = storable(
        {**reason, "type": type(error).__name__, "traceback": lines}, TRACEBACK_CHARACTERS
    )
    return described


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}"[:DETAIL_CHARACTERS]


def settle(database: Database, task: Task | None, job: moves.Claimed, error: BaseException) -> str:
    """Record a failed attempt: try again later, or fail for good. Answers `retried`, `snoozed`, `failed` or `lost`.

    An attempt that PostgreSQL's absence ended is not counted: it says nothing about the job, unless it happens
    more than ABSENCES times in a row.
    """
    if isinstance(error, LeaseLost):
        return "lost"
    if isinstance(error, Snooze):
        asked = {"code": "attempt.snoozed", "detail": text_of(error.detail)[:DETAIL_CHARACTERS]}
        return _snooze(database, job, asked, error.after)
    reason = describe(error)
    absences = _absences(database, job) if is_away(error) else 0
    if is_away(error) and absences < ABSENCES:
        return _snooze(database, job, reason, _back_off(task, job, absences))
    permanent = isinstance(error, MillraceError) and not isinstance(error, Unavailable)
    if permanent or job.attempt - job.crashes >= job.max_attempts:
        reason = {**reason, "attempts": job.attempt}
        held = Held(job.id, job.kind, job.attempt, job.crashes, job.max_attempts, job.workspace, job.run, job.args)
        return "failed" if fail(database, task, held, reason) else "lost"
    named = error.after if isinstance(error, RetryLater) else None
    after = _back_off(task, job, absences) if named is None else _within_reason(named)
    with database.transaction() as session:
        held_still = moves.retry(raw(session), job.id, job.attempt, reason, after)
        session.info["wake"] = True
    return "retried" if held_still else "lost"


def _absences(database: Database, job: moves.Claimed) -> int:
    """How many attempts just before this one PostgreSQL's absence ended, in a row; ABSENCES for as many or more."""
    with database.transaction() as session:
        found = raw(session).execute(
            """SELECT outcome IN ('snoozed', 'retried') AND error->>'code' = %s AS away FROM attempt
               WHERE job = %s AND number < %s ORDER BY number DESC LIMIT %s""",
            (AWAY, job.id, job.attempt, ABSENCES),
        )
        rows = found.fetchall()
    return len(list(takewhile(lambda row: row["away"], rows)))


def _snooze(database: Database, job: moves.Claimed, reason: dict[str, Any], after: float) -> str:
    with database.transaction() as session:
        held_still = moves.snooze(raw(session), job.id, job.attempt, reason, _within_reason(after))
        session.info["wake"] = True
    return "snoozed" if held_still else "lost"


def _back_off(task: Task | None, job: moves.Claimed | Held, absences: int = 0) -> float:
    """Seconds to the next try. Crashes and snoozes are no tries, but it grows with `absences` in a row."""
    policy = task.args.retry if task is not None else Retry()
    left = job.max_attempts - (job.attempt - job.crashes)
    return policy.delay(max(1, policy.max_attempts - left) + absences)


def _within_reason(after: float) -> float:
    """The other side may name any time, also none at all (NaN)."""
    return min(after, LONGEST_SECONDS) if after > 0 else 0.0


def fail(
    database: Database,
    task: Task | None,
    job: Held,
    reason: dict[str, Any],
    *,
    queued: bool = False,
    crashed: bool = False,
    lock_seconds: float = 0.0,
) -> bool:
    """Fail a running (or `queued`) job for good, with what its failure means to the service, in one transaction.
    A lock that is not had within `lock_seconds` (0: no limit) leaves the job as it is, and raises.

    A failure hook that fails itself must not leave the job without an end: it is left out, and said.
    """
    try:
        return _fail(database, task, job, reason, queued, crashed, lock_seconds)
    except Exception as error:
        if task is None or task.on_failed is None or not isinstance(error, HookFailed):
            raise
        log.error(
            "failure hook failed", job=str(job.id), kind=job.kind, reason=describe(error.__cause__ or error)["detail"]
        )
        said = {**reason, "hook": _text(error.__cause__ or error)}
        return _fail(database, None, job, said, queued, crashed, lock_seconds)


class HookFailed(Exception):
    """A service's failure hook raised; its cause says what."""


def _fail(
    database: Database,
    task: Task | None,
    job: Held,
    reason: dict[str, Any],
    queued: bool,
    crashed: bool,
    lock_seconds: float,
) -> bool:
    with database.transaction(lock_seconds=lock_seconds, origin=job.origin) as session:
        connection = raw(session)
        if queued:
            moved = moves.give_up(connection, job.id, job.attempt, reason)
        else:
            moved = moves.fail(connection, job.id, job.attempt, reason, crashed=crashed)
        if moved and task is not None and task.on_failed is not None:
            call_hook(session, task, job, reason)
        session.info["wake"] = True  # it may have been the last of its step
    return moved


def call_hook(session: Session, task: Task, job: Held, reason: dict[str, Any]) -> None:
    """What the job's failure means to the service. Raises HookFailed."""
    assert task.on_failed is not None
    shown = {key: value for key, value in reason.items() if key not in ("traceback", "type")}
    try:
        task.on_failed(session, task.args.model_validate(job.args), shown)
        session.flush()
    except Exception as error:
        if is_outage(error):
            raise
        raise HookFailed from error


def take_back(
    database: Database, tasks: Tasks, job: Held, reason: dict[str, Any], max_crashes: int, *, crashed: bool = True
) -> None:
    """A running job that nobody runs any more. It is tried again until its attempts are used up, or, when
    its worker `crashed` with it, until it has done so `max_crashes` times: then it is quarantined.
    Raises what `is_locked` knows when somebody holds the job's row."""
    task = tasks.by_kind.get(job.kind)
    if crashed and job.crashes + 1 >= max_crashes:
        detail = f"Its worker died {job.crashes + 1} times while running it. Last: {reason['detail']}"
        quarantined = {"code": "job.quarantined", "detail": detail}
        fail(database, task, job, quarantined, crashed=True, lock_seconds=LOCK_SECONDS)
    elif not crashed and job.attempt - job.crashes >= job.max_attempts:
        fail(database, task, job, {**reason, "attempts": job.attempt}, lock_seconds=LOCK_SECONDS)
    else:
        after = 0.0 if crashed else _back_off(task, job)
        with database.transaction(lock_seconds=LOCK_SECONDS) as session:
            moves.release(raw(session), job.id, job.attempt, reason, after, crashed=crashed)
            session.info["wake"] = True
