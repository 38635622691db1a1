"""Limits on what runs, for all workers together: concurrency and rate by key, and pauses.

The database holds them at the claim (`job_start` in limits_schema.py): exact, whatever a dispatcher believes. What is
here keeps the dispatcher from sending what would only be passed over.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from shared.db import Connection, Row, Statements


@dataclass(frozen=True)
class Rule:
    """A row of `limit_rule`."""

    key: str
    concurrency: int | None
    per_second: float | None
    burst: int
    weight: float
    paused_at: datetime | None

    @property
    def holds_back(self) -> bool:
        """Whether it can; else it only weighs."""
        return self.paused_at is not None or self.concurrency is not None or self.per_second is not None


def counted_by(row: Row) -> dict[str, str]:
    """The keys of the rules that a job falls under, each with the key that the job is counted by."""
    named = row["limit_key"]
    found = {key: key for key in (f"queue:{row['queue']}", f"kind:{row['kind']}", f"workspace:{row['workspace']}")}
    if named is not None:
        found |= {f"key:{named}": f"key:{named}", f"each:{named.partition(':')[0]}": f"each:{named}"}
    return found


@dataclass(frozen=True)
class Blocked:
    """What cannot begin now, for the query of due jobs."""

    kinds: list[str] = field(default_factory=list)
    workspaces: set[UUID] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)


class Limits:
    """The rules, and what counts against each: running jobs, and jobs on their way in the broker."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self._version: Row | None = None
        """Of the rules, as they were read."""
        self._limiting: dict[str, Rule] = {}
        """Those that can hold something back."""
        self.again_in = math.inf
        """Seconds until a token comes that something waits for."""
        self.running = 0
        self._counts: Counter[str] = Counter()
        self._tokens: dict[str, float] = {}

    def look(self, connection: Statements, on_their_way: Iterable[Row]) -> None:
        """Begin a round; `on_their_way`: jobs that the broker has and nobody claimed."""
        self.again_in = math.inf
        self._read_rules(connection)
        self._counts.clear()
        if not self.rules:
            return
        running = connection.execute(_RUNNING).fetchall()
        self.running = sum(row["jobs"] for row in running)
        for row in running:
            for rule, key in counted_by(row).items():
                if rule in self.rules:
                    self._counts[key] += row["jobs"]
        self._tokens = {row["key"]: row["tokens"] for row in connection.execute(_BUCKETS).fetchall()}
        for row in on_their_way:
            self._enter(self._matching(row))

    def _read_rules(self, connection: Statements) -> None:
        """There may be a thousand of them, and they seldom change."""
        [version] = connection.execute(_VERSION).fetchall()
        if version != self._version:
            rows = connection.execute(_RULES).fetchall()
            self.rules = {row["key"]: Rule(**row) for row in rows}
            self._limiting = {key: rule for key, rule in self.rules.items() if rule.holds_back}
            self._version = version

    def admit(self, row: Row) -> bool:
        """Whether the job may be sent; then it counts."""
        if not self._limiting:
            return True
        matching = self._matching(row)
        if not all(self._is_free(rule, key) for rule, key in matching):
            return False
        self._enter(matching)
        return True

    def is_paused(self, queue: str) -> bool:
        """Whether nothing of the queue may begin."""
        key = f"queue:{queue}"
        return key in self.rules and not self._is_free(self.rules[key], key)

    def blocked(self) -> Blocked:
        """What the query of due jobs can leave out."""
        found = Blocked()
        for key, rule in self._limiting.items():
            scope, _, name = key.partition(":")
            if scope == "kind" and not self._is_free(rule, key):
                found.kinds.append(name)
            elif scope == "workspace" and not self._is_free(rule, key):
                found.workspaces.add(UUID(name))
            elif scope == "key" and not self._is_free(rule, key):
                found.keys.append(name)
        for key in self._counts.keys() | self._tokens.keys():
            scope, _, name = key.partition(":")
            each = self.rules.get(f"each:{name.partition(':')[0]}") if scope == "each" else None
            if each is not None and not self._is_free(each, key):
                found.keys.append(name)
        return found

    def running_under(self, key: str) -> int:
        """How many jobs count against a rule; of each: for all names together."""
        if not key.startswith("each:"):
            return self._counts[key]
        return sum(jobs for by, jobs in self._counts.items() if by.startswith(f"{key}:"))

    def weight(self, workspace: UUID) -> float:
        rule = self.rules.get(f"workspace:{workspace}")
        return rule.weight if rule is not None else 1.0

    def _matching(self, row: Row) -> list[tuple[Rule, str]]:
        """The rules that the job falls under and that may hold it back, each with the key that it is counted by."""
        return [(self._limiting[key], by) for key, by in counted_by(row).items() if key in self._limiting]

    def _is_free(self, rule: Rule, key: str) -> bool:
        if rule.paused_at is not None:
            return False
        if rule.concurrency is not None and self._counts[key] >= rule.concurrency:
            return False
        if rule.per_second is None:
            return True
        missing = 1 - self._tokens.get(key, rule.burst)
        if missing > 0:
            self.again_in = min(self.again_in, missing / rule.per_second)
        return missing <= 0

    def _enter(self, matching: list[tuple[Rule, str]]) -> None:
        """The job counts, and takes its tokens."""
        for rule, key in matching:
            self._counts[key] += 1
            if rule.per_second is not None:
                self._tokens[key] = self._tokens.get(key, rule.burst) - 1


def forget(connection: Connection) -> None:
    """Drop buckets that are full again, or whose rule is gone: a claim makes the one that it needs anew.

    Under the lock of the claims: none is between making a bucket and taking from it.
    """
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(_FORGET)


LOCK = "SELECT pg_advisory_xact_lock(hashtext('limits ' || current_schema()))"
"""The lock under which claims of limited jobs decide, one after the other (`job_start`)."""

_VERSION = "SELECT count(*) AS rules, sum(xmin::text::bigint) AS written FROM limit_rule"
"""Whatever is written has another xmin: unlike `updated_at`, that no clock leads back."""
_RULES = "SELECT key, concurrency, per_second, burst, weight, paused_at FROM limit_rule"

_RUNNING = """
SELECT queue, kind, workspace, limit_key, count(*) AS jobs FROM job
WHERE state = 'running' AND finished_at IS NULL GROUP BY queue, kind, workspace, limit_key"""

TOKENS = "limit_tokens(tokens, filled_at, per_second, burst)"
"""What a bucket, joined with its rule, holds now."""

_BUCKETS = f"""
SELECT limit_bucket.key, {TOKENS} AS tokens
FROM limit_bucket JOIN limit_rule ON limit_rule.key = CASE
  WHEN limit_bucket.key LIKE 'each:%' THEN 'each:' || split_part(limit_bucket.key, ':', 2) ELSE limit_bucket.key END
WHERE per_second IS NOT NULL"""  # noqa: S608  # our own words

_FORGET = f"""
DELETE FROM limit_bucket WHERE key NOT IN (SELECT key FROM ({_BUCKETS} AND {TOKENS} < burst) AS in_use)"""  # noqa: S608
