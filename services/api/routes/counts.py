"""Counts of jobs over time, of all services. Kinds are a service's own, so what each of them counts is the whole."""

from datetime import UTC, datetime

from anyio import to_thread
from fastapi import APIRouter, Request

from shared.auth import issue
from shared.http import counts
from shared.http.counts import BucketQuery, FromQuery, JobCounts, KindQuery, UntilQuery
from shared.http.dependencies import Caller

router = APIRouter(tags=["jobs"])


@router.get("/v1/jobs:counts")
async def count_jobs(
    caller: Caller.Look,
    request: Request,
    bucket: BucketQuery = "hour",
    created_from: FromQuery = None,
    created_until: UntilQuery = None,
    kind: KindQuery = None,
) -> JobCounts:
    """How many jobs of all services there were over time by kind, how they stand, how long they waited and took."""
    until = created_until or datetime.now(UTC)  # the same for all of them
    own = await to_thread.run_sync(counts.count, request, caller, bucket, created_from, until, kind)
    asked = {"bucket": bucket, "created_from": created_from, "created_until": until, "kind": kind}
    params = {name: str(value) for name, value in asked.items() if value is not None}
    token = issue(request.app.state.settings.signing_key, caller)
    found, failed = await request.app.state.peers.ask_all("/v1/jobs:counts", token, params)
    parts = [own, *(JobCounts.model_validate(part) for part in found.values() if part)]
    return JobCounts(
        bucket=bucket,
        since=max(part.since for part in parts),
        until=until,
        is_complete=all(part.is_complete for part in parts),
        buckets=sorted((each for part in parts for each in part.buckets), key=lambda each: (each.start, each.kind)),
        kinds=sorted((each for part in parts for each in part.kinds), key=lambda each: each.kind),
        unreachable=sorted(failed),
    )
