"""Uploads over HTTP: what is accepted once, and what is refused with nothing left behind."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import ids
from shared.db import Database
from shared.testing.waiting import until
from tests.integration.ingest_service import Ingest

CSV = "order_id,amount\n1,9.50\n2,12.00\n"


@pytest.fixture
def ingest(
    service_database: Callable[[str], Database],
    environment: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ingest:
    database = service_database("ingest")
    environment("ingest")
    monkeypatch.setenv("INGEST_MAX_UPLOAD_BYTES", "6000000")
    return Ingest(database, tmp_path)


def parts(total: int, size: int = 65_536) -> Iterator[bytes]:
    """A body that does not say its length."""
    for _ in range(total // size):
        yield b"x" * size


def test_an_upload_is_accepted_with_the_urls_of_its_job_and_run(ingest: Ingest) -> None:
    answer = ingest.upload(CSV)
    body = answer.json()
    [job] = ingest.jobs()
    assert answer.status_code == 202
    assert answer.headers["location"] == body["job"]["url"] == f"/v1/jobs/{job['id']}"
    assert body["run"] == {"id": str(job["run"]), "url": f"/v1/runs/{job['run']}"}
    assert body["dataset"] == {
        "id": job["args"]["dataset_id"],
        "name": "orders",
        "version": 1,
        "url": f"/v1/datasets/{job['args']['dataset_id']}",
    }
    shown = ingest.show(body["dataset"]["url"])
    assert (shown["state"], shown["reason"], shown["upload_bytes"]) == ("loading", None, len(CSV))
    [key] = ingest.objects.keys("uploads")
    assert ingest.objects.get_bytes(key) == CSV.encode()


def test_a_body_in_chunks_is_stored_whole(ingest: Ingest) -> None:
    assert ingest.upload(parts(5_000_000)).status_code == 202
    [key] = ingest.objects.keys("uploads")
    assert ingest.objects.get_bytes(key) == b"".join(parts(5_000_000))


@pytest.mark.parametrize(
    "content", ["text/csv", "text/csv; charset=utf-8", "TEXT/CSV", "application/octet-stream", None]
)
def test_media_types_that_are_taken(ingest: Ingest, content: str | None) -> None:
    assert ingest.upload(CSV, content=content).status_code == 202


def refused(ingest: Ingest, answer: Any, status: int, code: str) -> str:
    """Asserts a problem answer and that nothing is left; answers its detail."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert ingest.nothing_is_left()
    detail: str = problem["detail"]
    return detail


@pytest.mark.parametrize("content", ["application/json", "multipart/form-data; boundary=x", "text/html", "nonsense"])
def test_another_media_type_is_refused(ingest: Ingest, content: str) -> None:
    refused(ingest, ingest.upload(CSV, content=content), 415, "request.media_type")


def test_a_compressed_body_is_refused_and_not_taken_for_text(ingest: Ingest) -> None:
    with ingest.client() as client:
        answer = client.post(
            "/v1/datasets", params={"name": "orders"}, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
        )
    assert "gzip" in refused(ingest, answer, 415, "request.media_type")


@pytest.mark.parametrize("body", [b"", iter([b""])], ids=["of no length", "of no chunks"])
def test_an_empty_body_is_refused(ingest: Ingest, body: Any) -> None:
    refused(ingest, ingest.upload(body, key="once"), 422, "csv.empty")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(ingest: Ingest, announced: bool) -> None:
    body = b"x" * 7_000_000 if announced else parts(7_000_000)
    assert "6,000,000 bytes" in refused(ingest, ingest.upload(body, key="once"), 413, "request.too_large")


@pytest.mark.parametrize("name", ["", "a" * 101, "../etc", "a/b", ".hidden", "größe", "a b", "a\n"])
def test_a_name_that_is_no_name_is_refused(ingest: Ingest, name: str) -> None:
    refused(ingest, ingest.upload(CSV, name=name), 422, "request.invalid")


@pytest.mark.parametrize("scopes", [frozenset({"read"}), frozenset()])
def test_an_upload_needs_the_scope_to_write(ingest: Ingest, scopes: frozenset[str]) -> None:
    refused(ingest, ingest.upload(CSV, scopes=scopes), 403, "auth.forbidden")


