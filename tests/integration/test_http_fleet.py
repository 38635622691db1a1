"""Queues and workers over HTTP, of a service's own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared import ids
from shared.auth import digest
from shared.ledger import leases
from shared.ledger.messages import Lane
from shared.settings import StaticKey
from shared.testing.http import TestApp
from tests.integration.toy.harness import Toy, tasks_of
from tests.integration.toy.web import application

OPERATOR = {"operator": StaticKey(sha256=digest("operator-key"), scopes=frozenset({"operator"}))}


@pytest.fixture
def client(toy: Toy, toy_url: str, tmp_path: Path) -> Iterator[TestClient]:
    app = application(toy_url, tmp_path)
    TestApp(app, OPERATOR)
    yield TestClient(app, headers={"Authorization": "Bearer operator-key"})
    app.state.database.dispose()


def queue(client: TestClient) -> dict[str, Any]:
    [found] = client.get("/v1/queues").json()["items"]
    return dict(found)


def worker(client: TestClient, id: Any) -> dict[str, Any]:
    [found] = [each for each in client.get("/v1/workers?ended=true").json()["items"] if each["id"] == str(id)]
    return dict(found)


def test_an_empty_queue_is_there(client: TestClient) -> None:
    found = queue(client)
    assert (found["service"], found["name"], found["due"], found["workers"]) == ("toy", "toy.jobs", 0, 0)
    assert found["oldest_due_seconds"] is None
    assert set(found["lanes"]) == {"urgent", "normal", "bulk"}


def test_a_queue_tells_what_is_due_what_waits_for_later_and_what_runs(client: TestClient, toy: Toy) -> None:
    now = datetime.now(UTC)
    toy.enqueue(not_before=now + timedelta(hours=1))
    urgent, old, running = toy.enqueue(), toy.enqueue(), toy.enqueue()
    toy.execute("UPDATE job SET priority = %s WHERE id = %s", Lane.URGENT, urgent)
    toy.execute("UPDATE job SET not_before = now() - interval '90 s' WHERE id = %s", old)
    toy.claim(running)
    found = queue(client)
    assert (found["due"], found["later"], found["running"]) == (2, 1, 1)
    assert 89 < found["oldest_due_seconds"] < 120
    assert found["lanes"]["urgent"] == {"due": 1, "later": 0, "running": 0}
    assert found["lanes"]["normal"] == {"due": 1, "later": 1, "running": 1}
    toy.claim(urgent)
    assert queue(client)["lanes"]["urgent"] == {"due": 0, "later": 0, "running": 1}


def test_a_queue_tells_how_fast_it_moves(client: TestClient, toy: Toy) -> None:
    toy.run(tasks_of(lambda attempt, args: None), *(toy.enqueue() for _ in range(6)))
    for _ in range(6):
        toy.enqueue()
    found = queue(client)
    assert (found["in_per_second"], found["out_per_second"], found["rate_seconds"]) == (0.2, 0.1, 60)
    toy.execute("UPDATE attempt SET finished_at = finished_at - interval '2 minutes'")
    assert queue(client)["out_per_second"] == 0


def test_a_worker_tells_what_it_is_and_how_it_goes(client: TestClient, toy: Toy) -> None:
    id, about = ids.draw(), leases.About(("toy.jobs",), "prefork", 4, 1.0)
    with toy.connect() as connection:
        leases.renew(connection, id, "toy@test", 30, about)
    toy.claim(toy.enqueue(), toy.enqueue(), worker=id)
    found = worker(client, id)
    assert (found["name"], found["state"], found["queues"], found["pool"]) == (
        "toy@test",
        "alive",
        ["toy.jobs"],
        "prefork",
    )
    assert (found["slots"], found["running"], found["utilisation"]) == (4, 2, 0.25)
    assert found["renewed_at"] < found["lease_until"]
    assert (queue(client)["workers"], queue(client)["slots"]) == (1, 4)


def test_what_vanished_is_told_from_what_stopped(client: TestClient, toy: Toy) -> None:
    lost, ended = toy.worker(), toy.worker()
    toy.lose(lost)
    with toy.connect() as connection:
        leases.end(connection, ended)
    assert (worker(client, lost)["state"], worker(client, ended)["state"]) == ("lost", "ended")
    assert [each["id"] for each in client.get("/v1/workers").json()["items"]] == [str(lost)]


def test_a_drained_worker_gets_nothing_more(client: TestClient, toy: Toy) -> None:
    id, other = toy.worker(), toy.worker()
    held, job = toy.enqueue(), toy.enqueue()
    toy.claim(held, worker=id)
    answer = client.post(f"/v1/workers/{id}/drain")
    assert (answer.status_code, answer.json()["state"], answer.json()["running"]) == (200, "draining", 1)
    assert answer.json()["drained_by"] == "operator"
    assert toy.claim(job, worker=id) == []
    assert [each.id for each in toy.claim(job, worker=other)] == [job]
    with toy.connect() as connection:
        assert leases.renew(connection, id, "toy@test", 30), "it hears so with its next heartbeat"
    again = client.post(f"/v1/workers/{id}/drain")
    assert (again.status_code, again.json()["draining_at"]) == (200, answer.json()["draining_at"])
    assert toy.job(held)["state"] == "running", "what it had is still its own"


def test_what_is_gone_is_not_drained(client: TestClient, toy: Toy) -> None:
    lost = toy.worker()
    toy.lose(lost)
    answer = client.post(f"/v1/workers/{lost}/drain")
    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "worker.gone", "lost")
    assert client.post(f"/v1/workers/{ids.draw()}/drain").status_code == 404
    assert client.post("/v1/workers/toy/drain").status_code == 422
