"""The gateway: public routes of the other services under the same paths, for a key instead of a token."""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

import httpx2 as httpx
import structlog
from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import iter_route_contexts
from opentelemetry import trace
from starlette.exceptions import HTTPException

from services.api import operations
from services.api.adapters.peers import Answer, not_answered
from shared.auth import Principal, issue
from shared.errors import NotFound
from shared.http.dependencies import caller_of

router = APIRouter(include_in_schema=False)
log = structlog.get_logger(__name__)

SERVICES = {
    "datasets": "ingest",
    "definitions": "reports",
    "renders": "reports",
    "artifacts": "reports",
    "channels": "notifications",
    "rules": "notifications",
    "messages": "notifications",
    "deliveries": "notifications",
}
"""First part of the path → the service that has it."""


def passes_on(path: str) -> bool:
    """Whether the path is another service's."""
    parts = path.split("/")
    return len(parts) > 2 and parts[1] == "v1" and parts[2] in SERVICES


@router.api_route("/v1/{resource}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@router.api_route("/v1/{resource}/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def forward(resource: str, request: Request, caller: Principal = Depends(caller_of)) -> Response:
    """Pass the request on, body and answer as streams. Bodies of any size pass through in small pieces."""
    if resource not in SERVICES:
        if allowed := _methods(request):
            raise HTTPException(405, "Method Not Allowed", {"Allow": ", ".join(allowed)})
        raise NotFound("There is no such route.")
    return await pass_on(SERVICES[resource], request, caller)


def _methods(request: Request) -> list[str]:
    """Those that the gateway's own routes of the path take."""
    own = (each for each in iter_route_contexts(request.app.routes) if each.endpoint is not forward)
    matching = (each.methods or () for each in own if each.path_regex.match(request.url.path))
    return sorted({method for methods in matching for method in methods})


async def pass_on(service: str, request: Request, caller: Principal) -> Response:
    """The service's answer to the request. Of one that was accepted the run is entered."""
    trace.get_current_span().update_name(f"gateway {request.method} /v1/{request.url.path.split('/')[2]}")
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    answer = await request.app.state.peers.forward(
        service,
        request.method,
        _path(request.scope["raw_path"]),
        request.url.query,
        request.headers,
        issue(request.app.state.settings.signing_key, caller),
        request.stream() if has_body else None,
    )
    if answer.status == 202 and caller.workspace is not None:
        return await _accepted(request, service, caller.workspace, answer)
    return given_back(answer)


def given_back(answer: Answer) -> Response:
    return StreamingResponse(body(answer.response), answer.status, answer.headers)


def _path(raw: bytes) -> str:
    """The path as the caller encoded it, for a service to read as we did. Raises NotFound for one that could
    lead elsewhere there: dot segments, and slashes hidden in a segment."""
    for segment in raw.split(b"/"):
        plain = unquote_to_bytes(segment)
        if plain in (b".", b"..") or b"/" in plain or b"\\" in plain:
            raise NotFound("There is no such route.")
    return quote(raw, safe="/%:@!$&'()*+,;=")


async def _accepted(request: Request, service: str, workspace: UUID, answer: Answer) -> Response:
    """Enter the run that was begun, so that it is listed at once. If we die before, its first event enters it."""
    try:
        body = await _read(answer.response)
    except httpx.TransportError as error:
        raise not_answered(service) from error
    await to_thread.run_sync(enter_run, request, workspace, body["run"]["id"])
    headers = {name: value for name, value in answer.headers.items() if name in ("location", "retry-after")}
    return JSONResponse(body, 202, headers)


def enter_run(request: Request, workspace: UUID, run: str) -> None:
    """The work is owed, whatever goes wrong here: the run's first event enters it then."""
    current = trace.get_current_span().get_span_context()
    trace_id = f"{current.trace_id:032x}" if current.is_valid else None
    try:
        with request.app.state.database.transaction() as session:
            operations.begin_run(session, workspace, UUID(run), trace_id)
    except Exception:
        log.exception("run not entered", workspace=str(workspace))


async def _read(response: httpx.Response) -> dict[str, Any]:
    try:
        await response.aread()
        found: dict[str, Any] = response.json()
        return found
    finally:
        await response.aclose()


async def body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes, encoded as it is; closed also when the client goes away."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    finally:
        await response.aclose()
