"""`millrace queues` and `millrace workers …` against a real gateway."""

import json

import pytest

from services.api.jobs import RunCanary
from shared import ids
from shared.db import Database
from shared.ledger import leases
from shared.ledger.enqueue import Origin, enqueue
from tests.integration.api_service import Say, ServedDoor, bearer, workspace_and_key


@pytest.fixture
def key(door: ServedDoor, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MILLRACE_KEY", "the operator")
    return "the operator"


def enter(database: Database, name: str) -> str:
    worker = ids.draw()
    with database.connect() as connection:
        leases.renew(connection, worker, name, 30, leases.About(("api.jobs",), "threads", 4, 2.0))
    return str(worker)


def test_queues_of_all_services_are_shown(database: Database, say: Say) -> None:
    enter(database, "api@here")
    with database.transaction(origin=Origin.request(ids.draw())) as session:
        enqueue(session, RunCanary(text="bird"))
    code, out, _ = say("queues")
    assert code == 0
    [row] = [line.split() for line in out.splitlines() if line.startswith("api.jobs")]
    assert (row[1], row[-2:]) == ("1", ["1", "4"])
    assert "1 normal" in out
    assert "far.jobs" in out, "another service's"
    code, out, _ = say("queues", "--json")
    assert {queue["name"] for queue in json.loads(out)["queues"]} == {"api.jobs", "far.jobs"}


def test_workers_of_all_services_are_shown(database: Database, say: Say) -> None:
    enter(database, "api@here")
    code, out, _ = say("workers", "list")
    [row] = [line for line in out.splitlines() if line.startswith("api@here")]
    assert (code, row.split()[1:6]) == (0, ["alive", "api.jobs", "4", "threads", "0"])
    assert " 50 % " in row
    assert say("workers", "list", "--ended", "--json")[0] == 0
    assert "api@here" in say("workers")[1]


def test_a_worker_is_drained_by_its_name(database: Database, say: Say) -> None:
    worker = enter(database, "api@here")
    assert say("workers", "drain", "api") == (0, "api@here gets no further jobs; 0 are running, then it stops\n", "")
    code, out, _ = say("workers", "drain", worker, "--json")
    assert (code, json.loads(out)["state"]) == (0, "draining")
    code, _, err = say("workers", "drain", "nobody")
    assert (code, err) == (2, "millrace: no worker that is alive is named 'nobody': there are api@here\n")
    enter(database, "api@there")
    code, _, err = say("workers", "drain", "api")
    assert code == 2
    assert "2 workers are named 'api'" in err


def test_a_worker_of_another_service_is_drained_there(door: ServedDoor) -> None:
    there, nowhere = "01900000-0000-7000-8000-000000000000", ids.draw()
    answer = door.post(f"/v1/workers/{there}/drain", headers=bearer("the operator"))
    assert (answer.status_code, answer.json()["code"]) == (409, "worker.gone"), "as that service says"
    assert door.post(f"/v1/workers/{nowhere}/drain", headers=bearer("the operator")).status_code == 404
    _, key = workspace_and_key(door)
    assert door.get("/v1/queues", headers=bearer(key)).status_code == 403, "they are all workspaces'"
