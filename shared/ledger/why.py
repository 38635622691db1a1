"""What a job waits for, or why it ended as it did: facts of the ledger, and what they say in plain words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Row, Statements
from shared.errors import NotFound
from shared.ledger import outages
from shared.ledger.batches import CLOSED_AT
from shared.ledger.limits import TOKENS, counted_by
from shared.ledger.messages import Lane

MOST_COUNTED = 1000
"""Further jobs that go before one are not counted."""
MOST_NAMED = 20
"""So many jobs that hold a limit, or have their batch wait, are named."""


@dataclass(frozen=True)
class Reason:
    """One thing that a job waits for, or how it ended: `code` for programs, `detail` for people."""

    code: str
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RuleFacts:
    """A rule that the job falls under."""

    key: str
    concurrency: int | None = None
    per_second: float | None = None
    tokens: float | None = None
    """In its bucket; None: it is full."""
    paused_at: datetime | None = None
    paused_by: str | None = None
    holders: Sequence[UUID] = ()
    """Running jobs that count against it, those of the job's workspace."""
    others: int = 0
    """Those of other workspaces, whose ids are their own affair."""

    @property
    def running(self) -> int:
        return len(self.holders) + self.others


@dataclass(frozen=True)
class Facts:
    """All that is known about why a job is not running, or no longer."""

    job: Row
    now: datetime
    service: str
    rules: Sequence[RuleFacts] = ()
    workers: int = 1
    """Alive, not drained, and taking the job's queue."""
    led: bool = True
    """Whether a Beat dispatches the service's jobs."""
    outage: Row | None = None
    """Of the broker: `since`, `detail`."""
    before: int = 0
    """Due jobs that go before it, at most MOST_COUNTED + 1."""
    busy: int = 0
    """Running jobs of its queue."""
    worker: Row | None = None
    """Of a running job: `name`, `lease_until`."""
    batch: Row | None = None
    """That of a job whose step is not open, or the one that it goes on after (`awaited`): `id`, `name`, `step`,
    `unfinished` jobs of that, the first of them as `named`."""


def explain(facts: Facts) -> list[Reason]:
    """What the job waits for, the weightiest first; of one that runs or has ended, how it stands."""
    state = facts.job["state"]
    if state == "queued":
        return list(_waits(facts)) or [_about_to_start(facts)]
    return [_running(facts) if state == "running" else _ended(facts.job)]


def _waits(facts: Facts) -> Iterator[Reason]:
    yield from _times(facts)
    for rule in facts.rules:
        yield from _limits(rule, facts.now)
    if not facts.led:
        yield Reason("wait.no_beat", f"No Beat of {facts.service} leads: nobody gives its jobs to the workers.")
    elif facts.outage is not None:
        since, error = facts.outage["since"], facts.outage["detail"]
        yield Reason("wait.broker", f"The broker is unreachable since {_at(since)} ({error}).", {"since": since})
    if not facts.workers:
        yield Reason("wait.no_worker", f"No worker that takes {facts.job['queue']} is alive, or all are drained.")
    if facts.before and facts.job["not_before"] <= facts.now:
        many = f"{facts.before}" if facts.before <= MOST_COUNTED else f"more than {MOST_COUNTED}"
        turn = f"Up to {many} due jobs of its queue go before it: higher lanes, and the workspaces in turn."
        yield Reason("wait.turn", turn, {"before": facts.before})


def _times(facts: Facts) -> Iterator[Reason]:
    job = facts.job
    if job["deadline"] is not None and job["deadline"] <= facts.now:
        yield Reason("wait.deadline", f"Its deadline, {_at(job['deadline'])}, has passed: it is about to be failed.")
    elif not job["attempt"] and job["start_by"] is not None and job["start_by"] <= facts.now:
        said = f"It was to be started by {_at(job['start_by'])}, and was not: it is about to be failed."
        yield Reason("wait.start_by", said)
    elif facts.batch is not None:
        yield _step(job, facts.batch)
    elif job["not_before"] > facts.now:
        due = job["not_before"]
        if job["error"] is None:
            yield Reason("wait.time", f"It is not due before {_at(due)}.", {"until": due})
        else:
            tried = f"Attempt {job['attempt']} ended with {job['error']['code']}: {job['error']['detail']}"
            said = f"{tried} It is tried again at {_at(due)}."
            yield Reason("wait.retry", said, {"until": due, "attempt": job["attempt"]})


