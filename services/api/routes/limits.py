"""Limits and pauses of all services: each request goes to the service that has the queue or kind, or that it names."""

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from services.api.errors import ServiceNeeded
from services.api.routes.gateway import pass_on
from shared.auth import Principal, issue
from shared.contracts.catalog import SERVICES
from shared.http import limit_rules, requires
from shared.http.limit_rules import LimitBody, LimitList
from shared.ledger.limit_rules import LimitRequest, read_key

router = APIRouter(tags=["limits"])
Operator = Annotated[Principal, Depends(requires("operator"))]
Service = Annotated[
    str | None, Query(description="Whose rule it is; needed unless the key names a queue or kind, which tell.")
]


@router.get("/v1/limits")
async def list_limits(caller: Operator, request: Request) -> LimitList:
    """The rules of all services. Needs the operator's key."""
    token = issue(request.app.state.settings.signing_key, caller)
    found, silent = await request.app.state.peers.ask_all("/v1/limits", token, {})
    own = await to_thread.run_sync(limit_rules.all_limits, request)
    lists = [LimitList.model_validate(answer).items for answer in found.values() if answer]
    items = sorted([own, *lists], key=lambda rules: rules[0].service if rules else "")
    return LimitList(items=[rule for rules in items for rule in rules], unreachable=sorted(silent))


@router.put("/v1/limits/{key}", response_model=LimitBody)
async def put_limit(
    caller: Operator, request: Request, key: str, body: LimitRequest, service: Service = None
) -> Response:
    """Make a rule, or replace what it says. It holds for every claim that begins after the answer."""
    return await _at(request, caller, key, service, lambda: limit_rules.put(request, caller, key, body))


@router.delete("/v1/limits/{key}", status_code=204)
async def delete_limit(caller: Operator, request: Request, key: str, service: Service = None) -> Response:
    """Delete a rule. 409 when it is paused."""
    return await _at(request, caller, key, service, lambda: limit_rules.delete(request, key))


@router.post("/v1/limits/{key}/pause", response_model=LimitBody)
async def pause_limit(caller: Operator, request: Request, key: str, service: Service = None) -> Response:
    """Begin nothing of a queue or kind until it is resumed; what runs goes on."""
    return await _at(request, caller, key, service, lambda: limit_rules.pause(request, caller, key))


@router.post("/v1/limits/{key}/resume", status_code=204)
async def resume_limit(caller: Operator, request: Request, key: str, service: Service = None) -> Response:
    """Go on with a queue or kind; its limits stay. 409 when it is not paused."""
    return await _at(request, caller, key, service, lambda: limit_rules.resume(request, caller, key))


async def _at(
    request: Request, caller: Principal, key: str, service: str | None, own: Callable[[], LimitBody | None]
) -> Response:
    whose = service_of(key, service)
    if whose != "api":
        return await pass_on(whose, request, caller)
    answer = await to_thread.run_sync(own)
    return Response(status_code=204) if answer is None else JSONResponse(answer.model_dump(mode="json"))


def service_of(key: str, named: str | None) -> str:
    """The service that keeps the rule. Raises LimitKeyInvalid, and ServiceNeeded when nothing tells which."""
    scope, name = read_key(key)
    service: Any = named if named is not None or scope not in ("queue", "kind") else name.partition(".")[0]
    if service not in SERVICES:
        known = ", ".join(SERVICES)
        if named is None and service is None:
            raise ServiceNeeded(f"Every service keeps its own {scope}: rules: name the service, one of {known}.")
        raise ServiceNeeded(f"There is no service named {str(service)[:100]!r}: there are {known}.", known=SERVICES)
    return str(service)
