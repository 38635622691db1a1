"""A large upload is read in parts: one batch, one completion event, and the dataset that it would be read in one go."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.ingest.jobs import JoinParts, LoadDataset, ReadPart, ReloadDataset
from services.ingest.tasks import tasks
from shared.contracts.ingest import DatasetCompleted, DatasetFailed
from shared.db import Database
from shared.ledger import redrive
from shared.ledger.filters import JobFilter
from shared.testing.ledger import run_due
from tests.integration.ingest_service import Ingest

HEAD = "order_id,note,amount\n"
DATA = HEAD + "".join(f'{n},"two\nlines, ""{n}""",{n}.50\n' for n in range(300)) + "n/a,x,1\n7,8\n"
STRAY = HEAD + '0,5" pipe,1\n' + "".join(f'{n},"two\nlines",2\n' for n in range(300))
PART = len(DATA) // 4 + 1


@pytest.fixture
def ingest(
    service_database: Callable[[str], Database],
    environment: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ingest]:
    database = service_database("ingest")
    environment("ingest")
    monkeypatch.setenv("INGEST_SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("INGEST_SPLIT_BYTES", str(PART))
    yield Ingest(database, tmp_path)
    assert list((tmp_path / "scratch").glob("*")) == [], "a load left something in its scratch directory"


def kinds(ingest: Ingest) -> list[tuple[str, str]]:
    return [(job["kind"], job["state"]) for job in ingest.jobs()]


def told(ingest: Ingest) -> list[str]:
    return [event["type"] for event in ingest.events()]


def plain(dataset: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on which version of the dataset it is."""
    return {key: dataset[key] for key in ("state", "reason", "rows_loaded", "rows_rejected", "columns")}


def stored(ingest: Ingest) -> tuple[list[Any], list[Any]]:
    """The rows of the newest version, and its rejects."""
    with ingest.database.connect() as connection:
        row = connection.execute("SELECT object, rejects FROM dataset_version ORDER BY version DESC LIMIT 1").fetchone()
    assert row is not None
    return ingest.rows(row["object"]), ingest.rows(row["rejects"])


def test_it_is_the_dataset_that_it_is_in_one_go(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    split, rows = ingest.load(DATA), stored(ingest)
    assert (split["rows_loaded"], split["rows_rejected"]) == (300, 2)
    assert kinds(ingest) == [(JoinParts.kind, "succeeded"), *[(ReadPart.kind, "succeeded")] * 4]
    assert ingest.jobs()[0]["began_as"] == LoadDataset.kind
    assert told(ingest) == [DatasetCompleted.type]
    with ingest.database.connect() as connection:
        [batch] = connection.execute("SELECT * FROM batch").fetchall()
    assert (batch["name"], batch["state"], batch["jobs"]) == ("orders 1", "succeeded", 4)
    assert not [key for key in ingest.objects.keys("datasets") if "/parts/" in key], "what was read is dropped"
    monkeypatch.setenv("INGEST_SPLIT_BYTES", str(10 * len(DATA)))
    whole = ingest.load(DATA)
    assert plain(split) == plain(whole)
    assert rows == stored(ingest)


def test_what_cannot_be_cut_safely_is_read_in_one_go(ingest: Ingest) -> None:
    dataset = ingest.load(STRAY)
    assert (dataset["state"], dataset["rows_loaded"]) == ("ready", 301)
    assert told(ingest) == [DatasetCompleted.type]
    parts = ingest.jobs(kind=ReadPart.kind)
    assert None in [part["result"] for part in parts], "a cut went through a row, and that was seen"


def test_what_is_no_text_fails_at_once(ingest: Ingest) -> None:
    dataset = ingest.load(DATA.encode() + b"1,\xff,2\n")
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "csv.encoding")
    assert kinds(ingest) == [(LoadDataset.kind, "failed")]


def test_a_file_without_a_valid_row_fails_with_its_rejects(ingest: Ingest) -> None:
    dataset = ingest.load(HEAD + "1,2\n" * len(DATA))
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "csv.no_valid_rows")
    assert dataset["rows_rejected"] == len(DATA)
    assert told(ingest) == [DatasetFailed.type]


def lose_the_upload(ingest: Ingest, job: dict[str, Any]) -> Path:
    """The parts cannot be read any more."""
    with ingest.database.connect() as connection:
        row = connection.execute("SELECT upload FROM dataset_version").fetchone()
    assert row is not None
    upload = ingest.folder / "objects" / row["upload"]
    upload.rename(upload.with_suffix(".gone"))
    return upload


def failed_parts(ingest: Ingest) -> Path:
    answer = ingest.upload(DATA).json()
    ingest.attempt(UUID(answer["job"]["id"]))
    upload = lose_the_upload(ingest, answer)
    run_due(ingest.database, tasks)
    return upload


def test_parts_that_fail_fail_the_version_once(ingest: Ingest) -> None:
    failed_parts(ingest)
    assert kinds(ingest) == [(JoinParts.kind, "failed"), *[(ReadPart.kind, "failed")] * 4]
    dataset = ingest.show(f"/v1/datasets/{ingest.jobs()[0]['args']['dataset_id']}")
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "resource.not_found")
    assert told(ingest) == [DatasetFailed.type]
    assert ingest.jobs(kind=JoinParts.kind)[0]["error"]["code"] == "dataset.part_missing"


def test_all_jobs_of_the_run_driven_again_load_it(ingest: Ingest) -> None:
    upload = failed_parts(ingest)
    upload.with_suffix(".gone").rename(upload)
    move = redrive.redriving(tasks, ingest.workspace, "somebody")
    redrive.move_all(ingest.database, ingest.workspace, JobFilter(), move)
    join = ingest.jobs(kind=JoinParts.kind)[0]
    ingest.attempt(join["id"])
    assert ingest.jobs(kind=JoinParts.kind)[0]["error"]["code"] == "attempt.snoozed", "it waits for the parts"
    run_due(ingest.database, tasks)
    dataset = ingest.show(f"/v1/datasets/{join['args']['dataset_id']}")
    assert (dataset["state"], dataset["rows_loaded"]) == ("ready", 300)
    assert told(ingest) == [DatasetFailed.type, DatasetCompleted.type]


def test_a_join_without_its_parts_fails_with_a_reason(ingest: Ingest) -> None:
    failed_parts(ingest)
    join = ingest.jobs(kind=JoinParts.kind)[0]
    redrive.redrive_one(ingest.database, tasks, ingest.workspace, join["id"], "somebody")
    run_due(ingest.database, tasks)
    dataset = ingest.show(f"/v1/datasets/{join['args']['dataset_id']}")
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "dataset.part_missing")
    assert told(ingest) == [DatasetFailed.type] * 2


def test_a_load_whose_parts_are_called_off_fails_its_version_once(ingest: Ingest) -> None:
    answer = ingest.upload(DATA).json()
    ingest.attempt(UUID(answer["job"]["id"]))
    with ingest.client() as client:
        [batch] = client.get("/v1/batches").json()["items"]
        assert client.post(f"{batch['url']}/cancel").json()["state"] == "cancelled"
    dataset = ingest.show(answer["dataset"]["url"])
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "batch.cancelled")
    assert told(ingest) == [DatasetFailed.type]


def test_a_load_that_is_called_off_has_its_parts_called_off(ingest: Ingest) -> None:
    answer = ingest.upload(DATA).json()
    ingest.attempt(UUID(answer["job"]["id"]))
    with ingest.client() as client:
        assert client.post(f"{answer['job']['url']}/cancel").status_code == 200
    run_due(ingest.database, tasks)
    assert kinds(ingest) == [(JoinParts.kind, "cancelled"), *[(ReadPart.kind, "cancelled")] * 4]
    dataset = ingest.show(answer["dataset"]["url"])
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "job.cancelled")
    assert told(ingest) == [DatasetFailed.type]


def test_a_batch_waits_until_a_dataset_loaded_in_parts_is_there(ingest: Ingest) -> None:
    first = ingest.load(DATA)
    reload = {"kind": ReloadDataset.kind, "args": {"dataset_id": first["id"]}}
    with ingest.client(content=None) as client:
        answer = client.post("/v1/batches", json={"steps": [[reload], [reload]]})
        assert answer.status_code == 202, answer.text
        run_due(ingest.database, tasks)
        jobs = client.get("/v1/jobs", params={"batch": answer.json()["batch"]["id"]}).json()["items"]
    [second, third] = sorted(jobs, key=lambda job: job["step"])
    assert (second["state"], second["kind"], second["began_as"]) == ("succeeded", JoinParts.kind, ReloadDataset.kind)
    assert second["finished_at"] < third["started_at"]
    assert [event["data"]["version"] for event in ingest.events()] == [1, 2, 3]
