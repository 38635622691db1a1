"""Spans of the product's own hops, a few for each job: the SDK's, with its limits, locks and checks for whoever may
write to them, take four times as long to make (docs/decisions/0009)."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ids = RandomIdGenerator()


class HopSpan(ReadableSpan, Span):
    """A span that exporters read as they read the SDK's. It has attributes and a status; events, which would tell of
    exceptions and so of secrets, it does not keep. For one thread."""

    _attributes: dict[str, Any]

    def __init__(
        self,
        name: str,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        start: int | None,
        *,
        resource: Resource,
        scope: InstrumentationScope,
        done: Callable[[ReadableSpan], None],
    ) -> None:
        """`start`: nanoseconds, by default now. `done` is told when it has ended."""
        trace = parent.trace_id if parent is not None else _ids.generate_trace_id()
        super().__init__(
            name,
            SpanContext(trace, _ids.generate_span_id(), is_remote=False, trace_flags=SAMPLED),
            parent,
            resource,
            attributes,
            kind=kind,
            start_time=start or time.time_ns(),
            instrumentation_scope=scope,
        )
        self._done = done

    def get_span_context(self) -> SpanContext:
        assert self._context is not None
        return self._context

    def is_recording(self) -> bool:
        return self._end_time is None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if self.is_recording():
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.is_recording():
            self._status = status if isinstance(status, Status) else Status(status, description)

    def update_name(self, name: str) -> None:
        if self.is_recording():
            self._name = name

    def add_event(self, *_: Any, **__: Any) -> None:
        return None

    def record_exception(self, *_: Any, **__: Any) -> None:
        return None

    def end(self, end_time: int | None = None) -> None:
        if self.is_recording():
            self._end_time = end_time or time.time_ns()
            self._done(self)
