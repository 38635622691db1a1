"""Every query of `api`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col, select

from services.api.models import ApiKey, Run, RunEvent, Span, Workspace


def add_workspace(session: Session, workspace: Workspace) -> bool:
    """False when the name is taken."""
    statement = insert(Workspace).values(**workspace.model_dump()).on_conflict_do_nothing(index_elements=["name"])
    return bool(session.execute(statement.returning(col(Workspace.id))).first())


def find_workspace(session: Session, id: UUID) -> Workspace | None:
    return session.get(Workspace, id)


def find_key(session: Session, digest: str) -> ApiKey | None:
    """The key that is not revoked and has this digest."""
    return session.exec(select(ApiKey).where(ApiKey.digest == digest, col(ApiKey.revoked_at).is_(None))).one_or_none()


def list_keys(session: Session, workspace: UUID) -> Sequence[ApiKey]:
    return session.exec(select(ApiKey).where(ApiKey.workspace == workspace).order_by(col(ApiKey.id))).all()


def revoke_key(session: Session, workspace: UUID, id: UUID, at: datetime) -> ApiKey | None:
    """The key as it was made, or None when the workspace has no such key in force."""
    key = session.exec(
        select(ApiKey).where(ApiKey.id == id, ApiKey.workspace == workspace, col(ApiKey.revoked_at).is_(None))
    ).one_or_none()
    if key is not None:
        key.revoked_at = at
        session.add(key)
    return key


def upsert_run(session: Session, run: Run) -> None:
    """Enter a run; of one that is known, only a missing trace id is filled in."""
    statement = insert(Run).values(**run.model_dump())
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_={"trace_id": statement.excluded.trace_id},
            where=col(Run.trace_id).is_(None),
        )
    )


def add_run_event(session: Session, event: RunEvent) -> None:
    session.execute(insert(RunEvent).values(**event.model_dump()).on_conflict_do_nothing(index_elements=["id"]))


def find_run(session: Session, workspace: UUID, id: UUID) -> Run | None:
    return session.exec(select(Run).where(Run.id == id, Run.workspace == workspace)).one_or_none()


def list_runs(session: Session, workspace: UUID, after: UUID | None, limit: int) -> Sequence[Run]:
    """Newest first."""
    query = select(Run).where(Run.workspace == workspace)
    if after is not None:
        query = query.where(col(Run.id) < after)
    return session.exec(query.order_by(col(Run.id).desc()).limit(limit)).all()


def running_runs(session: Session, workspace: UUID, since: UUID, until: UUID) -> Sequence[UUID]:
    """Ids in [since, until) of the workspace's runs of which no end is known."""
    query = select(Run.id).where(Run.workspace == workspace, col(Run.id) >= since, col(Run.id) < until)
    return session.exec(query.where(Run.state == "running")).all()


def list_run_events(session: Session, run: UUID) -> Sequence[RunEvent]:
    return session.exec(select(RunEvent).where(RunEvent.run == run).order_by(col(RunEvent.id))).all()


def newest_event(session: Session, run: UUID) -> UUID | None:
    return session.exec(
        select(RunEvent.id).where(RunEvent.run == run).order_by(col(RunEvent.id).desc()).limit(1)
    ).first()


def set_run(session: Session, id: UUID, state: str, reason: str | None, finished_at: datetime | None) -> None:
    session.execute(update(Run).where(col(Run.id) == id).values(state=state, reason=reason, finished_at=finished_at))


def reopen_runs(session: Session, workspace: UUID, runs: Sequence[UUID]) -> None:
    """Of runs that have ended it is not known any more how."""
    session.execute(
        update(Run)
        .where(col(Run.id).in_(runs), col(Run.workspace) == workspace, col(Run.state) != "running")
        .values(state="running", reason="jobs of it were moved", finished_at=None)
    )


def add_spans(session: Session, spans: list[dict[str, Any]]) -> None:
    """A span that came before is left as it is: exporters repeat what was not acknowledged."""
    if spans:
        session.execute(insert(Span).on_conflict_do_nothing(), spans)


def list_spans(session: Session, workspace: UUID, trace_id: str, limit: int = 5_000) -> Sequence[Span]:
    """The workspace's spans of a trace, oldest first."""
    return session.exec(
        select(Span)
        .where(Span.trace_id == trace_id, Span.workspace == workspace)
        .order_by(col(Span.started_at), col(Span.span_id))
        .limit(limit)
    ).all()