def _step(job: Row, batch: Row) -> Reason:
    name = f" {batch['name']}" if batch["name"] else ""
    if batch["awaited"]:
        said = f"It goes on when the batch{name or ' that it owed'} has ended, of which step {batch['step']} is open"
    else:
        said = f"It is of step {job['step']} of its batch{name}. Step {batch['step']} is open"
    if batch["unfinished"]:
        said += f", and {batch['unfinished']} of its jobs have not ended."
    else:
        said += ", and its jobs have ended: the batch is about to go on."
    others = batch["unfinished"] - len(batch["named"])
    facts = {"batch": batch["id"], "step": batch["step"], "jobs": batch["named"], "others": others}
    return Reason("wait.batch", said, facts)


def _limits(rule: RuleFacts, now: datetime) -> Iterator[Reason]:
    if rule.paused_at is not None:
        said = f"{rule.key} is paused since {_at(rule.paused_at)}, by {rule.paused_by}."
        yield Reason("wait.paused", said, {"key": rule.key, "since": rule.paused_at, "by": rule.paused_by})
    if rule.concurrency is not None and rule.running >= rule.concurrency:
        said = f"At most {rule.concurrency} jobs of {rule.key} run at once, and {rule.running} do."
        named = {"jobs": list(rule.holders[:MOST_NAMED]), "others": rule.running - len(rule.holders[:MOST_NAMED])}
        yield Reason("wait.limit", said, {"key": rule.key, **named})
    if rule.per_second is not None and rule.tokens is not None and rule.tokens < 1:
        until = now + timedelta(seconds=(1 - rule.tokens) / rule.per_second)
        said = f"At most {rule.per_second:g} jobs of {rule.key} begin a second: the next may at {_at(until)}."
        yield Reason("wait.rate", said, {"key": rule.key, "until": until})


def _about_to_start(facts: Facts) -> Reason:
    if not facts.busy:
        return Reason("wait.nothing", "Nothing: it is about to start.")
    said = f"Nothing holds it back: it starts as soon as a worker has a place, while {facts.busy} of its queue run."
    return Reason("wait.nothing", said)


def _running(facts: Facts) -> Reason:
    job, worker = facts.job, facts.worker
    if worker is None or worker["lease_until"] < facts.now:
        name = worker["name"] if worker is not None else job["worker"]
        said = f"Its worker {name} has not renewed its lease: the job is about to be taken back and tried again."
        return Reason("job.lease_lost", said, {"since": worker and worker["lease_until"]})
    said = f"Attempt {job['attempt']} runs since {_at(job['started_at'])} on {worker['name']}."
    return Reason("job.running", said, {"since": job["started_at"], "attempt": job["attempt"]})


def _ended(job: Row) -> Reason:
    at, facts = _at(job["finished_at"]), {"since": job["finished_at"], "attempt": job["attempt"]}
    if job["state"] == "succeeded":
        return Reason("job.succeeded", f"It succeeded at {at}, in attempt {job['attempt']}.", facts)
    error = job["error"] or {"code": f"job.{job['state']}", "detail": "No reason was kept."}
    tried = f"after {job['attempt']} of {job['max_attempts']} attempts"
    said = f"It {'was ' if job['state'] == 'cancelled' else ''}{job['state']} at {at} {tried}"
    return Reason(error["code"], f"{said}: {error['detail']}", facts)


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


# The facts


