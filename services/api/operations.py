"""Use cases of `api`: workspaces, keys, runs, spans."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlmodel import Session

from services.api import repository
from services.api.domain import Job, Part, Standing, moved_since, standing, without_settling
from services.api.errors import ScopeUnknown, WorkspaceExists
from services.api.jobs import SettleRun, SweepRuns
from services.api.models import ApiKey, AuditEntry, Run, RunEvent, Span, Workspace
from shared import ids, telemetry
from shared.auth import WORKSPACE_SCOPES, Principal, digest
from shared.contracts.api import WorkspaceCreated
from shared.contracts.envelope import Envelope
from shared.errors import NotFound, Unauthenticated
from shared.ledger.enqueue import Origin, enqueue, publish

KEY_PREFIX = "mr_"
SWEEP_SECONDS = 15
"""Runs that began in such a span are looked at together."""
SETTLE_AFTER = timedelta(seconds=2)
"""By then the jobs that an event causes are mostly done."""
SHOWN_CHARACTERS = 10
"""So much of a key is kept readable, for people to tell their keys apart."""


def create_workspace(session: Session, caller: Principal, name: str) -> Workspace:
    """Raises WorkspaceExists."""
    workspace = Workspace(id=ids.draw(), name=name, created_at=datetime.now(UTC))
    if not repository.add_workspace(session, workspace):
        raise WorkspaceExists(f"There is a workspace named {name!r} already.", name=name)
    _audit(session, workspace.id, caller, "workspace.create", str(workspace.id), name=name)
    session.info["origin"] = Origin.request(workspace.id)
    publish(session, WorkspaceCreated(workspace_id=workspace.id, name=name), subject=workspace.id)
    return workspace


def create_key(
    session: Session, caller: Principal, workspace: UUID, name: str, scopes: Sequence[str]
) -> tuple[ApiKey, str]:
    """A new key of the workspace, and its text, which is shown now and never again."""
    if unknown := sorted(set(scopes) - set(WORKSPACE_SCOPES)):
        raise ScopeUnknown(f"Unknown scope: {', '.join(unknown)}. Known: {', '.join(WORKSPACE_SCOPES)}.")
    if repository.find_workspace(session, workspace) is None:
        raise NotFound("There is no such workspace.", id=str(workspace))
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=ids.draw(),
        workspace=workspace,
        name=name,
        prefix=text[:SHOWN_CHARACTERS],
        digest=digest(text),
        scopes=sorted(set(scopes)),
        created_at=datetime.now(UTC),
    )
    session.add(key)
    _audit(session, workspace, caller, "key.create", str(key.id), name=name, scopes=key.scopes)
    return key, text


def revoke_key(session: Session, caller: Principal, workspace: UUID, id: UUID) -> None:
    """Raises NotFound."""
    if repository.revoke_key(session, workspace, id, datetime.now(UTC)) is None:
        raise NotFound("There is no such key.", id=str(id))
    _audit(session, workspace, caller, "key.revoke", str(id))


def authenticate(session: Session, text: str) -> Principal:
    """The principal of an API key. Raises Unauthenticated."""
    key = repository.find_key(session, digest(text))
    if key is None:
        raise Unauthenticated("The key is not known.")
    return Principal(f"key:{key.prefix}", frozenset(key.scopes), key.workspace)


def begin_run(session: Session, workspace: UUID, run: UUID, trace_id: str | None) -> None:
    """Enter a run as soon as its request was accepted, so that it is listed before its first event."""
    began = ids.time_of(run)
    repository.upsert_run(session, _run(workspace, run, trace_id, began))
    first = datetime.fromtimestamp(began.timestamp() // SWEEP_SECONDS * SWEEP_SECONDS, UTC)
    last = first + timedelta(seconds=SWEEP_SECONDS)
    args = SweepRuns(since=ids.floor(first), until=ids.floor(last))
    sweep = ids.derive(first, args.kind, workspace)  # one for all runs of the span
    session.info["origin"] = Origin(workspace, sweep, "request", sweep)
    with telemetry.detached():
        enqueue(session, args, id=sweep, not_before=last + SETTLE_AFTER)


def sweep(
    session: Session, workspace: UUID, args: SweepRuns, found: Mapping[UUID, Standing], unreachable: Sequence[str]
) -> int:
    """Write down how the runs of the span stand that published no event; answers how many have not ended."""
    running = repository.running_runs(session, workspace, args.since, args.until)
    if unreachable:
        return len(running)
    left = 0
    for run in running:
        standing = found.get(run)  # none: it is told by its events, or no job of it is known
        if standing is not None and standing.state == "running":
            left += 1
        elif standing is not None:
            keep_standing(session, run, standing)
    return left


def record_event(session: Session, event: Envelope) -> None:
    """Keep a completion event; receiving it twice keeps it once."""
    trace_id = telemetry.trace_of(event.traceparent)
    repository.upsert_run(session, _run(event.workspace, event.runid, trace_id, ids.time_of(event.runid)))
    repository.add_run_event(
        session,
        RunEvent(
            id=event.id,
            run=event.runid,
            workspace=event.workspace,
            type=event.type,
            source=event.source,
            subject=event.subject,
            time=event.time,
            causation=event.causationid,
            data=event.data,
        ),
    )
    with telemetry.detached():  # looking how the run stands is no step of it: its trace ends with the run
        args = SettleRun(run=event.runid, event=event.id)
        id = ids.derive(event.id, args.kind, event.runid)
        enqueue(session, args, id=id, not_before=datetime.now(UTC) + SETTLE_AFTER)


def tell_anew(session: Session, workspace: UUID, runs: Sequence[UUID]) -> None:
    """Jobs of the runs were moved by hand: see how the runs stand now, until they have ended (again)."""
    repository.reopen_runs(session, workspace, runs)
    for run in runs:
        session.info["origin"] = Origin(workspace, run, "request", run)
        with telemetry.detached():
            enqueue(session, SettleRun(run=run))


def is_newest(session: Session, args: SettleRun) -> bool:
    """Whether no later event of the run was recorded, whose own job then looks at it."""
    return args.event is None or repository.newest_event(session, args.run) == args.event


def standing_by(parts: Sequence[Part], unreachable: Sequence[str]) -> Standing:
    """How a run stands by the services' parts of it."""
    jobs = without_settling([job for part in parts for job in part.jobs])
    return standing(jobs, [event for part in parts for event in part.events], unreachable)


