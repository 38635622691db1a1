"""The rules of limits.py as people set them: checked, listed, changed; queues and kinds paused and resumed."""

import re
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.db import Row, Statements
from shared.errors import Conflict, MillraceError, NotFound
from shared.ledger.limits import Limits
from shared.ledger.limits_schema import ASKED
from shared.ledger.tasks import Tasks

SCOPES = ("queue", "kind", "workspace", "key", "each")
"""First words of a rule's key."""
PAUSABLE = ("queue", "kind")
MOST_RULES = 1000
"""Each round of the dispatcher reads them all."""
ASKED_CHARACTERS = 200
_NAME = re.compile(r"[!-.0-~]{1,300}")  # what a path's segment can carry


class LimitKeyInvalid(MillraceError):
    code, status, title = "limit.key_invalid", 422, "No key of a limit"


class LimitKeyUnknown(MillraceError):
    """The service has no such queue or kind."""

    code, status, title = "limit.key_unknown", 422, "Nothing here goes by that name"


class NotPausable(MillraceError):
    code, status, title = "limit.not_pausable", 422, "It cannot be paused"


class NotPaused(Conflict):
    code, title = "limit.not_paused", "It is not paused"


class Paused(Conflict):
    code, title = "limit.paused", "It is paused"


class TooManyRules(Conflict):
    code, title = "limit.too_many", "Too many rules"


