"""Datasets over HTTP: uploads in, versions and rejects out."""

import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from services.ingest import operations, repository
from services.ingest.adapters import read_rejects
from services.ingest.errors import EmptyFile
from services.ingest.models import Dataset, DatasetVersion
from services.ingest.operations import Upload
from services.ingest.schemas import (
    AcceptedDataset,
    DatasetBody,
    DatasetLink,
    DatasetPage,
    RejectBody,
    RejectPage,
    VersionBody,
    VersionPage,
)
from shared.auth import Principal
from shared.errors import MillraceError, NotFound, TooLarge, UnsupportedMediaType
from shared.http import Accepted, Caller, PageLimit, Transaction
from shared.http.dependencies import IdempotencyKey, begin_run
from shared.ledger.enqueue import remember

router = APIRouter(tags=["datasets"])
Name = Annotated[str, Query(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
MEDIA_TYPES = ("text/csv", "application/csv", "text/plain", "application/octet-stream")
CSV_BODY = {"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}}


class Repeated(Exception):
    """The Idempotency-Key came before with the same request: roll back and answer what was answered then."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response


@router.post("/v1/datasets", status_code=202, response_model=AcceptedDataset, openapi_extra=CSV_BODY)
async def upload_dataset(
    caller: Caller.Write, request: Request, name: Name, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Send a CSV as the body. It is stored as it comes, then loaded as the next version of the dataset `name`.

    With an Idempotency-Key a repeated request gets the first one's answer, and adds nothing.
    """
    _check_media_type(request)
    assert caller.workspace is not None
    key = operations.upload_key(caller.workspace)
    body = _Body(request, request.app.state.settings.max_upload_bytes)
    # A body that breaks off, or grows too large, raises in here and leaves no object behind.
    await request.app.state.objects.put_stream(key, body.chunks())
    try:
        if body.bytes == 0:
            raise EmptyFile("The request has no body: send the CSV itself.")
        upload = Upload(key, body.bytes, body.sha256)
        answer = await to_thread.run_sync(_accept, request, caller, name, upload, idempotency_key)
    except (MillraceError, Repeated) as refused:
        # Rolled back for certain. After any other error the commit may have come through and a job may count on
        # the object: it stays, at worst as an orphan, as it does when the process dies on this line.
        await to_thread.run_sync(request.app.state.objects.delete, key)
        if not isinstance(refused, Repeated):
            raise
        answer = refused.response
    return JSONResponse(answer, 202, {"Location": answer["job"]["url"]})


def _accept(
    request: Request, caller: Principal, name: str, upload: Upload, idempotency_key: str | None
) -> dict[str, Any]:
    with request.app.state.database.transaction() as session:
        run = begin_run(session, caller)
        version = operations.accept_upload(session, name, upload)
        link = DatasetLink(
            id=version.dataset, name=name, version=version.version, url=f"/v1/datasets/{version.dataset}"
        )
        accepted = AcceptedDataset(**Accepted.of(version.job, run.run).model_dump(), dataset=link)
        answer = accepted.model_dump(mode="json")
        if idempotency_key is not None:
            fingerprint = hashlib.sha256(f"POST /v1/datasets {name} {upload.sha256}".encode()).hexdigest()
            given = remember(session, run.workspace, idempotency_key, fingerprint, answer)
            if given is not None:
                raise Repeated(given)
    return answer


class _Body:
    """The request's body as a stream, counted and hashed on its way."""

    def __init__(self, request: Request, limit: int) -> None:
        self._request = request
        self._limit = limit
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises TooLarge, and ClientDisconnect when the client goes away before the end."""
        self._check(_announced(self._request))
        async for chunk in self._request.stream():
            self.bytes += len(chunk)
            self._check(self.bytes)
            self._hash.update(chunk)
            if chunk:
                yield chunk

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(f"The upload is larger than {self._limit:,} bytes.", limit=self._limit)


def _announced(request: Request) -> int:
    """Bytes that the client says it will send; 0 when it does not say."""
    return int(request.headers.get("content-length", "0"))


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "text/csv").partition(";")[0].strip().lower()
    if given not in MEDIA_TYPES:
        raise UnsupportedMediaType(f"Send the CSV itself as the body, as text/csv; {given} is not understood.")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType(f"Send the CSV as it is: the content coding {coding} is not understood.")


@router.get("/v1/datasets")
def list_datasets(
    caller: Caller.Read, session: Transaction, name: str | None = None, after: UUID | None = None, limit: PageLimit = 50
) -> DatasetPage:
    """The workspace's datasets, each as its newest version stands."""
    assert caller.workspace is not None
    rows = repository.list_datasets(session, caller.workspace, name, after, limit + 1)
    page = [_dataset(*row) for row in rows[:limit]]
    return DatasetPage(items=page, next=page[-1].id if len(rows) > limit else None)


@router.get("/v1/datasets/{id}")
def show_dataset(caller: Caller.Read, session: Transaction, id: UUID) -> DatasetBody:
    """One dataset as its newest version stands, with the profile of its columns."""
    assert caller.workspace is not None
    return _dataset(*operations.show_dataset(session, caller.workspace, id))


@router.get("/v1/datasets/{id}/versions")
def list_versions(
    caller: Caller.Read, session: Transaction, id: UUID, after: int | None = None, limit: PageLimit = 50
) -> VersionPage:
    """Every version, the newest first."""
    assert caller.workspace is not None
    operations.show_dataset(session, caller.workspace, id)
    rows = repository.list_versions(session, caller.workspace, id, after, limit + 1)
    page = [VersionBody(**row.model_dump()) for row in rows[:limit]]
    return VersionPage(items=page, next=page[-1].version if len(rows) > limit else None)


@router.get("/v1/datasets/{id}/rejects")
def list_rejects(
    caller: Caller.Read,
    session: Transaction,
    request: Request,
    id: UUID,
    version: int | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: PageLimit = 100,
) -> RejectPage:
    """What was kept out and why, in the file's order; of the newest version, unless one is named."""
    assert caller.workspace is not None
    dataset, newest = operations.show_dataset(session, caller.workspace, id)
    found = newest if version is None else repository.find_version(session, dataset.id, version)
    if found is None:
        raise NotFound("There is no such version.", version=version)
    if found.rejects is None:
        return RejectPage(items=[], next=None)
    with tempfile.TemporaryDirectory(prefix="millrace-rejects-") as folder:
        path = Path(folder) / "rejects.parquet"
        request.app.state.objects.get_file(found.rejects, path)
        rows = read_rejects(path, after, limit + 1)
    items = [RejectBody(**row) for row in rows[:limit]]
    return RejectPage(items=items, next=after + limit if len(rows) > limit else None)


def _dataset(dataset: Dataset, version: DatasetVersion) -> DatasetBody:
    return DatasetBody(**version.model_dump(), id=dataset.id, name=dataset.name, url=f"/v1/datasets/{dataset.id}")
