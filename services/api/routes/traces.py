"""Spans in (OTLP/HTTP), traces out."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request, Response

from services.api import operations
from services.api.adapters import otlp
from services.api.errors import SpansMalformed
from services.api.schemas import SpanBody, TraceBody
from shared.http import Caller, Transaction, requires

router = APIRouter(tags=["traces"])


@router.post("/v1/traces", dependencies=[Depends(requires("spans"))])
async def store_spans(request: Request) -> Response:
    """An OTLP trace export in protobuf; gzip is understood."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > otlp.BODY_BYTES:
            raise SpansMalformed(f"The export is larger than {otlp.BODY_BYTES} bytes.")
    await to_thread.run_sync(_store, request, bytes(body), request.headers.get("content-encoding", ""))
    return Response(b"", media_type="application/x-protobuf")  # an empty ExportTraceServiceResponse


def _store(request: Request, body: bytes, encoding: str) -> None:
    rows = otlp.spans(otlp.unpack(body, encoding))
    with request.app.state.database.transaction() as session:
        operations.store_spans(session, rows)


@router.get("/v1/traces/{trace_id}")
def show_trace(
    caller: Caller.Read, session: Transaction, trace_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
) -> TraceBody:
    """The workspace's spans of a trace, oldest first."""
    assert caller.workspace is not None
    spans = operations.show_trace(session, caller.workspace, trace_id)
    return TraceBody(trace_id=trace_id, spans=[SpanBody(**span.model_dump()) for span in spans])
