"""The routes by which callers owe a service jobs of its public kinds."""

import hashlib
import json
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from shared.auth import Principal
from shared.http.bodies import AcceptedBatch, AcceptedJob, RunLink
from shared.http.dependencies import Caller, IdempotencyKey
from shared.ledger.requests import BatchRequest, JobRequest, Owed, owe

router = APIRouter(tags=["jobs"])


@router.post("/v1/jobs", status_code=202, response_model=AcceptedJob)
def create_job(
    caller: Caller.Write, request: Request, body: JobRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Owe one job of a public kind. With an Idempotency-Key a repeated request gets the first one's answer; with a
    `unique` key, whoever asks for it gets the job that is there."""
    answer = accept_job(request, caller, body, idempotency_key)
    headers = {"Location": answer.job.url}
    return Response(answer.model_dump_json(), 202, headers, "application/json")  # not checked again: it is a model


@router.post("/v1/jobs:batch", status_code=202)
def create_jobs(
    caller: Caller.Write,
    request: Request,
    response: Response,
    body: BatchRequest,
    idempotency_key: IdempotencyKey = None,
) -> AcceptedBatch:
    """Owe up to 10,000 jobs as one run: all of them or, when one is wrong, none. The answer has their ids in order."""
    answer = accept_batch(request, caller, body, idempotency_key)
    response.headers["Location"] = answer.run.url
    return answer


def accept_job(request: Request, caller: Principal, body: JobRequest, key: str | None) -> AcceptedJob:
    owed = _owe(request, caller, [body], key, fingerprint(request, body, key))
    return AcceptedJob.of(owed.jobs[0], owed.run, existing=bool(owed.existing))


def accept_batch(request: Request, caller: Principal, body: BatchRequest, key: str | None) -> AcceptedBatch:
    owed = _owe(request, caller, body.jobs, key, fingerprint(request, body, key))
    return AcceptedBatch(run=RunLink.of(owed.run), jobs=owed.jobs, existing=owed.existing)


def _owe(request: Request, caller: Principal, jobs: Sequence[JobRequest], key: str | None, said: str) -> Owed:
    assert caller.workspace is not None
    state = request.app.state
    return owe(state.joint, state.tasks, caller.workspace, jobs, key=key, fingerprint=said)


def fingerprint(request: Request, body: BaseModel, key: str | None) -> str:
    """What makes it the same request: where it went, and what it said, in whatever order."""
    if key is None:
        return ""
    said = f"POST {request.url.path} {json.dumps(body.model_dump(), sort_keys=True, default=str)}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
