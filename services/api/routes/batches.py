"""Batches of all services: each request goes to the service whose kinds they are, or that has the batch."""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.api.errors import BatchMixed
from services.api.routes.gateway import enter_run, pass_on
from services.api.routes.owing import service_of
from services.api.routes.redrive import tell_runs
from shared.auth import Principal, issue
from shared.errors import NotFound, Unavailable
from shared.http import PageLimit, batches, requires
from shared.http.batches import BatchDetail, BatchOwed, BatchPage
from shared.http.dependencies import IdempotencyKey
from shared.ledger.batch_requests import NewBatch
from shared.ledger.batches import BatchState, check_size

router = APIRouter(tags=["batches"])
Reader = Annotated[Principal, Depends(requires("read"))]
Writer = Annotated[Principal, Depends(requires("write"))]


@router.post("/v1/batches", status_code=202, response_model=BatchOwed)
async def create_batch(
    caller: Writer, request: Request, body: NewBatch, idempotency_key: IdempotencyKey = None
) -> Response:
    """Owe up to 10,000 jobs of public kinds of one service in up to 100 steps: all of them or, when one is wrong, none.
    With an Idempotency-Key a repeated request gets the first one's answer."""
    service = _service_of(body)
    if service != "api":
        return await pass_on(service, request, caller)
    answer = await to_thread.run_sync(batches.accept, request, caller, body, idempotency_key)
    assert caller.workspace is not None
    await to_thread.run_sync(enter_run, request, caller.workspace, str(answer.run.id))
    return JSONResponse(answer.model_dump(mode="json"), 202, {"Location": answer.batch.url})


def _service_of(body: NewBatch) -> str:
    """Raises BatchInvalid, KindUnknown and BatchMixed."""
    check_size([len(step) for step in body.steps])
    service = service_of(body.steps[0][0].kind, step=1, index=0)
    for number, step in enumerate(body.steps, start=1):
        for index, job in enumerate(step):
            if service_of(job.kind, step=number, index=index) != service:
                detail = f"A batch is of one service: this began with {service}, and step {number} has {job.kind!r}."
                raise BatchMixed(detail, kind=job.kind, step=number, index=index)
    return service


@router.get("/v1/batches")
async def list_batches(
    caller: Reader,
    request: Request,
    state: BatchState | None = None,
    run: UUID | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> BatchPage:
    """Batches of all services, newest first."""
    filters = {"state": state, "run": run, "after": after, "limit": limit}
    params = {key: str(value) for key, value in filters.items() if value is not None}
    found, failed = await request.app.state.peers.ask_all("/v1/batches", _token(caller, request), params)
    own = await to_thread.run_sync(lambda: batches.page(request, caller, **filters))
    pages = [own, *(BatchPage.model_validate(page) for page in found.values() if page)]
    items = sorted((item for page in pages for item in page.items), key=lambda item: item.id, reverse=True)
    more = len(items) > limit or any(page.next for page in pages)
    following = items[limit - 1].id if more and len(items) >= limit else None
    return BatchPage(items=items[:limit], next=following, unreachable=failed)


@router.get("/v1/batches/{id}", response_model=BatchDetail)
async def show_batch(caller: Reader, request: Request, id: UUID) -> Response:
    """One batch, with the jobs of each step by state. The jobs themselves: `GET /v1/jobs?batch=`."""
    return await _where_it_is(request, caller, id, lambda: batches.show(request, caller, id))


@router.post("/v1/batches/{id}/cancel", response_model=BatchDetail)
async def cancel_batch(caller: Writer, request: Request, id: UUID) -> Response:
    """Call off all jobs of it that have not ended; no later step opens. 409 when it has ended. A batch that is still
    `ending` in the answer has a job that was just being committed, or so many that the rest follows."""
    shown = await _find(request, caller, id, lambda: batches.show(request, caller, id))
    if isinstance(shown, BatchDetail):
        answer: Response = JSONResponse(
            (await to_thread.run_sync(batches.cancel, request, caller, id)).model_dump(mode="json")
        )
        run = shown.run
    else:
        service, found = shown
        answer, run = await pass_on(service, request, caller), UUID(found["run"])
    await tell_runs(request, caller, [run])
    return answer


async def _where_it_is(request: Request, caller: Principal, id: UUID, own: Callable[[], BatchDetail]) -> Response:
    found = await _find(request, caller, id, own)
    return JSONResponse(found.model_dump(mode="json") if isinstance(found, BatchDetail) else found[1])


async def _find(
    request: Request, caller: Principal, id: UUID, own: Callable[[], BatchDetail]
) -> BatchDetail | tuple[str, dict[str, str]]:
    """Our own batch, or another service and its answer. Raises NotFound, or Unavailable when one of those that did not
    answer may have it."""
    try:
        return await to_thread.run_sync(own)
    except NotFound:
        found, failed = await request.app.state.peers.ask_all(f"/v1/batches/{id}", _token(caller, request), {})
    for service, answer in found.items():
        if answer is not None:
            return service, answer
    if failed:
        raise Unavailable(f"It may be a batch of {', '.join(failed)}, which cannot be asked now.", id=str(id))
    raise NotFound("There is no such batch.", id=str(id))


def _token(caller: Principal, request: Request) -> str:
    return issue(request.app.state.settings.signing_key, caller)