def keep_standing(session: Session, run: UUID, found: Standing) -> None:
    repository.set_run(session, run, found.state, found.reason, found.finished_at)


def settle(
    session: Session, run: Run, jobs: Sequence[Job], events: Sequence[Envelope], unreachable: Sequence[str]
) -> Standing:
    """How the run stands, written down when that has changed.

    An ended run stays as it is stored while a service cannot be asked, and until a job of it has moved since: with
    its age, jobs and events of it are dropped from the ledgers, and what is missing then says nothing.
    """
    if run.state != "running" and (unreachable or not moved_since(run.finished_at, jobs)):
        return Standing(run.state, run.reason, run.finished_at)
    found = standing(jobs, events, unreachable)
    if (run.state, run.reason) != (found.state, found.reason):
        keep_standing(session, run.id, found)
    return found


def store_spans(session: Session, spans: list[dict[str, Any]]) -> None:
    repository.add_spans(session, spans)


def show_trace(session: Session, workspace: UUID, trace_id: str) -> Sequence[Span]:
    """The workspace's spans of the trace. Raises NotFound when it has none."""
    spans = repository.list_spans(session, workspace, trace_id)
    if not spans:
        raise NotFound("There is no such trace.", trace_id=trace_id)
    return spans


def _run(workspace: UUID, run: UUID, trace_id: str | None, created_at: datetime) -> Run:
    return Run(id=run, workspace=workspace, trace_id=trace_id, state="running", created_at=created_at)


def _audit(session: Session, workspace: UUID, caller: Principal, action: str, subject: str, **facts: Any) -> None:
    session.add(
        AuditEntry(id=ids.draw(), workspace=workspace, actor=caller.name, action=action, subject=subject, facts=facts)
    )
