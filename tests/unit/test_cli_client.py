"""The Python client against a small gateway on a real socket."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from clients import client as clients
from clients.cli import run
from clients.client import Client
from clients.connection import TRIES
from clients.problems import ProblemError, Unreachable


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


Reply = Callable[[Seen, BaseHTTPRequestHandler], None]


@dataclass
class Gateway:
    """Answers from a list of replies; the last one stays."""

    replies: list[Reply] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def reply(self, seen: Seen, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append(seen)
        (self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])(seen, handler)


def say(status: int, body: Any = None, kind: str = "application/json", headers: dict[str, str] | None = None) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(seen: Seen, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def hang_up(seen: Seen, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, parts.path, parse_qs(parts.query), headers, body)
            gateway.reply(seen, self)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        gateway.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield gateway
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client would have made."""
    made: list[float] = []
    monkeypatch.setattr(clients.time, "sleep", made.append)
    return made


@pytest.fixture
def client(gateway: Gateway, pauses: list[float]) -> Iterator[Client]:
    with Client(gateway.url, "key-1") as client:
        yield client


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 300_000)
    return path


ACCEPTED = {"dataset": {"id": "d"}, "job": {"id": "j"}, "run": {"id": "r"}}
AWAY = say(503, {"title": "Away"}, "application/problem+json", {"Retry-After": "3"})


def test_an_upload_streams_the_file_and_tells_how_far_it_is(gateway: Gateway, client: Client, csv: Path) -> None:
    gateway.replies = [say(202, ACCEPTED)]
    told: list[tuple[int, int]] = []
    assert client.upload(csv, "orders & more", progress=lambda *step: told.append(step)) == ACCEPTED
    (seen,) = gateway.seen
    assert (seen.method, seen.path, seen.query) == ("POST", "/v1/datasets", {"name": ["orders & more"]})
    assert seen.headers["authorization"] == "Bearer key-1"
    assert seen.headers["content-type"] == "text/csv"
    assert "transfer-encoding" not in seen.headers
    assert seen.body == csv.read_bytes()
    size = csv.stat().st_size
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert len(told) > 3


def test_an_upload_is_repeated_whole_under_one_key(
    gateway: Gateway, client: Client, csv: Path, pauses: list[float]
) -> None:
    gateway.replies = [hang_up, AWAY, say(202, ACCEPTED)]
    assert client.upload(csv, "orders") == ACCEPTED
    assert len({seen.headers["idempotency-key"] for seen in gateway.seen}) == 1
    assert [seen.body == csv.read_bytes() for seen in gateway.seen] == [True, True, True]
    assert pauses[1] == 3.0


def test_a_given_idempotency_key_is_used(gateway: Gateway, client: Client, csv: Path) -> None:
    gateway.replies = [say(202, ACCEPTED)]
    client.upload(csv, "orders", idempotency_key="mine")
    assert gateway.seen[0].headers["idempotency-key"] == "mine"


def test_two_uploads_have_two_keys(gateway: Gateway, client: Client, csv: Path) -> None:
    gateway.replies = [say(202, ACCEPTED)]
    client.upload(csv, "orders")
    client.upload(csv, "orders")
    assert len({seen.headers["idempotency-key"] for seen in gateway.seen}) == 2


def test_a_problem_is_raised_in_the_apis_words(gateway: Gateway, client: Client, csv: Path) -> None:
    problem = {
        "type": "urn:millrace:problem:dataset.no_header",
        "title": "No header",
        "status": 400,
        "detail": "The first line is empty.",
        "code": "dataset.no_header",
        "line": 1,
    }
    gateway.replies = [say(400, problem, "application/problem+json")]
    with pytest.raises(ProblemError) as raised:
        client.upload(csv, "orders")
    error = raised.value
    assert (error.status, error.title, error.code) == (400, "No header", "dataset.no_header")
    assert str(error) == "The first line is empty."
    assert error.facts == {"line": 1}
    assert error.is_callers
    assert len(gateway.seen) == 1


def test_an_error_that_is_no_problem_document_is_still_told(gateway: Gateway, client: Client) -> None:
    gateway.replies = [say(502, b"<html>bad gateway", "text/html")]
    with pytest.raises(ProblemError, match="502 Bad Gateway") as raised:
        client.run("r")
    assert not raised.value.is_callers


def test_a_success_that_is_not_json_is_refused(gateway: Gateway, client: Client) -> None:
    gateway.replies = [say(200, b"<html>hello", "text/html")]
    with pytest.raises(ProblemError, match="did not answer with JSON"):
        client.run("r")


def test_503_is_tried_a_few_times_and_then_told(gateway: Gateway, client: Client, pauses: list[float]) -> None:
    gateway.replies = [AWAY]
    with pytest.raises(ProblemError) as raised:
        client.run("r")
    assert raised.value.status == 503
    assert len(gateway.seen) == TRIES
    assert pauses == [3.0] * (TRIES - 1)