@pytest.mark.parametrize("credential", [None, "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc="])
def test_an_upload_needs_a_key(ingest: Ingest, credential: str | None) -> None:
    with ingest.client() as client:
        client.headers.pop("Authorization")
        headers = {"Authorization": credential} if credential else {}
        answer = client.post("/v1/datasets", params={"name": "orders"}, content=CSV, headers=headers)
    refused(ingest, answer, 401, "auth.unauthenticated")


# Idempotency-Key


def test_the_same_key_with_the_same_content_gives_the_same_job(ingest: Ingest) -> None:
    first, second = ingest.upload(CSV, key="k-1"), ingest.upload(CSV, key="k-1")
    assert second.status_code == 202
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert len(ingest.jobs()) == len(ingest.objects.keys()) == 1
    assert ingest.show(first.json()["dataset"]["url"])["version"] == 1


@pytest.mark.parametrize("other", [{"data": CSV + "3,1.00\n"}, {"name": "customers"}], ids=["content", "name"])
def test_the_same_key_with_another_request_is_refused(ingest: Ingest, other: dict[str, str]) -> None:
    ingest.upload(CSV, key="k-1")
    answer = ingest.upload(**{"data": CSV, "key": "k-1"} | other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.key_reused")
    assert len(ingest.jobs()) == len(ingest.objects.keys()) == 1


def test_keys_of_two_workspaces_have_nothing_to_do_with_each_other(ingest: Ingest) -> None:
    mine, theirs = ingest.upload(CSV, key="k-1"), ingest.upload("a,b\n1,2\n", key="k-1", workspace=ids.draw())
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["job"] != theirs.json()["job"]


def test_requests_with_one_key_at_the_same_time_make_one_job(ingest: Ingest) -> None:
    answers: list[Any] = []
    with ingest.client() as client:
        start = threading.Barrier(5)

        def send() -> None:
            start.wait()
            answers.append(
                client.post(
                    "/v1/datasets", params={"name": "orders"}, content=CSV, headers={"Idempotency-Key": "at once"}
                )
            )

        threads = [threading.Thread(target=send) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert len(ingest.jobs()) == len(ingest.objects.keys()) == 1


def test_uploads_of_one_name_at_the_same_time_get_a_version_each(ingest: Ingest) -> None:
    with ingest.client() as client:
        threads = [
            threading.Thread(
                target=client.post, args=("/v1/datasets",), kwargs={"params": {"name": "orders"}, "content": CSV}
            )
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(job["args"]["version"] for job in ingest.jobs()) == [1, 2, 3, 4, 5]
    assert len({job["args"]["dataset_id"] for job in ingest.jobs()}) == 1


# A connection that breaks


@pytest.mark.parametrize("length", ["Content-Length: 5000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("sent", [0, 100_000, 4_900_000])
def test_a_client_that_goes_away_in_mid_upload_leaves_nothing(ingest: Ingest, length: str, sent: int) -> None:
    with ingest.serving() as port, socket.create_connection(("127.0.0.1", port)) as client:
        head = [
            "POST /v1/datasets?name=orders HTTP/1.1",
            "Host: ingest",
            f"Authorization: Bearer {ingest.app.token(ingest.workspace)}",
            "Content-Type: text/csv",
            "Idempotency-Key: cut",
            length,
        ]
        client.sendall("\r\n".join([*head, "", ""]).encode())
        body = b"x" * sent
        client.sendall(body if "Length" in length else b"%x\r\n%b" % (sent + 10, body))
        objects = ingest.folder / "objects"
        if sent > 4_000_000:
            until(lambda: [path for path in objects.rglob("*") if path.is_file()])  # it is being written
        client.shutdown(socket.SHUT_RDWR)
    # The server has answered, or given up: it waits for its requests when it stops.
    assert ingest.nothing_is_left()
    assert ingest.upload(CSV, key="cut").status_code == 202
    assert len(ingest.jobs()) == len(ingest.objects.keys()) == 1