class LimitRequest(BaseModel):
    """What a rule is to hold its jobs to; what is left out is not limited."""

    model_config = ConfigDict(extra="forbid")

    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="At most so many run at once."
    )
    per_second: Annotated[float, Field(ge=0.000_001, le=1_000_000, allow_inf_nan=False)] | None = Field(
        None, description="At most so many begin a second, in the long run."
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="So many may begin at once after a quiet time; by default 1. With per_second."
    )
    weight: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] | None = Field(
        None, description="Of a workspace: its share beside the others in a lane; by default 1."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.concurrency is None and self.per_second is None and self.weight is None:
            raise ValueError("give concurrency, per_second or both (of a workspace also weight)")
        if self.burst is not None and self.per_second is None:
            raise ValueError("burst goes with per_second")
        return self


def read_key(key: str) -> tuple[str, str]:
    """Scope and name of a rule's key. Raises LimitKeyInvalid."""
    scope, _, name = key.partition(":")
    if scope not in SCOPES:
        known = ", ".join(f"{word}:" for word in SCOPES)
        raise LimitKeyInvalid(f"{key[:100]!r} begins with none of {known}.", key=key[:300])
    if not _NAME.fullmatch(name) or (scope == "each" and ":" in name):
        raise LimitKeyInvalid(f"{key[:100]!r} names nothing that can be limited: {_EXAMPLES[scope]}.", key=key[:300])
    if scope == "key" and not all(name.partition(":")):
        raise LimitKeyInvalid(f"{key[:100]!r} has no prefix and name: {_EXAMPLES[scope]}.", key=key[:300])
    if scope == "workspace" and not _is_canonical(name):
        raise LimitKeyInvalid(f"{name[:100]!r} is no id of a workspace: {_EXAMPLES[scope]}.", key=key[:300])
    return scope, name


_EXAMPLES = {
    "queue": "queue:ingest.jobs",
    "kind": "kind:ingest.dataset.load",
    "workspace": "workspace:0190f5f4-0000-7000-8000-000000000000",
    "key": "key:host:example.org",
    "each": "each:host",
}


def check_asked(text: str) -> str:
    """What a request names its job to be limited by: what a `key:` rule may name. Raises ValueError, in plain words."""
    try:
        read_key(f"key:{text}")
    except LimitKeyInvalid as error:
        said = "a limit key is PREFIX:NAME, such as host:example.org, in visible ASCII characters without slashes"
        raise PydanticCustomError("limit_key", said) from error
    return text


def asked_key(workspace: UUID, text: str) -> str:
    """The key of a job for which a request named `text`. No other workspace's jobs have it, and no code names such."""
    prefix, _, name = text.partition(":")
    return f"{ASKED}{prefix}:{workspace}:{name}"


def _is_canonical(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def check_known(service: str, tasks: Tasks, key: str) -> None:
    """Raises LimitKeyInvalid, and LimitKeyUnknown for a queue or kind that the service does not have."""
    scope, name = read_key(key)
    kinds = {kind: task.args.queue for kind, task in tasks.by_kind.items()}
    known = {"kind": set(kinds), "queue": set(kinds.values())}.get(scope)
    if known is not None and name not in known:
        raise LimitKeyUnknown(f"{service} has no {scope} named {name[:100]!r}.", key=key, known=sorted(known))


def list_rules(connection: Statements) -> list[Row]:
    """All rules, by key, each with how many jobs that it covers are `running`."""
    rows = connection.execute("SELECT * FROM limit_rule ORDER BY key").fetchall()
    limits = Limits()
    limits.look(connection, ())
    return [{**row, "running": limits.running_under(row["key"])} for row in rows]


def put(connection: Statements, key: str, wanted: LimitRequest, by: str) -> None:
    """Make the rule, or replace what it says; paused stays paused. Raises LimitKeyInvalid, TooManyRules."""
    scope, _ = read_key(key)
    if wanted.weight is not None and scope != "workspace":
        raise LimitKeyInvalid("weight is for a workspace:, whose share it is.", key=key)
    known = {row["key"] for row in connection.execute("SELECT key FROM limit_rule ORDER BY key").fetchall()}
    if key not in known and len(known) >= MOST_RULES:
        raise TooManyRules(f"There are {MOST_RULES} rules already.")
    connection.execute(
        """INSERT INTO limit_rule (key, concurrency, per_second, burst, weight, updated_by)
           VALUES (%(key)s, %(concurrency)s, %(per_second)s, coalesce(%(burst)s, 1), coalesce(%(weight)s, 1), %(by)s)
           ON CONFLICT (key) DO UPDATE SET concurrency = excluded.concurrency, per_second = excluded.per_second,
             burst = excluded.burst, weight = excluded.weight, updated_by = excluded.updated_by, updated_at = now()""",
        {**wanted.model_dump(), "key": key, "by": by},
    )


def delete(connection: Statements, key: str) -> None:
    """Nothing is limited by it any more. Raises NotFound; Paused, so that nobody's pause ends unseen."""
    row = connection.execute("SELECT * FROM limit_rule WHERE key = %s FOR UPDATE", (key,)).fetchone()
    if row is None:
        raise NotFound(f"There is no rule {key[:100]!r}.", key=key[:300])
    if row["paused_at"] is not None:
        raise Paused(f"{key} was paused by {row['paused_by']}: resume it first.", key=key)
    connection.execute("DELETE FROM limit_rule WHERE key = %s", (key,))


def pause(connection: Statements, key: str, by: str) -> None:
    """Begin nothing of the queue or kind. What was paused stays so, by whom it was first. Raises NotPausable."""
    scope, _ = read_key(key)
    if scope not in PAUSABLE:
        raise NotPausable(f"Only a queue: or a kind: can be paused, not a {scope}:.", key=key)
    connection.execute(
        """INSERT INTO limit_rule AS rule (key, paused_at, paused_by, updated_by)
           VALUES (%(key)s, now(), %(by)s, %(by)s)
           ON CONFLICT (key) DO UPDATE SET paused_at = now(), paused_by = %(by)s, updated_by = %(by)s,
             updated_at = now() WHERE rule.paused_at IS NULL""",
        {"key": key, "by": by},
    )


def resume(connection: Statements, key: str, by: str) -> None:
    """Go on. A rule that did nothing but pause is gone then. Raises NotPaused."""
    read_key(key)
    resumed = connection.execute(
        """UPDATE limit_rule SET paused_at = NULL, paused_by = NULL, updated_by = %s, updated_at = now()
           WHERE key = %s AND paused_at IS NOT NULL""",
        (by, key),
    )
    if not resumed.rowcount:
        raise NotPaused(f"{key} is not paused.", key=key)
    connection.execute(
        "DELETE FROM limit_rule WHERE key = %s AND concurrency IS NULL AND per_second IS NULL AND weight = 1", (key,)
    )


def show(connection: Statements, key: str) -> Row:
    """One rule, as in the list. Raises NotFound."""
    for row in list_rules(connection):
        if row["key"] == key:
            return row
    raise NotFound(f"There is no rule {key[:100]!r}.", key=key[:300])
