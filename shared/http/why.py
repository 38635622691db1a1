"""The route that says what a job waits for."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel

from shared.auth import Principal
from shared.db import raw
from shared.http.dependencies import Caller
from shared.ledger import why

router = APIRouter(tags=["jobs"])


class WhyReason(BaseModel):
    """One thing that the job waits for, or how it stands; fields that say nothing are left out."""

    code: str
    detail: str
    until: datetime | None = None
    """When it is over, if nothing else changes."""
    since: datetime | None = None
    attempt: int | None = None
    key: str | None = None
    """Of the limit or pause."""
    by: str | None = None
    """Who paused it."""
    jobs: list[UUID] | None = None
    """Running jobs of the workspace that hold the limit, or unfinished ones of the open step: the first of them."""
    others: int | None = None
    """How many others there are: further ones, and those of other workspaces."""
    before: int | None = None
    """At most so many go before it; 1001 stands for more."""
    batch: UUID | None = None
    step: int | None = None
    """The open one of its batch."""


class WhyBody(BaseModel):
    """Why a job does not run yet, or how it ended. The weightiest reason comes first; there is always one."""

    service: str
    job: UUID
    kind: str
    queue: str
    state: str
    reasons: list[WhyReason]
    url: str


@router.get("/v1/jobs/{id}/why", response_model_exclude_none=True)
def why_job(caller: Caller.Read, request: Request, id: UUID) -> WhyBody:
    """What the job waits for, in plain words and codes; or why it ended as it did."""
    return why_of(request, caller, id)


def why_of(request: Request, caller: Principal, id: UUID) -> WhyBody:
    assert caller.workspace is not None
    service = request.app.state.service
    with request.app.state.database.transaction() as session:
        facts = why.gather(raw(session), service, caller.workspace, id)
    reasons = [WhyReason(code=each.code, detail=each.detail, **each.facts) for each in why.explain(facts)]
    told = {name: facts.job[name] for name in ("kind", "queue", "state")}
    return WhyBody(service=service, job=id, reasons=reasons, url=f"/v1/jobs/{id}", **told)
