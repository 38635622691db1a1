"""`millrace batches …` against a real gateway."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared.db import Database
from shared.testing.ledger import run_due
from tests.integration.api_service import PEERS_BATCH, PEERS_DEFINITION, Say

CANARY = {"kind": RunCanary.kind, "args": {"text": "hello"}}
STEPS: dict[str, Any] = {"name": "monthly", "steps": [[CANARY, CANARY], [CANARY]]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "batch.json"
    path.write_text(json.dumps(STEPS))
    return path


def start(say: Say, file: Path) -> dict[str, Any]:
    code, out, said = say("batches", "start", str(file), "--json")
    assert code == 0, said
    return json.loads(out)  # type: ignore[no-any-return]


def test_a_batch_is_started_from_a_file_and_followed(say: Say, file: Path, database: Database) -> None:
    code, out, _ = say("batches", "start", str(file))
    assert code == 0
    assert " of 3 jobs in run " in out
    batch = out.split()[1]
    code, out, _ = say("batches", "show", batch)
    assert code == 0
    assert f"batch     {batch} monthly" in out
    assert "state     running, step 1 of 2" in out
    run_due(database, tasks)
    code, out, _ = say("batches", "list", "--batch-state", "succeeded")
    [line] = [line for line in out.splitlines() if batch in line]
    assert " api " in line
    assert " 2 of 2 " in line


def test_it_is_started_from_standard_input(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(STEPS)))
    code, out, _ = say("batches", "start", "-")
    assert (code, out.startswith("batch ")) == (0, True)


def test_its_jobs_are_listed_told_and_explained(say: Say, file: Path) -> None:
    owed = start(say, file)
    batch, last = owed["batch"]["id"], owed["jobs"][1][0]
    code, out, _ = say("jobs", "list", "--batch", batch, "--json")
    assert {job["id"] for job in json.loads(out)["jobs"]} == {id for step in owed["jobs"] for id in step}
    assert f"batch     {batch}, step 2" in say("jobs", "show", last)[1]
    code, out, _ = say("jobs", "why", last)
    assert code == 0
    assert "It is of step 2 of its batch monthly. Step 1 is open, and 2 of its jobs have not ended." in out
    assert f"unfinished is job {owed['jobs'][0][0]}" in out


def test_it_is_called_off_once(say: Say, file: Path) -> None:
    batch = start(say, file)["batch"]["id"]
    code, out, _ = say("batches", "cancel", batch)
    assert code == 0
    assert "state     cancelled" in out
    assert "reason    batch.cancelled: Cancelled by " in out
    code, _, said = say("batches", "cancel", batch)
    assert (code, said.count("\n")) == (2, 1)
    assert "The batch is cancelled" in said


def test_batches_of_other_services_are_listed_too(say: Say) -> None:
    _, out, _ = say("batches", "list", "--json")
    assert {batch["id"] for batch in json.loads(out)["batches"]} == {str(PEERS_BATCH)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no batch"),
        ('{"steps": 1}', "holds no batch"),
        ('{"steps": [], "step": 1}', "has step: a batch has steps, name and on_failure"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_holds_no_batch_is_bad_input(say: Say, tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    code, out, err = say("batches", "start", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_what_the_gateway_refuses_is_one_line(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text('{"steps": [[]]}')
    code, _, err = say("batches", "start", str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert "Step 1 has no jobs." in err


@pytest.mark.parametrize(
    "arguments", [("show", "x"), ("cancel", "x"), ("list", "--run", "x"), ("list", "--batch-state", "x")]
)
def test_wrong_words_are_bad_input(say: Say, arguments: tuple[str, ...]) -> None:
    code, out, err = say("batches", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)


RECIPIENTS = [{"name": "North", "only": {"region": "North"}}, {"name": "South", "only": {"region": "South"}}]


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_burst_is_asked_for_by_the_definitions_name_or_id(say: Say, tmp_path: Path, by: str) -> None:
    definition = "orders" if by == "name" else str(PEERS_DEFINITION)
    file = tmp_path / "recipients.json"
    file.write_text(json.dumps(RECIPIENTS))
    code, out, _ = say("batches", "burst", definition, str(file))
    assert code == 0
    assert out.startswith(f"batch {PEERS_DEFINITION} of 2 reports in run "), "the service behind the gateway was asked"


@pytest.mark.parametrize(
    ("definition", "content", "said"),
    [
        ("orders", "{}", "holds no recipients"),
        ("orders", "[", "is no JSON"),
        ("nothing", "[]", "there is no definition named 'nothing'"),
    ],
)
def test_a_burst_of_nothing_is_bad_input(say: Say, tmp_path: Path, definition: str, content: str, said: str) -> None:
    file = tmp_path / "recipients.json"
    file.write_text(content)
    code, out, err = say("batches", "burst", definition, str(file))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
