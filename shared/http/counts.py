"""The route that counts jobs over time."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from shared.auth import Principal
from shared.db import raw
from shared.http.dependencies import Caller
from shared.ledger import counts
from shared.ledger.counts import MOST_BUCKETS, USUAL_BUCKETS, Bucket
from shared.ledger.messages import Moment

router = APIRouter(tags=["jobs"])

BucketQuery = Annotated[Bucket, Query(description="How long each is; days are UTC's.")]
FromQuery = Annotated[
    Moment | None,
    Query(
        description=f"From the bucket of this moment on; by default {USUAL_BUCKETS} buckets, at most {MOST_BUCKETS}."
    ),
]
UntilQuery = Annotated[Moment | None, Query(description="Before this moment; by default until now.")]
KindQuery = Annotated[str | None, Query(max_length=200)]


class Spread(BaseModel):
    """Seconds."""

    p50: float
    p95: float
    max: float


class KindCount(BaseModel):
    """The jobs of a kind that were created in the range."""

    service: str
    kind: str
    jobs: int
    states: dict[str, int]
    """How they stand now."""
    wait: Spread | None
    """From their creation to their first attempt; null when none has begun."""
    took: Spread | None
    """Their last attempt, of those that have ended."""


class BucketCount(KindCount):
    """The jobs of a kind that were created in one bucket; buckets without any are left out."""

    start: datetime


class JobCounts(BaseModel):
    bucket: Bucket
    since: datetime
    until: datetime
    is_complete: bool
    """Whether all jobs of the range were looked at: of each service the newest 100,000 are, from `since` on."""
    buckets: list[BucketCount]
    """In the order of time."""
    kinds: list[KindCount]
    """Over the whole range."""
    unreachable: list[str] = []
    """Services that could not be asked, when the answer is the gateway's."""


@router.get("/v1/jobs:counts")
def count_jobs(
    caller: Caller.Read,
    request: Request,
    bucket: BucketQuery = "hour",
    created_from: FromQuery = None,
    created_until: UntilQuery = None,
    kind: KindQuery = None,
) -> JobCounts:
    """How many jobs the workspace's were over time by kind, how they stand, how long they waited and took."""
    return count(request, caller, bucket, created_from, created_until, kind)


def count(
    request: Request,
    caller: Principal,
    bucket: Bucket,
    since: datetime | None,
    until: datetime | None,
    kind: str | None,
) -> JobCounts:
    assert caller.workspace is not None
    service = request.app.state.service
    with request.app.state.database.transaction() as session:
        found = counts.count(raw(session), caller.workspace, bucket, since, until, kind=kind)
    for each in (*found["buckets"], *found["kinds"]):
        each["service"] = service
    return JobCounts(bucket=bucket, **found)
