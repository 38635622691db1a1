"""Definitions, renders and their files over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from services.reports import operations, repository
from services.reports.adapters.html import CONTENT_SECURITY_POLICY
from services.reports.domain.definition import Burst, Definition
from services.reports.models import Artifact, Render, ReportDefinition
from services.reports.schemas import (
    ArtifactBody,
    BurstAccepted,
    DefinitionBody,
    DefinitionPage,
    FigureBody,
    RenderBody,
    RenderPage,
    RenderState,
)
from shared import ids
from shared.http import Caller, PageLimit, RunLink, Transaction
from shared.http.batches import BatchLink
from shared.http.dependencies import IdempotencyKey, begin_run
from shared.http.owing import fingerprint
from shared.ledger.enqueue import remember

router = APIRouter(tags=["reports"])


@router.post("/v1/definitions", status_code=201)
def create_definition(
    caller: Caller.Write, session: Transaction, body: Definition, response: Response
) -> DefinitionBody:
    """Define a report. From then on it is rendered for each version of its dataset that is complete."""
    assert caller.workspace is not None
    made = _definition(operations.create_definition(session, caller.workspace, body))
    response.headers["Location"] = made.url
    return made


@router.get("/v1/definitions")
def list_definitions(
    caller: Caller.Read, session: Transaction, after: UUID | None = None, limit: PageLimit = 50
) -> DefinitionPage:
    """The workspace's definitions, newest first."""
    assert caller.workspace is not None
    rows = repository.list_definitions(session, caller.workspace, after, limit + 1)
    return DefinitionPage(
        items=[_definition(row) for row in rows[:limit]], next=rows[limit - 1].id if len(rows) > limit else None
    )


@router.get("/v1/definitions/{id}")
def show_definition(caller: Caller.Read, session: Transaction, id: UUID) -> DefinitionBody:
    """One definition, whole."""
    assert caller.workspace is not None
    return _definition(operations.show_definition(session, caller.workspace, id))


@router.delete("/v1/definitions/{id}", status_code=204)
def delete_definition(caller: Caller.Write, session: Transaction, id: UUID) -> None:
    """Renders that were made of it stay; those already owed are still made."""
    assert caller.workspace is not None
    operations.delete_definition(session, caller.workspace, id)


@router.post("/v1/definitions/{id}/bursts", status_code=202, response_model=BurstAccepted)
def burst_definition(
    caller: Caller.Write,
    session: Transaction,
    request: Request,
    id: UUID,
    body: Burst,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Render one report for each of up to 1,000 recipients, over the newest version of the definition's dataset: each
    of their rows alone. `reports.burst.completed.v1` follows when all have ended. With an Idempotency-Key a repeated
    request gets the first one's answer."""
    run, batch = begin_run(session, caller), ids.draw()
    made = BurstAccepted(batch=BatchLink.of(batch), run=RunLink.of(run.run), renders=len(body.recipients))
    answer = made.model_dump(mode="json")
    if idempotency_key is not None:
        said = fingerprint(request, body, idempotency_key)
        given = remember(session, run.workspace, idempotency_key, said, answer)
        if given is not None:
            return JSONResponse(given, 202, {"Location": given["batch"]["url"]})
    operations.burst(session, id, body, batch)
    return JSONResponse(answer, 202, {"Location": made.batch.url})


@router.get("/v1/renders")
def list_renders(
    caller: Caller.Read,
    session: Transaction,
    run: UUID | None = None,
    definition: Annotated[UUID | None, Query(description="Id of a definition.")] = None,
    state: RenderState | None = None,
    after: UUID | None = None,
    limit: PageLimit = 50,
) -> RenderPage:
    """The workspace's renders, newest first."""
    assert caller.workspace is not None
    rows = repository.list_renders(
        session, caller.workspace, run=run, definition=definition, state=state, after=after, limit=limit + 1
    )
    page = rows[:limit]
    artifacts = operations.artifacts_of(session, page)
    return RenderPage(
        items=[_render(row, artifacts[row.id]) for row in page], next=page[-1].id if len(rows) > limit else None
    )


@router.get("/v1/renders/{id}")
def show_render(caller: Caller.Read, session: Transaction, id: UUID) -> RenderBody:
    """One render with its figures and files."""
    assert caller.workspace is not None
    found = operations.show_render(session, caller.workspace, id)
    return _render(found, operations.artifacts_of(session, [found])[id])


@router.get(
    "/v1/artifacts/{id}",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/html": {}, "application/pdf": {}, "text/csv": {}}}},
)
def download_artifact(
    caller: Caller.Read,
    session: Transaction,
    request: Request,
    id: UUID,
    disposition: Annotated[
        Literal["attachment", "inline"], Query(description="`inline` to look at it in the browser.")
    ] = "attachment",
) -> StreamingResponse:
    """The file, streamed from the object store."""
    assert caller.workspace is not None
    found = operations.show_artifact(session, caller.workspace, id)
    size = request.app.state.objects.size(found.object)  # a 404 here, before the answer has begun
    return StreamingResponse(
        request.app.state.objects.chunks(found.object), media_type=None, headers=_headers(found, size, disposition)
    )


def _headers(artifact: Artifact, size: int, disposition: str) -> dict[str, str]:
    """The file may hold anything that users' data holds: the browser is told to trust none of it.

    The sandbox stops short of the PDF, which browsers' viewers would refuse to show under it.
    """
    headers = {
        "Content-Type": artifact.media_type,
        "Content-Length": str(size),
        "Content-Disposition": f'{disposition}; filename="{artifact.filename}"',
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, no-cache",
    }
    if artifact.format != "pdf":
        headers["Content-Security-Policy"] = f"sandbox; {CONTENT_SECURITY_POLICY}"
    return headers


def _definition(row: ReportDefinition) -> DefinitionBody:
    return DefinitionBody.model_validate(
        {**row.body, "id": row.id, "created_at": row.created_at, "url": f"/v1/definitions/{row.id}"}
    )


def _render(row: Render, artifacts: list[Artifact]) -> RenderBody:
    return RenderBody(
        **row.model_dump(include=set(RenderBody.model_fields) - {"definition", "figures"}),
        definition=row.definition["name"],
        title=row.definition["title"],
        figures=[FigureBody(**figure) for figure in row.figures or ()],
        artifacts=[ArtifactBody(**each.model_dump(), url=f"/v1/artifacts/{each.id}") for each in artifacts],
        url=f"/v1/renders/{row.id}",
    )