def test_pauses_grow_and_have_a_limit(gateway: Gateway, client: Client, pauses: list[float]) -> None:
    gateway.replies = [say(503, {}), say(503, {}), say(503, {}, headers={"Retry-After": "99999"}), say(200, {})]
    client.run("r")
    assert 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5
    assert pauses[2] == 10.0


def test_a_creation_that_may_have_arrived_is_not_repeated(gateway: Gateway, client: Client) -> None:
    gateway.replies = [hang_up]
    with pytest.raises(Unreachable, match="does not answer"):
        client.create_channel(name="mail", kind="email")
    assert len(gateway.seen) == 1


def test_a_gateway_that_comes_up_late_is_waited_for(csv: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    began = time.monotonic()
    with Client(url, "key", tries=2) as client, pytest.raises(Unreachable):
        client.create_workspace("first")
    assert time.monotonic() - began >= 0.1


def test_pages_are_followed_to_their_end(gateway: Gateway, client: Client) -> None:
    gateway.replies = [
        say(200, {"items": [{"id": 1}, {"id": 2}], "next": "c1"}),
        say(200, {"items": [{"id": 3}], "next": None}),
    ]
    assert [job["id"] for job in client.jobs(run="r", state="failed")] == [1, 2, 3]
    assert gateway.seen[0].query == {"run": ["r"], "state": ["failed"]}
    assert gateway.seen[1].query == {"run": ["r"], "state": ["failed"], "after": ["c1"]}


def test_an_artifact_is_saved_whole_or_not_at_all(gateway: Gateway, client: Client, tmp_path: Path) -> None:
    gateway.replies = [say(404, {"title": "Not found"}), AWAY, say(200, b"%PDF", "application/pdf")]
    target = tmp_path / "report.pdf"
    with pytest.raises(ProblemError, match="Not found"):
        client.download("a", target)
    assert list(tmp_path.iterdir()) == []
    assert client.download("a", target) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"]


def test_the_key_does_not_follow_a_redirect(gateway: Gateway, client: Client) -> None:
    gateway.replies = [say(307, b"", headers={"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(ProblemError, match="307"):
        client.run("r")


# Watching


def stream(*events: tuple[str, Any], cut: bool = False) -> Reply:
    """Says the events, and ends; cut off, in the middle of the next."""

    def reply(seen: Seen, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        said = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n:\n\n" for name, data in events)
        handler.wfile.write((said + "event: job\ndata: {" * cut).encode())
        handler.close_connection = True

    return reply


def test_a_job_is_watched_to_its_end_whatever_breaks_off(gateway: Gateway, client: Client, pauses: list[float]) -> None:
    queued, running, done = ({"state": state} for state in ("queued", "running", "succeeded"))
    gateway.replies = [
        stream(("job", queued), cut=True),
        AWAY,
        hang_up,
        stream(("job", queued)),
        stream(("job", running), ("job", done), ("end", {"state": "succeeded"})),
    ]
    told: list[str] = []
    assert list(client.watch_job("j", away=lambda problem: told.append(str(problem)))) == [
        queued,
        queued,  # again: it was away
        running,
        done,
    ]
    assert len(told) == 1, "once, however many tries it takes"
    assert {seen.path for seen in gateway.seen} == {"/v1/jobs/j/events"}
    assert len(pauses) == 4
    assert pauses[1] == 3, "as Retry-After says"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_says_that_nobody_answers_and_goes_on(
    gateway: Gateway,
    pauses: list[float],
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = {"state": "succeeded", "reason": None, "progress": None}
    gateway.replies = [hang_up, AWAY, stream(("job", done), ("end", {"state": "succeeded"}))]
    monkeypatch.setenv("MILLRACE_URL", gateway.url)
    monkeypatch.setenv("MILLRACE_KEY", "key-1")
    assert run(["jobs", "watch", str(uuid4()), *options]) == 0
    out, err = capsys.readouterr()
    assert "succeeded" in out
    [said] = err.splitlines()
    assert said.startswith(f"millrace: {gateway.url} does not answer: ")
    assert said.endswith(" (waiting for it)")


def test_watching_gives_up_when_nothing_answers_for_long(gateway: Gateway, client: Client, pauses: list[float]) -> None:
    gateway.replies = [stream(("job", {"state": "queued"})), AWAY]
    with pytest.raises(ProblemError, match="Away"):
        list(client.watch_job("j", patience=0.05))
    gateway.replies = [hang_up]
    with pytest.raises(Unreachable):
        list(client.watch_job("j", patience=0.05))


def test_watching_what_is_not_there_is_no_waiting(gateway: Gateway, client: Client, pauses: list[float]) -> None:
    gateway.replies = [say(404, {"title": "Not found"}, "application/problem+json")]
    with pytest.raises(ProblemError, match="Not found"):
        list(client.watch_job("j"))
    assert pauses == []
