"""The routes by which the operator limits and pauses what a service runs, for all workspaces together."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel

from shared.auth import Principal
from shared.db import Row, Statements, raw
from shared.http.dependencies import Caller
from shared.ledger import limit_rules
from shared.ledger.limit_rules import LimitRequest

router = APIRouter(tags=["limits"])


class LimitBody(BaseModel):
    """A rule of a service, and how many jobs that it covers run now."""

    service: str
    key: str
    """`queue:`, `kind:`, `workspace:`, `key:` and a name; `each:` and a prefix, for every name with it by itself."""
    concurrency: int | None
    per_second: float | None
    burst: int
    weight: float
    paused_at: datetime | None
    paused_by: str | None
    updated_at: datetime
    updated_by: str | None
    """Null: the service came with it."""
    running: int

    @classmethod
    def of(cls, service: str, row: Row) -> "LimitBody":
        return cls(service=service, **row)


class LimitList(BaseModel):
    items: list[LimitBody]
    unreachable: list[str] = []
    """Services that could not be asked, when the list is the gateway's; their rules are missing here."""


@router.get("/v1/limits")
def list_limits(caller: Caller.Operator, request: Request) -> LimitList:
    """This service's rules, by key. Needs the operator's key."""
    return LimitList(items=all_limits(request))


@router.put("/v1/limits/{key}")
def put_limit(caller: Caller.Operator, request: Request, key: str, body: LimitRequest) -> LimitBody:
    """Make a rule, or replace what it says. It holds for every claim that begins after the answer."""
    return put(request, caller, key, body)


@router.delete("/v1/limits/{key}", status_code=204)
def delete_limit(caller: Caller.Operator, request: Request, key: str) -> None:
    """Delete a rule. 409 when it is paused."""
    delete(request, key)


@router.post("/v1/limits/{key}/pause")
def pause_limit(caller: Caller.Operator, request: Request, key: str) -> LimitBody:
    """Begin nothing of a queue or kind until it is resumed; what runs goes on."""
    return pause(request, caller, key)


@router.post("/v1/limits/{key}/resume", status_code=204)
def resume_limit(caller: Caller.Operator, request: Request, key: str) -> None:
    """Go on with a queue or kind; its limits stay. 409 when it is not paused."""
    resume(request, caller, key)


# What the routes do; the gateway does it for its own service


def all_limits(request: Request) -> list[LimitBody]:
    with _ledger(request, wakes=False) as ledger:
        return [LimitBody.of(request.app.state.service, row) for row in limit_rules.list_rules(ledger)]


def put(request: Request, caller: Principal, key: str, body: LimitRequest) -> LimitBody:
    _check(request, key)
    with _ledger(request) as ledger:
        limit_rules.put(ledger, key, body, caller.name)
        return LimitBody.of(request.app.state.service, limit_rules.show(ledger, key))


def delete(request: Request, key: str) -> None:
    with _ledger(request) as ledger:
        limit_rules.delete(ledger, key)


def pause(request: Request, caller: Principal, key: str) -> LimitBody:
    _check(request, key)
    with _ledger(request) as ledger:
        limit_rules.pause(ledger, key, caller.name)
        return LimitBody.of(request.app.state.service, limit_rules.show(ledger, key))


def resume(request: Request, caller: Principal, key: str) -> None:
    with _ledger(request) as ledger:
        limit_rules.resume(ledger, key, caller.name)


def _check(request: Request, key: str) -> None:
    state = request.app.state
    limit_rules.check_known(state.service, state.tasks, key)


@contextmanager
def _ledger(request: Request, *, wakes: bool = True) -> Iterator[Statements]:
    """A transaction after which the dispatcher looks again at what it may send."""
    with request.app.state.database.transaction() as session:
        yield raw(session)
        session.info["wake"] = wakes
