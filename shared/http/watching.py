"""Watching jobs live: an event stream a reader, one look at the ledger for all of them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from anyio import to_thread
from fastapi import APIRouter, Request, Response

from shared.auth import Principal
from shared.db import Database, Lasting, is_outage, raw
from shared.http.bodies import JobBody
from shared.http.dependencies import Caller
from shared.http.streams import (
    HEARD_OUT,
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    LAST,
    STREAM_SECONDS,
    EventStream,
    LastEventId,
    StreamSeconds,
    end,
    event,
)
from shared.ledger import queries

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often the ledger is looked at. What changes twice between two looks is told once."""
RETRY = b"retry: 2000\n"
"""A reader whose stream ended comes back after so many milliseconds."""
ENDED = frozenset({"succeeded", "failed", "cancelled"})

Inbox = asyncio.Queue[JobBody | None]
"""How a job stands by the last look; None: it is not there any more."""


class Watcher:
    """Looks at the jobs that somebody watches: one statement every LOOK_SECONDS, on one connection of its own, and
    neither while nobody does. For one event loop."""

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        self._inboxes: defaultdict[UUID, set[Inbox]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None

    async def follow(self, first: JobBody) -> AsyncGenerator[bytes, None]:
        """The job as it stands, then each time it has changed, and `end` once it has ended: as server-sent events."""
        said, state = first.model_dump_json(), first.state
        yield RETRY + event("job", said)
        with self._watching(first.id) as inbox:
            while state not in ENDED:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        now = await _changed(inbox, said)
                except TimeoutError:
                    yield HEARTBEAT
                    continue
                if now is None:
                    return
                said, state = now.model_dump_json(), now.state
                yield event("job", said)
        yield end(state)

    @contextmanager
    def _watching(self, job: UUID) -> Iterator[Inbox]:
        inbox: Inbox = asyncio.Queue(1)
        self._inboxes[job].add(inbox)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield inbox
        finally:
            self._inboxes[job].discard(inbox)
            if not self._inboxes[job]:
                del self._inboxes[job]

    async def _look(self) -> None:
        connection, is_away = Lasting(self._database.connect), False
        try:
            while self._inboxes:
                asked = list(self._inboxes)
                try:
                    found = await to_thread.run_sync(queries.watched, connection, self._service, asked)
                    self._hand_out({id: JobBody.model_validate(found[id]) if id in found else None for id in asked})
                    is_away = False
                except Exception as error:  # streams stay open, and go on when it is over
                    if not is_outage(error) or not is_away:
                        log.warning("watched jobs not looked at", reason=f"{type(error).__name__}: {error}"[:300])
                    is_away = is_outage(error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            connection.close()

    def _hand_out(self, seen: dict[UUID, JobBody | None]) -> None:
        """Each reader has the newest; what a slow one has not taken yet is not of interest any more. Who came during
        the look waits for the next one."""
        for job, now in seen.items():
            for inbox in self._inboxes.get(job, ()):
                if inbox.full():
                    inbox.get_nowait()
                inbox.put_nowait(now)


async def _changed(inbox: Inbox, said: str) -> JobBody | None:
    while True:
        now = await inbox.get()
        if now is None or now.model_dump_json() != said:
            return now


router = APIRouter(tags=["jobs"])


@router.get("/v1/jobs/{id}/events", status_code=200, response_class=EventStream, responses=HEARD_OUT)
async def watch_job(
    caller: Caller.Read,
    request: Request,
    id: UUID,
    seconds: StreamSeconds = STREAM_SECONDS,
    last_event_id: LastEventId = None,
) -> Response:
    """Watch a job live: server-sent events. `job` with the job as it stands, first and whenever its state or progress
    has changed; `end` when it has ended. A stream ends after five minutes: come back."""
    if last_event_id == LAST:
        return Response(status_code=204)
    return await watch(request, caller, id, seconds)


async def watch(request: Request, caller: Principal, id: UUID, seconds: float) -> Response:
    """The stream of a job of this service. Raises NotFound, and Unavailable when too many are open."""
    assert caller.workspace is not None
    state = request.app.state
    first = await to_thread.run_sync(_stands, state.database, state.service, caller.workspace, id)
    state.streams.check_room(caller.workspace)
    return EventStream(state.streams.bounded(state.watcher.follow(first), caller.workspace, seconds))


def _stands(database: Database, service: str, workspace: UUID, id: UUID) -> JobBody:
    with database.transaction() as session:
        return JobBody.model_validate(queries.show_job(raw(session), service, workspace, id))
