"""One trace from the request through the event to the last job, in the workspace that it belongs to."""

import asyncio
import io
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
from fastapi import APIRouter
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import ids, telemetry
from shared.ledger.attempts import Attempt
from shared.ledger.dispatch import Dispatcher, EventPublisher
from shared.ledger.enqueue import publish
from shared.ledger.intake import Intake
from shared.ledger.tasks import Tasks
from shared.testing.http import TestApp
from tests.integration.toy.events import SUBSCRIPTIONS, envelope_of
from tests.integration.toy.harness import Broken, Toy, tasks_of
from tests.integration.toy.jobs import Do, NoteThing, ThingDone
from tests.integration.toy.web import application
from tests.integration.toy.wire import Wire


class Spans:
    """What this process has traced."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def of(self, traceparent: str) -> list[ReadableSpan]:
        return [span for span in self.all() if f"{span.context.trace_id:032x}" == traceparent.split("-")[1]]

    def one(self, name: str) -> ReadableSpan:
        [span] = [span for span in self.all() if span.name == name]
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    telemetry.stop()
    telemetry.start("toy")
    exporter = InMemorySpanExporter()
    provider = telemetry.provider()
    assert provider is not None
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Spans(exporter)
    telemetry.stop()


def dispatch(toy: Toy) -> Wire:
    wire = Wire()
    with toy.connect() as connection:
        Dispatcher("toy", ("toy.jobs",), wire, window=100, redispatch_seconds=5, slots=1).dispatch(connection)
        publisher = EventPublisher("toy", wire)
        publisher.place(connection)
        publisher.publish(connection)
    return wire


def test_one_trace_leads_from_the_request_to_the_last_job(toy: Toy, toy_url: str, tmp_path: Path, spans: Spans) -> None:
    tasks = Tasks()

    @tasks.job(Do)
    def do(attempt: Attempt, args: Do) -> None:
        with attempt.finishing() as session:
            publish(session, ThingDone(name="a"), subject=attempt.job.id)

    @tasks.job(NoteThing)
    def note(attempt: Attempt, args: NoteThing) -> None:
        with telemetry.span("inner"):
            pass

    app = application(toy_url, tmp_path)
    answer = TestApp(app).client(toy.workspace).post("/v1/things", json={"name": "a"})
    job = UUID(answer.json()["job"]["id"])
    for message in dispatch(toy).sent:
        toy.run(tasks, *message.jobs)
    for events in dispatch(toy).events:
        Intake(toy.database, SUBSCRIPTIONS).receive([event.model_dump(mode="json") for event in events])
    for message in dispatch(toy).sent:
        toy.run(tasks, *message.jobs, kind=message.kind)
    app.state.database.dispose()

    seen = spans.of(toy.job(job)["traceparent"])
    assert [span.name for span in seen if span.name != "inner"] == [
        "POST /v1/things",
        "dispatch toy.thing.do",
        "toy.thing.do",
        "publish toy.thing.done.v1",
        "receive toy.thing.done.v1",
        "dispatch toy.thing.note",
        "toy.thing.note",
    ]
    assert parents(seen) == {
        "POST /v1/things": None,
        "dispatch toy.thing.do": "POST /v1/things",
        "toy.thing.do": "POST /v1/things",
        "publish toy.thing.done.v1": "toy.thing.do",
        "receive toy.thing.done.v1": "toy.thing.do",
        "dispatch toy.thing.note": "receive toy.thing.done.v1",
        "toy.thing.note": "receive toy.thing.done.v1",
        "inner": "toy.thing.note",
    }
    assert {(span.attributes or {}).get(telemetry.WORKSPACE) for span in seen} == {str(toy.workspace)}
    runs = {row["run"] for row in toy.execute("SELECT run FROM job UNION ALL SELECT run FROM event")}
    assert runs == {UUID(answer.json()["run"]["id"])}


def parents(seen: list[ReadableSpan]) -> dict[str, str | None]:
    names = {span.context.span_id: span.name for span in seen}
    return {span.name: names.get(span.parent.span_id) if span.parent else None for span in seen}


def test_each_attempt_has_a_span_below_the_same_parent(toy: Toy, spans: Spans) -> None:
    with telemetry.span("cause", workspace=toy.workspace):
        job = toy.enqueue()
    toy.run_out(tasks_of(lambda attempt, args: 1 / 0), job)
    attempts = [span for span in spans.all() if span.name == "toy.thing.do"]
    assert [(span.attributes or {})["job.attempt"] for span in attempts] == [1, 2, 3]
    assert {span.parent.span_id for span in attempts if span.parent} == {spans.one("cause").context.span_id}
    assert {span.status.status_code for span in attempts} == {trace.StatusCode.ERROR}


def test_a_failed_attempts_span_tells_its_kind_and_no_secret(toy: Toy, spans: Spans) -> None:
    def body(attempt: Attempt, args: Do) -> None:
        raise Broken("password=hunter2")

    toy.run(tasks_of(body), toy.enqueue())
    span = spans.one("toy.thing.do")
    assert span.status.description == "Broken"
    assert "hunter2" not in span.to_json()


def test_an_event_that_comes_twice_leaves_one_span(toy: Toy, spans: Spans) -> None:
    event = envelope_of(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    intake = Intake(toy.database, SUBSCRIPTIONS)
    for _ in range(2):
        intake.take([event])
    span = spans.one("receive toy.thing.done.v1")
    assert f"{span.context.trace_id:032x}" == "a" * 32
    assert (span.attributes or {})[telemetry.WORKSPACE] == str(event.workspace)


@pytest.mark.parametrize(
    "traceparent", [None, "", "garbage", "00-short-x-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
def test_without_a_good_parent_a_trace_begins(spans: Spans, traceparent: str | None) -> None:
    with telemetry.span("begun", traceparent):
        assert telemetry.traceparent() is not None
    assert spans.one("begun").parent is None


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/v1/things/one", "GET /v1/things/{name}", 200),
        ("DELETE", "/v1/things/one", "DELETE /v1/things/{name}", 204),
        ("POST", "/v1/things", "POST /v1/things", 422),
        ("GET", "/nowhere", "GET", 404),
        ("GET", "/v1/fails", "GET /v1/fails", 500),
    ],
)
def test_a_request_has_a_span_below_its_callers(
    toy_url: str, tmp_path: Path, spans: Spans, method: str, path: str, name: str, status: int
) -> None:
    failing, workspace = APIRouter(), ids.draw()

    @failing.get("/v1/fails")
    def fail() -> None:
        raise ValueError

    app = application(toy_url, tmp_path, failing)
    client = TestApp(app).client(workspace, raise_server_exceptions=False)
    trace_id, above = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answer = client.request(method, path, headers={"traceparent": f"00-{trace_id}-{above}-00"})
    app.state.database.dispose()
    assert answer.status_code == status
    [span] = spans.all()
    assert (span.name, span.kind) == (name, trace.SpanKind.SERVER)
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace_id, above)
    said = dict(span.attributes or {})
    assert (said["http.request.method"], said["url.path"]) == (method, path)
    assert (said["http.response.status_code"], said.get("http.route")) == (status, name.partition(" ")[2] or None)
    assert said.get(telemetry.WORKSPACE) == (str(workspace) if name.endswith(("things", "{name}")) else None)
    assert span.status.is_ok == (status < 500)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", f"/v1/jobs/{UUID(int=1)}/events"])
def test_probes_and_streams_have_none(toy: Toy, toy_url: str, tmp_path: Path, spans: Spans, path: str) -> None:
    app = application(toy_url, tmp_path)
    TestApp(app).client(toy.workspace).get(path)
    app.state.database.dispose()
    assert spans.all() == []


def test_spans_below_belong_to_the_same_workspace_also_across_threads_of_control(spans: Spans) -> None:
    workspace, other = ids.draw(), ids.draw()

    async def inside() -> None:
        with telemetry.span("inside"):
            pass

    with telemetry.span("outer", workspace=workspace):
        asyncio.run(inside())
        with telemetry.span("of another", workspace=other), telemetry.span("below another"):
            pass
    with telemetry.span("outside"):
        pass

    def workspace_of(name: str) -> Any:
        return (spans.one(name).attributes or {}).get(telemetry.WORKSPACE)

    assert [workspace_of(name) for name in ("inside", "of another", "below another", "outside")] == [
        str(workspace),
        str(other),
        str(other),
        None,
    ]


def test_a_dispatch_span_begins_when_the_job_was_due(toy: Toy, spans: Spans) -> None:
    with telemetry.span("cause"):
        job = toy.enqueue()
    dispatch(toy)
    begun = (spans.one("dispatch toy.thing.do").start_time or 0) / 1e9
    assert begun == pytest.approx(toy.job(job)["not_before"].timestamp(), abs=0.001)


def test_after_a_fork_tracing_begins_afresh(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    before = telemetry.provider()
    telemetry.start("toy")
    assert telemetry.provider() is before
    monkeypatch.setattr(telemetry.os, "getpid", lambda: -1)
    telemetry.start("toy")
    after = telemetry.provider()
    assert after is not before
    assert after is not None
    after.shutdown()
    monkeypatch.undo()
    telemetry._state.update(provider=before, pid=telemetry.os.getpid())


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_collector_that_is_down_costs_no_time(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if how == "hangs" else 1
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        telemetry.stop()
        telemetry.start("toy")
        began = time.monotonic()
        for _ in range(3000):  # more than its queue holds
            with telemetry.span("work"):
                pass
        worked = time.monotonic()
        telemetry.stop()
        stopped = time.monotonic()
    assert worked - began < 3
    assert stopped - worked < telemetry.STOP_SECONDS + 1


# Logs


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as a process of ours has it set up."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level, configuration = root.level, structlog.get_config()
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    telemetry.configure_logs("toy", "INFO", "json")
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**configuration)


def test_a_log_line_names_the_trace_that_it_belongs_to(lines: io.StringIO, spans: Spans) -> None:
    with telemetry.span("work"):
        structlog.get_logger("a").warning("inside", job="1")
        logging.getLogger("b").warning("of a library: %s", "x")
    logging.getLogger("b").warning("outside")
    inside, library, outside = (json.loads(line) for line in lines.getvalue().splitlines())
    context = spans.one("work").context
    assert inside["trace_id"] == library["trace_id"] == f"{context.trace_id:032x}"
    assert inside["span_id"] == f"{context.span_id:016x}"
    assert (inside["event"], inside["job"], inside["service"], inside["level"]) == ("inside", "1", "toy", "warning")
    assert library["event"] == "of a library: x"
    assert "trace_id" not in outside


def test_a_log_line_is_one_line_whatever_is_in_it(lines: io.StringIO) -> None:
    try:
        raise RuntimeError("two\nlines \x00 \ud800")
    except RuntimeError:
        structlog.get_logger("a").exception("it\nbroke", value="\x1b[31m", fact=object())
    [line] = lines.getvalue().splitlines()
    assert "RuntimeError" in json.loads(line)["exception"]


def test_lines_of_a_job_name_the_job(lines: io.StringIO, toy: Toy) -> None:
    job = toy.enqueue()

    def body(attempt: Attempt, args: Do) -> None:
        structlog.get_logger("a").info("working")

    toy.run(tasks_of(body), job)
    entry = next(json.loads(line) for line in lines.getvalue().splitlines() if "working" in line)
    assert (entry["job"], entry["attempt"], entry["kind"]) == (str(job), 1, Do.kind)
    assert entry["run"] == str(toy.job(job)["run"])
