"""Work that somebody asks for by name: checked against its kind, then owed in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import psycopg
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared import ids, telemetry
from shared.db import Row, raw
from shared.errors import MillraceError, Unprocessable, what_is_wrong
from shared.ledger.enqueue import Origin, amend, job_row, remember
from shared.ledger.execute import ArgumentsInvalid, KindUnknown
from shared.ledger.joint import Joint
from shared.ledger.limit_rules import ASKED_CHARACTERS, asked_key, check_asked
from shared.ledger.messages import JobArgs, Lane, LaneName, Moment
from shared.ledger.tasks import Tasks
from shared.ledger.unique import Unique, insert_unique
from shared.ledger.values import storable

BATCH_JOBS = 10_000


class BatchJob(BaseModel):
    """A job of a step of a batch. Times are RFC 3339 with an offset."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[str, Field(min_length=1, max_length=200)]
    args: dict[str, Any] = {}
    lane: LaneName | None = Field(None, description="Which goes first; by default the kind's own.")
    not_before: Moment | None = Field(None, description="Not started earlier; by default it is due at once.")
    start_by: Moment | None = Field(None, description="Given up when its first attempt has not begun by then.")
    deadline: Moment | None = Field(None, description="Given up when it is not done by then.")
    limit_key: Annotated[str, Field(max_length=ASKED_CHARACTERS), AfterValidator(check_asked)] | None = Field(
        None, description="What limits may count it by, PREFIX:NAME, such as a host that it calls: host:example.org."
    )


class JobRequest(BatchJob):
    """A job to be owed. Times are RFC 3339 with an offset."""

    unique: Unique | None = Field(None, description="When the key stands for a job, that one is the answer.")


class BatchRequest(BaseModel):
    """Jobs of one service, owed together or not at all."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[JobRequest], Field(min_length=1, max_length=BATCH_JOBS)]


class KindPrivate(MillraceError):
    """The kind is the service's own affair."""

    code, status, title = "job.kind_private", 422, "The kind is not for callers"


class TimesInvalid(MillraceError):
    """The job could never be started."""

    code, status, title = "job.times_invalid", 422, "The times do not fit"


class LimitKeyFixed(MillraceError):
    """The kind names what its jobs are limited by."""

    code, status, title = "job.limit_key_fixed", 422, "The kind names its own limit key"


@dataclass(frozen=True)
class Owed:
    """The run that a request began, and its jobs in the order in which they were asked for."""

    run: UUID
    jobs: list[UUID]
    existing: list[UUID] = field(default_factory=list)
    """Those of `jobs` that their unique keys stood for already. When all are, `run` is the first one's."""

    def as_json(self) -> dict[str, Any]:
        jobs, existing = ([str(job) for job in jobs] for jobs in (self.jobs, self.existing))
        return {"run": str(self.run), "jobs": jobs, "existing": existing}

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> "Owed":
        jobs, existing = ([UUID(job) for job in kept.get(name, ())] for name in ("jobs", "existing"))
        return cls(UUID(kept["run"]), jobs, existing)


def owe(
    joint: Joint,
    tasks: Tasks,
    workspace: UUID,
    wanted: Sequence[JobRequest],
    *,
    key: str | None = None,
    fingerprint: str = "",
) -> Owed:
    """Owe all of them in one transaction, as one new run; single jobs of several callers share a commit. With an
    Idempotency-Key that came before with the same fingerprint, nothing is added and the first answer is given again.

    Raises KindUnknown, KindPrivate, ArgumentsInvalid, TimesInvalid, Unprocessable (what cannot be stored), each
    with the fact `index` when several are wanted; KeyReused and BadRequest for the key.
    """
    because = Origin.request(workspace)
    rows = _rows(tasks, because, wanted)
    unique = {row["id"]: each.unique for row, each in zip(rows, wanted, strict=True) if each.unique is not None}
    owed = Owed(because.run, [row["id"] for row in rows])
    try:
        if key is None and len(rows) == 1 and not unique:
            if refused := _unstorable(rows):  # found before it spoils a commit that others share
                raise refused
            joint.owe(rows)
            return owed
        with joint.database.transaction(origin=because) as session:
            given = remember(session, workspace, key, fingerprint, owed.as_json()) if key is not None else None
            if given is not None:
                return Owed.of_json(given)
            kept = insert_unique(raw(session), rows, unique)
            if existing := [each.job for each in kept if each.existing]:
                run = kept[0].run if len(existing) == len(kept) else because.run
                owed = Owed(run, [each.job for each in kept], existing)
                if key is not None:
                    amend(session, workspace, key, owed.as_json())
            session.info["wake"] = True
    except psycopg.DataError as error:
        raise _unstorable(rows) or error from error
    return owed


