"""OTLP 1.x trace exports (protobuf over HTTP) as rows."""

import zlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.api.errors import SpansMalformed
from shared.ledger.values import storable
from shared.telemetry import WORKSPACE

BODY_BYTES = 8 * 1024 * 1024
"""Largest export, unpacked: a small packed one must not fill the memory."""
TEXT_CHARACTERS = 4_000
"""So much of an attribute's text is kept."""


def unpack(body: bytes, encoding: str) -> bytes:
    """The export's bytes, gunzipped if need be. Raises SpansMalformed."""
    if encoding == "gzip":
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = stream.decompress(body, BODY_BYTES + 1)
        except zlib.error as error:
            raise SpansMalformed("The body is not gzip.") from error
    if len(body) > BODY_BYTES:
        raise SpansMalformed(f"The export is larger than {BODY_BYTES} bytes.")
    return body


def spans(body: bytes) -> list[dict[str, Any]]:
    """Rows of the span table. Raises SpansMalformed."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise SpansMalformed("The body is not an ExportTraceServiceRequest.") from error
    return [
        _row(span, service)
        for resource in request.resource_spans
        for service in [_attributes(resource.resource.attributes).get("service.name", "unknown")]
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _row(span: Any, service: str) -> dict[str, Any]:
    attributes = _attributes(span.attributes)
    if len(span.trace_id) != 16 or len(span.span_id) != 8:
        raise SpansMalformed("A trace id has 16 bytes and a span id 8.")
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex() or None,
        "workspace": _workspace(attributes.get(WORKSPACE)),
        "service": str(service)[:100],
        "name": span.name.replace("\x00", "")[:500],
        "kind": _KINDS.get(span.kind, "internal"),
        "status": _STATUSES.get(span.status.code, "unset"),
        "started_at": _time(span.start_time_unix_nano),
        "finished_at": _time(span.end_time_unix_nano),
        "attributes": attributes,
    }


_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_STATUSES = {1: "ok", 2: "error"}


def _time(nanoseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        raise SpansMalformed("A span's time is out of range.") from None


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key.replace("\x00", ""): _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        return storable(getattr(value, kind), TEXT_CHARACTERS)  # a double may be NaN, which jsonb refuses
    return None


def _workspace(value: Any) -> UUID | None:
    try:
        return UUID(str(value)) if value else None
    except ValueError:
        return None