def gather(connection: Statements, service: str, workspace: UUID, id: UUID) -> Facts:
    """All in one snapshot. Raises NotFound, also for another workspace's."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    job = connection.execute("SELECT * FROM job WHERE id = %s AND workspace = %s", (id, workspace)).fetchone()
    if job is None:
        raise NotFound("There is no such job.", id=str(id))
    [here] = connection.execute(_HERE, {"worker": job["worker"], "queue": job["queue"]}).fetchall()
    if job["state"] != "queued":
        worker = {"name": here["name"], "lease_until": here["lease_until"]} if here["name"] is not None else None
        return Facts(job, here["now"], service, worker=worker)
    running = connection.execute(_RUNNING).fetchall()
    return Facts(
        job,
        here["now"],
        service,
        rules=_rules(connection, job, running),
        workers=here["workers"],
        led=here["led"],
        outage=outages.find(connection, "broker"),
        before=_before(connection, job),
        busy=sum(row["queue"] == job["queue"] for row in running),
        batch=_batch(connection, job),
    )


def _batch(connection: Statements, job: Row) -> Row | None:
    if job["not_before"] < CLOSED_AT:
        return None
    return connection.execute(_BATCH, {"batch": job["batch"], "job": job["id"], "most": MOST_NAMED}).fetchone()


def _rules(connection: Statements, job: Row, running: list[Row]) -> list[RuleFacts]:
    keys = counted_by(job)
    rows = connection.execute(_RULES, {"keys": list(keys), "buckets": list(keys.values())}).fetchall()
    found = []
    for row in rows:
        counted = [each for each in running if counted_by(each).get(row["key"]) == keys[row["key"]]]
        own = sorted(each["id"] for each in counted if each["workspace"] == job["workspace"])
        found.append(RuleFacts(**row, holders=own, others=len(counted) - len(own)))
    return found


def _before(connection: Statements, job: Row) -> int:
    """Due jobs of higher lanes, those of its workspace that are due longer, and as many of each other workspace."""
    values = {name: job[name] for name in ("queue", "workspace", "not_before", "id")}
    values |= {"lane": job["priority"], "most": MOST_COUNTED + 1}
    higher = [int(lane) for lane in Lane if lane < job["priority"]]
    [counted] = connection.execute(_OWN_TURN, {**values, "higher": higher}).fetchall()
    before: int = counted["higher"] + counted["own"]
    if before <= MOST_COUNTED:
        [others] = connection.execute(_OTHERS, {**values, "turns": counted["own"] + 1}).fetchall()
        before += others["jobs"]
    return min(before, MOST_COUNTED + 1)


_HERE = """
SELECT now() AS now, held.name, held.lease_until,
       (SELECT count(*) FROM worker WHERE lease_until > now() AND draining_at IS NULL
          AND (queues = '{}' OR %(queue)s = ANY(queues))) AS workers,
       EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND (classid::bigint << 32) | objid::bigint = hashtext('lead ' || current_schema())::bigint) AS led
FROM (SELECT 1) AS one LEFT JOIN worker AS held ON held.id = %(worker)s"""

_BATCH = """
SELECT batch.id, name, step, opens IS NOT DISTINCT FROM %(job)s AS awaited,
       (SELECT count(*) FROM job WHERE job.batch = batch.id AND job.step = batch.step AND job.finished_at IS NULL)
         AS unfinished,
       ARRAY(SELECT id FROM job WHERE job.batch = batch.id AND job.step = batch.step AND job.finished_at IS NULL
             ORDER BY id LIMIT %(most)s) AS named
FROM batch WHERE id = coalesce(
  (SELECT id FROM batch WHERE opens = %(job)s AND finished_at IS NULL ORDER BY id DESC LIMIT 1), %(batch)s)"""

_RUNNING = """
SELECT id, queue, kind, workspace, limit_key FROM job WHERE state = 'running' AND finished_at IS NULL"""

_RULES = f"""
SELECT rule.key, concurrency, per_second, {TOKENS} AS tokens, paused_at, paused_by
FROM unnest(%(keys)s::text[], %(buckets)s::text[]) AS counted (key, bucket)
JOIN limit_rule AS rule ON rule.key = counted.key LEFT JOIN limit_bucket ON limit_bucket.key = counted.bucket
ORDER BY rule.key"""  # noqa: S608  # our own words

_DUE = "state = 'queued' AND finished_at IS NULL AND queue = %(queue)s AND not_before <= now()"

_OWN_TURN = f"""
SELECT (SELECT count(*) FROM unnest(%(higher)s::smallint[]) AS higher (lane) CROSS JOIN LATERAL (
          SELECT 1 FROM job WHERE {_DUE} AND priority = higher.lane LIMIT %(most)s) AS due) AS higher,
       (SELECT count(*) FROM (
          SELECT 1 FROM job WHERE {_DUE} AND priority = %(lane)s AND workspace = %(workspace)s
            AND (not_before, id) < (%(not_before)s, %(id)s) LIMIT %(most)s) AS due) AS own"""  # noqa: S608

_OTHERS = f"""
WITH RECURSIVE space (workspace) AS (
  (SELECT workspace FROM job WHERE {_DUE} AND priority = %(lane)s ORDER BY workspace LIMIT 1)
  UNION ALL
  SELECT (SELECT job.workspace FROM job WHERE {_DUE} AND priority = %(lane)s AND job.workspace > space.workspace
          ORDER BY job.workspace LIMIT 1)
  FROM space WHERE space.workspace IS NOT NULL)
SELECT count(*) AS jobs FROM (
  SELECT 1 FROM space CROSS JOIN LATERAL (
    SELECT 1 FROM job WHERE {_DUE} AND priority = %(lane)s AND job.workspace = space.workspace
    LIMIT %(turns)s) AS due
  WHERE space.workspace <> %(workspace)s LIMIT %(most)s) AS before"""  # noqa: S608
"""Jumps from one workspace to the next in the index, and looks at no more jobs of each than have their turn before."""
