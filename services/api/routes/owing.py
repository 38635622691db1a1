"""Owing jobs by name: the gateway gives a request to the service that the kind begins with."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.api.errors import BatchMixed
from services.api.routes.gateway import enter_run, pass_on
from shared.auth import Principal
from shared.contracts.catalog import SERVICES
from shared.http import requires
from shared.http.bodies import AcceptedBatch, AcceptedJob
from shared.http.dependencies import IdempotencyKey
from shared.http.owing import accept_batch, accept_job
from shared.ledger.execute import KindUnknown
from shared.ledger.requests import BatchRequest, JobRequest

router = APIRouter(tags=["jobs"])
Writer = Annotated[Principal, Depends(requires("write"))]


@router.post("/v1/jobs", status_code=202, response_model=AcceptedJob)
async def create_job(
    caller: Writer, request: Request, body: JobRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Owe one job of a public kind. With an Idempotency-Key a repeated request gets the first one's answer; with a
    `unique` key, whoever asks for it gets the job that is there."""
    service = service_of(body.kind)
    if service != "api":
        return await pass_on(service, request, caller)
    answer = await to_thread.run_sync(accept_job, request, caller, body, idempotency_key)
    return await _own(request, caller, answer, answer.job.url)


@router.post("/v1/jobs:batch", status_code=202, response_model=AcceptedBatch)
async def create_jobs(
    caller: Writer, request: Request, body: BatchRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Owe up to 10,000 jobs of one service as one run: all of them or, when one is wrong, none. The answer has
    their ids in order."""
    service = service_of(body.jobs[0].kind, index=0)
    for index, job in enumerate(body.jobs):
        if service_of(job.kind, index=index) != service:
            detail = (
                f"A batch is of one service: this one began with {service}, and job {index} is of kind {job.kind!r}."
            )
            raise BatchMixed(detail, kind=job.kind, index=index)
    if service != "api":
        return await pass_on(service, request, caller)
    answer = await to_thread.run_sync(accept_batch, request, caller, body, idempotency_key)
    return await _own(request, caller, answer, answer.run.url)


def service_of(kind: str, **facts: Any) -> str:
    """Raises KindUnknown when it begins with no service's name."""
    service = kind.partition(".")[0]
    if service not in SERVICES:
        raise KindUnknown(
            f"There is no kind of job named {kind!r}: kinds begin with {', '.join(SERVICES)}.", kind=kind, **facts
        )
    return service


async def _own(request: Request, caller: Principal, answer: AcceptedJob | AcceptedBatch, location: str) -> JSONResponse:
    assert caller.workspace is not None
    await to_thread.run_sync(enter_run, request, caller.workspace, str(answer.run.id))
    return JSONResponse(answer.model_dump(mode="json"), 202, {"Location": location})
