"""Traces, logs and metrics: set up once a process, after any fork."""

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode

from shared.spans import SAMPLED, HopSpan

TRACER = "millrace"
WORKSPACE = "millrace.workspace"
STOP_SECONDS = 2.0
_state: dict[str, Any] = {}


def start(service: str) -> None:
    """Begin tracing in this process; exports by OTLP when OTEL_EXPORTER_OTLP_ENDPOINT is set.

    The exporter runs a thread and drops spans when its queue is full: a collector that is down costs
    nothing but the spans. Called again after a fork, it starts afresh.
    """
    if _state.get("pid") == os.getpid():
        return
    resource = Resource.create({"service.name": service, "service.namespace": "millrace"})
    # Every span, whatever the caller's `traceparent` says of sampling: the trace of a run is the product's own record.
    processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, active_span_processor=processors)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=2), schedule_delay_millis=500))
    scope = InstrumentationScope(TRACER)
    begin = partial(HopSpan, resource=resource, scope=scope, done=processors.on_end)
    _state.update(pid=os.getpid(), provider=provider, begin=begin)


def provider() -> TracerProvider | None:
    found: TracerProvider | None = _state.get("provider")
    return found


def stop() -> None:
    """Send what is left, for at most STOP_SECONDS: a collector that is down must not hold up a stop."""
    found = provider()
    if found is not None and _state.get("pid") == os.getpid():
        thread = threading.Thread(target=found.shutdown, daemon=True)  # its own time-outs add up to 10 s
        thread.start()
        thread.join(STOP_SECONDS)
        _state.clear()


def traceparent() -> str | None:
    """The current span as a W3C `traceparent`, to be stored on jobs and events."""
    return _written(trace.get_current_span())


def trace_of(traceparent: str | None) -> str | None:
    """The trace id (32 hex digits) of a W3C `traceparent`; None of one that is missing or malformed."""
    if not traceparent:
        return None
    known = _stored(traceparent).get_span_context()
    return trace.format_trace_id(known.trace_id) if known.is_valid else None


@contextmanager
def detached() -> Iterator[None]:
    """What is begun or enqueued inside belongs to no trace yet."""
    token = context.attach(context.Context())
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(
    name: str,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    workspace: UUID | None = None,
    start_at: datetime | None = None,
    **attributes: Any,
) -> Iterator[Span]:
    """A span below the stored `traceparent`, or below the current span. In attribute names `_` becomes `.`; values are
    texts, numbers and truths.

    Spans are shown to the workspace that they carry, and to no other; those below inherit it.
    """
    begun = _begin(name, parent, kind, workspace, start_at, attributes)
    token = context.attach(trace.set_span_in_context(begun))
    try:
        yield begun
    except BaseException as error:
        begun.set_status(StatusCode.ERROR, type(error).__name__)
        raise
    finally:
        context.detach(token)
        begun.end()


def mark(
    name: str,
    parent: str | None,
    kind: SpanKind,
    *,
    workspace: UUID,
    start_at: datetime | None = None,
    **attributes: Any,
) -> str | None:
    """A span, as `span` makes one, that ends now; answers its `traceparent`."""
    begun = _begin(name, parent, kind, workspace, start_at, attributes)
    begun.end()
    return _written(begun)


def _begin(
    name: str,
    parent: str | None,
    kind: SpanKind,
    workspace: UUID | None,
    start_at: datetime | None,
    attributes: dict[str, Any],
) -> Span:
    known = {key.replace("_", "."): value for key, value in attributes.items() if value is not None}
    above = _stored(parent) if parent else trace.get_current_span()
    if workspace is not None:
        known[WORKSPACE] = str(workspace)
    elif inherited := (getattr(above, "attributes", None) or {}).get(WORKSPACE):
        known[WORKSPACE] = inherited
    begin = _state.get("begin")
    if begin is None:
        return NonRecordingSpan(above.get_span_context())
    beneath = above.get_span_context()
    start = int(start_at.timestamp() * 1e9) if start_at else None
    begun: Span = begin(name, beneath if beneath.is_valid else None, kind, known, start)
    return begun


def _stored(traceparent: str) -> Span:
    """The span that a W3C `traceparent` names; one that is not valid when it is malformed."""
    if found := _OURS.fullmatch(traceparent):
        trace_id, span_id = int(found[1], 16), int(found[2], 16)
        return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=SAMPLED))
    return trace.get_current_span(propagate.extract({"traceparent": traceparent}, context.Context()))


def _written(span: Span) -> str | None:
    known = span.get_span_context()
    if not known.is_valid:
        return None
    return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"


_OURS = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
"""As `_written` writes them. Of others the library knows what the standard wants."""


def belongs_to(workspace: UUID) -> None:
    """Mark the current span (a request's) as the workspace's."""
    trace.get_current_span().set_attribute(WORKSPACE, str(workspace))


def configure_logs(service: str, level: str, style: str) -> None:
    """Structured logs on standard error, each line with the trace and span it belongs to."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        lambda _, __, entry: {"service": service, **entry},
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "uvicorn.access",
        "celery.worker.strategy",
        "celery.app.trace",
        "alembic",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_trace(_: Any, __: str, entry: Any) -> Any:
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        entry["trace_id"] = f"{current.trace_id:032x}"
        entry["span_id"] = f"{current.span_id:016x}"
    return entry
