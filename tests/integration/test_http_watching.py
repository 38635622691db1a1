"""Watching jobs by server-sent events, over a real server."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn

from clients.streams import events_of
from shared.http import streams, watching
from shared.ledger import moves, queries
from shared.testing.http import TestApp
from shared.testing.waiting import until
from tests.integration.api_service import serving
from tests.integration.toy.harness import Toy
from tests.integration.toy.web import ACCOUNTS, application


@pytest.fixture
def site(toy_url: str, tmp_path: Path) -> TestApp:
    return TestApp(application(toy_url, tmp_path), ACCOUNTS)


@pytest.fixture
def client(site: TestApp, toy: Toy) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {site.token(toy.workspace)}"}
    with serving(site.app) as url, httpx.Client(base_url=url, headers=headers, timeout=10) as client:
        yield client


@contextmanager
def watched(client: httpx.Client, job: Any, **query: Any) -> Iterator[Iterator[tuple[str, Any]]]:
    """Name and data of each event, as they come."""
    with client.stream("GET", f"/v1/jobs/{job}/events", params=query) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield ((name, json.loads(data)) for name, data in events_of(answer.iter_lines()))


def report(toy: Toy, job: Any, done: int) -> None:
    with toy.connect() as connection:
        document = {"done": done, "total": 10, "unit": "rows", "message": ""}
        assert moves.report_progress(connection, job, 1, document)


def looks(toy: Toy) -> int:
    """Connections that look at watched jobs."""
    [row] = toy.execute(
        """SELECT count(*) AS open FROM pg_stat_activity
           WHERE usename = user AND query LIKE '%%crashes, error, progress%%' AND pid <> pg_backend_pid()"""
    )
    return int(row["open"])


def test_a_job_is_seen_from_its_queue_to_its_end(client: httpx.Client, toy: Toy) -> None:
    job = toy.enqueue()
    with watched(client, job) as news:
        name, first = next(news)
        assert (name, first["id"], first["state"], first["progress"]) == ("job", str(job), "queued", None)
        toy.claim(job)
        assert next(news)[1]["state"] == "running"
        report(toy, job, 3)
        assert next(news)[1]["progress"]["done"] == 3
        with toy.connect() as connection:
            moves.succeed(connection, [moves.Finished(job, 1, {"rows": 10})])
        name, last = next(news)
        assert (name, last["state"], last["result"]) == ("job", "succeeded", {"rows": 10})
        assert list(news) == [("end", {"state": "succeeded"})]


def test_a_job_that_has_ended_is_told_so_at_once(client: httpx.Client, toy: Toy) -> None:
    job = toy.enqueue()
    client.post(f"/v1/jobs/{job}/cancel")
    with watched(client, job) as news:
        told = list(news)
    assert [name for name, _ in told] == ["job", "end"]
    assert told[1][1] == {"state": "cancelled"}
    again = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "end"})
    assert again.status_code == 204, "an EventSource that gets it does not come back"


def test_a_stream_ends_in_time(client: httpx.Client, toy: Toy) -> None:
    with watched(client, toy.enqueue(), seconds=0.1) as news:
        assert [name for name, _ in news] == ["job"]
    assert client.get(f"/v1/jobs/{toy.enqueue()}/events?seconds=301").status_code == 422


def test_a_quiet_stream_says_that_it_lives(client: httpx.Client, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_SECONDS", 0.05)
    with client.stream("GET", f"/v1/jobs/{toy.enqueue()}/events") as answer:
        lines = answer.iter_lines()
        while next(lines) != ":":
            pass


def test_all_streams_share_one_look_that_ends_with_the_last(client: httpx.Client, site: TestApp, toy: Toy) -> None:
    jobs = [toy.enqueue() for _ in range(5)]
    before = threading.active_count()
    with ExitStack() as stack:
        seen = [stack.enter_context(watched(client, job)) for job in jobs for _ in range(4)]
        for news in seen:
            next(news)
        until(lambda: looks(toy) == 1)
        toy.claim(*jobs)
        assert [next(news)[1]["state"] for news in seen] == ["running"] * 20
        assert looks(toy) == 1
        assert threading.active_count() - before < 20
        assert site.app.state.database.engine.pool.checkedout() == 0
    until(lambda: looks(toy) == 0)
    until(lambda: site.app.state.streams._open.total() == 0)


def test_who_comes_during_a_look_is_told_by_the_next(
    client: httpx.Client, site: TestApp, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, may_end, look = threading.Event(), threading.Event(), queries.watched

    def look_long(*asked: Any) -> Any:
        found = look(*asked)
        looking.set()
        assert may_end.wait(10)
        return found

    monkeypatch.setattr(queries, "watched", look_long)
    first, second = toy.enqueue(), toy.enqueue()
    with watched(client, first) as early:
        next(early)
        assert looking.wait(10)
        with watched(client, second) as late:
            next(late)
            until(lambda: second in site.app.state.watcher._inboxes)
            may_end.set()
            toy.claim(second)
            assert next(late)[1]["state"] == "running"


def test_there_is_an_end_of_streams(client: httpx.Client, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_OF_A_WORKSPACE", 1)
    job = toy.enqueue()
    with watched(client, job) as news:
        next(news)
        refused = client.get(f"/v1/jobs/{job}/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    until(lambda: client.get(f"/v1/jobs/{job}/events?seconds=0.01").status_code == 200)


def test_a_stream_goes_on_when_the_database_was_away(client: httpx.Client, toy: Toy) -> None:
    job = toy.enqueue()
    with watched(client, job) as news:
        next(news)
        until(lambda: looks(toy) == 1)
        toy.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
        )
        toy.claim(job)
        assert next(news)[1]["state"] == "running"


def test_a_job_that_is_not_there_any_more_ends_the_stream(client: httpx.Client, toy: Toy) -> None:
    job = toy.enqueue()
    with watched(client, job) as news:
        next(news)
        toy.execute("DELETE FROM job WHERE id = %s", job)
        assert list(news) == []
    assert client.get(f"/v1/jobs/{job}/events").status_code == 404


def test_a_server_that_is_told_to_stop_ends_its_streams(site: TestApp, toy: Toy) -> None:
    """Left alone, it would wait for the streams, and the supervisor would kill it."""
    job, told = toy.enqueue(), list[str]()
    server = uvicorn.Server(uvicorn.Config(site.app, host="127.0.0.1", port=0, log_level="warning"))

    def read() -> None:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {site.token(toy.workspace)}"}
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client,
            watched(client, job) as news,
        ):
            told.append(next(news)[0])
            os.kill(os.getpid(), signal.SIGTERM)
            told.extend(name for name, _ in news)
            told.append("over")

    reader = threading.Thread(target=read)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server raises it again at its end
    try:
        reader.start()
        with pytest.raises(KeyboardInterrupt):
            server.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    reader.join(10)
    assert told == ["job", "over"]
