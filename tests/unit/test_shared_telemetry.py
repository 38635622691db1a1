"""What is recorded of a trace, whatever its caller says of it."""

import pytest

from shared import telemetry

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