def read(tasks: Tasks, kind: str, args: dict[str, Any]) -> JobArgs:
    """The arguments of a public kind. Raises KindUnknown, KindPrivate, ArgumentsInvalid."""
    task = tasks.by_kind.get(kind)
    if task is None:
        raise KindUnknown(f"There is no kind of job named {kind!r}.", kind=kind, known=_public(tasks))
    if not task.args.public:
        raise KindPrivate(f"Jobs of kind {kind} are the service's own: nobody asks for them.", kind=kind)
    return check(task.args, args)


def check(kind: type[JobArgs], args: dict[str, Any]) -> JobArgs:
    """`args` as those of the kind. Raises ArgumentsInvalid. A name that the kind does not know is a mistake of
    who asks, though a worker one version behind would pass over it."""
    unknown = args.keys() - kind.model_fields.keys()
    if unknown:
        known = ", ".join(kind.model_fields) or "none"
        raise ArgumentsInvalid(f"Unknown: {', '.join(sorted(unknown))[:200]}. Arguments of {kind.kind}: {known}.")
    try:
        return kind.model_validate(args)
    except ValidationError as error:
        wrong = what_is_wrong(error.errors(), "args")
        said = "; ".join(f"{each['where']}: {each['detail']}" for each in wrong[:3])
        raise ArgumentsInvalid(said[:500], errors=wrong[:20]) from error


def _public(tasks: Tasks) -> list[str]:
    return sorted(kind for kind, task in tasks.by_kind.items() if task.args.public)


def _rows(tasks: Tasks, because: Origin, wanted: Sequence[JobRequest]) -> list[Row]:
    now, traceparent, rows = datetime.now(UTC), telemetry.traceparent(), []
    for index, each in enumerate(wanted):
        try:
            rows.append(row_of(tasks, because, each, now, traceparent))
        except MillraceError as error:
            if len(wanted) > 1:
                error.detail, error.facts["index"] = f"jobs.{index}: {error.detail}", index
            raise
    return rows


def row_of(tasks: Tasks, because: Origin, wanted: BatchJob, now: datetime, traceparent: str | None) -> Row:
    args = read(tasks, wanted.kind, wanted.args)
    times = {name: getattr(wanted, name) for name in ("not_before", "start_by", "deadline")}
    for name in ("start_by", "deadline"):
        if times[name] is not None and times[name] <= max(now, times["not_before"] or now):
            raise TimesInvalid(f"Its {name} passes before it may be started.", **{name: times[name].isoformat()})
    row = job_row(args, because, ids.draw(), traceparent=traceparent, **times)
    if wanted.limit_key is not None:
        if type(args).limit_key is not JobArgs.limit_key:
            raise LimitKeyFixed(f"Jobs of kind {wanted.kind} name what they are limited by: leave limit_key out.")
        row["limit_key"] = asked_key(because.workspace, wanted.limit_key)
    if wanted.lane is not None:
        row["priority"] = int(Lane.named(wanted.lane))
    return row


def _unstorable(rows: list[Row]) -> Unprocessable | None:
    """What PostgreSQL refused of them: half a character, a NUL."""
    for index, row in enumerate(rows):
        if storable(row["args"]) != row["args"]:
            where = f"jobs.{index}.args" if len(rows) > 1 else "args"
            return Unprocessable(f"{where}: a NUL character or half a character cannot be stored.", index=index)
    return None
