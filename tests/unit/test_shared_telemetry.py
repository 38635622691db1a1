"""What is recorded of a trace, whatever its caller says of it."""

from contextlib import suppress

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import SpanProcessor

from shared import ids, telemetry

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
MALFORMED = [
    "",
    "-",
    "00",
    "nonsense",
    f"00-{TRACE}",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE[:-1]}g-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    "00-" + "4" * 10_000,
    "\x00\n\r",
    "é" * 55,
]


@pytest.fixture
def tracing(monkeypatch):
    """Tracing as a process without a collector has it."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.setattr(telemetry, "_state", {})
    telemetry.start("test")
    yield
    telemetry.stop()


class Kept(SpanProcessor):
    """What has ended, as an exporter gets it."""

    def __init__(self):
        self.spans = []

    def on_end(self, span):
        self.spans.append(span)


@pytest.fixture
def kept(tracing):
    processor = Kept()
    telemetry.provider().add_span_processor(processor)
    return processor


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_job_is_recorded_whether_or_not_its_caller_wanted_that(tracing, flags):
    with telemetry.span("ingest.dataset.load", f"00-{TRACE}-{SPAN}-{flags}") as current:
        assert current.is_recording()
        assert telemetry.traceparent() == f"00-{TRACE}-{current.get_span_context().span_id:016x}-01"


def test_the_environment_does_not_switch_recording_off(monkeypatch, tracing):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setattr(telemetry, "_state", {})
    telemetry.start("test")
    with telemetry.span("x") as current:
        assert current.is_recording()


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_traceparent_begins_a_trace_of_its_own(tracing, traceparent):
    assert telemetry.trace_of(traceparent) is None
    with telemetry.span("x", traceparent) as current:
        assert current.is_recording()
        assert current.parent is None


def test_tells_the_trace_of_a_traceparent():
    assert telemetry.trace_of(f"00-{TRACE}-{SPAN}-00") == TRACE
    assert telemetry.trace_of(None) is None


def test_what_is_detached_belongs_to_no_trace(tracing):
    with telemetry.span("x"):
        with telemetry.detached():
            assert telemetry.traceparent() is None
        assert telemetry.traceparent() is not None


def test_a_span_is_exported_with_what_it_was_given(kept):
    workspace = ids.draw()
    with (
        suppress(KeyError),
        telemetry.span("load", f"00-{TRACE}-{SPAN}-00", trace.SpanKind.CONSUMER, workspace=workspace, job_attempt=2),
    ):
        telemetry.mark("inner", None, trace.SpanKind.PRODUCER, workspace=workspace)
        raise KeyError
    [batch] = encode_spans(kept.spans).resource_spans
    assert {each.key: each.value.string_value for each in batch.resource.attributes}["service.name"] == "test"
    [scope] = batch.scope_spans
    assert scope.scope.name == telemetry.TRACER
    inner, load = scope.spans
    assert (load.name, load.trace_id.hex(), load.parent_span_id.hex()) == ("load", TRACE, SPAN)
    assert (inner.trace_id, inner.parent_span_id) == (load.trace_id, load.span_id)
    assert (load.status.code, load.status.message) == (trace.StatusCode.ERROR.value, "KeyError")
    assert 0 < load.start_time_unix_nano <= inner.end_time_unix_nano <= load.end_time_unix_nano
    said = {each.key: each.value for each in load.attributes}
    assert (said["job.attempt"].int_value, said[telemetry.WORKSPACE].string_value) == (2, str(workspace))
    assert not load.events


def test_a_span_that_has_ended_does_not_change(kept):
    with telemetry.span("x", job_attempt=1) as ended:
        ended.set_attributes({"more": True})
        ended.update_name("y")
    ended.set_attribute("late", 1)
    ended.set_status(trace.Status(trace.StatusCode.ERROR))
    ended.update_name("z")
    ended.end()
    [span] = kept.spans
    assert (span.name, dict(span.attributes), span.status.is_ok) == ("y", {"job.attempt": 1, "more": True}, True)


def test_a_mark_answers_where_others_go_on(kept):
    parent = f"00-{TRACE}-{SPAN}-01"
    told = telemetry.mark("receive", parent, trace.SpanKind.CONSUMER, workspace=ids.draw())
    [span] = kept.spans
    assert told == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert span.parent.span_id == int(SPAN, 16)


def test_without_tracing_what_is_stored_is_the_callers(monkeypatch):
    monkeypatch.setattr(telemetry, "_state", {})
    parent = f"00-{TRACE}-{SPAN}-01"
    assert telemetry.mark("receive", parent, trace.SpanKind.CONSUMER, workspace=ids.draw()) == parent
    with telemetry.span("x", parent):
        assert telemetry.traceparent() == parent
