"""Watching jobs of all services live: the gateway gives on the stream of the service that has the job."""

from collections.abc import AsyncGenerator
from typing import Annotated
from uuid import UUID

import httpx2 as httpx
import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services.api.adapters.peers import Answer
from services.api.routes import gateway, runs
from shared.auth import Principal, issue
from shared.errors import NotFound, Unavailable
from shared.http import requires
from shared.http.streams import HEARD_OUT, LAST, STREAM_SECONDS, EventStream, LastEventId, StreamSeconds
from shared.http.watching import watch

router = APIRouter(tags=["jobs"])
log = structlog.get_logger(__name__)


@router.get("/v1/jobs/{id}/events", status_code=200, response_class=EventStream, responses=HEARD_OUT)
async def watch_job(
    caller: Annotated[Principal, Depends(requires("read"))],
    request: Request,
    id: UUID,
    seconds: StreamSeconds = STREAM_SECONDS,
    last_event_id: LastEventId = None,
) -> Response:
    """Watch a job live: server-sent events. `job` with the job as it stands, first and whenever its state or progress
    has changed; `end` when it has ended. A stream ends after five minutes: come back."""
    if last_event_id == LAST:
        return Response(status_code=204)
    service = await _service_of(caller, request, id)
    if service == "api":
        return await watch(request, caller, id, seconds)
    return await _give_on(service, caller, request, id, seconds)


async def _service_of(caller: Principal, request: Request, id: UUID) -> str:
    """Raises NotFound; Unavailable when the job may be one of a service that does not answer."""
    try:
        return (await runs.show_job(caller, request, id)).service
    except NotFound as error:
        if silent := error.facts.get("unreachable"):
            raise Unavailable(f"The {silent[0]} service does not answer.") from None
        raise


async def _give_on(service: str, caller: Principal, request: Request, id: UUID, seconds: float) -> Response:
    assert caller.workspace is not None
    state = request.app.state
    state.streams.check_room(caller.workspace)
    token = issue(state.settings.signing_key, caller)
    answer = await state.peers.follow(service, f"/v1/jobs/{id}/events", token, {"seconds": seconds})
    if answer.status != 200:
        return gateway.given_back(answer)
    return EventStream(state.streams.bounded(_heard(service, answer), caller.workspace, seconds))


async def _heard(service: str, answer: Answer) -> AsyncGenerator[bytes, None]:
    """A service that goes away in the middle ends the stream: the reader comes back and hears all anew."""
    pieces = gateway.body(answer.response)
    try:
        async for piece in pieces:
            yield piece
    except httpx.TransportError as error:
        log.info("event stream broken off", peer=service, reason=f"{type(error).__name__}: {error}"[:200])
    finally:
        await pieces.aclose()
