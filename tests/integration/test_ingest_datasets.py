"""Loads, from an accepted upload to its dataset and its events: real PostgreSQL, real files, jobs run in process."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.ingest.jobs import LoadDataset, ReloadDataset
from services.ingest.tasks import load_dataset, tasks
from shared import ids
from shared.contracts.ingest import DatasetCompleted, DatasetFailed
from shared.db import Database
from shared.errors import LeaseLost
from shared.ledger import failures, leases, moves
from shared.ledger.attempts import Attempt
from shared.ledger.failures import Held
from shared.ledger.moves import Claimed
from shared.testing.ledger import run_due
from shared.testing.objects import put
from tests.integration.ingest_service import Ingest

ROWS = "".join(f"{i},{i}.50,2024-01-{1 + i % 28:02}\n" for i in range(1, 101))
GOOD = "order_id,amount,day\n" + ROWS
SOME_BAD = GOOD + "101,n/a,2024-01-01\n102,1.00\n103,2.00,2024-02-30\n"
REASON = {"code": "worker.died", "detail": "It was killed."}
BROKEN = "a,b\n1,x\0y\n"


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
    yield Ingest(database, tmp_path)
    assert list((tmp_path / "scratch").glob("*")) == [], "a load left something in its scratch directory"


def test_a_file_becomes_a_dataset(ingest: Ingest) -> None:
    dataset = ingest.load(SOME_BAD)
    assert (dataset["name"], dataset["version"], dataset["state"], dataset["reason"]) == ("orders", 1, "ready", None)
    assert (dataset["rows_loaded"], dataset["rows_rejected"]) == (100, 3)
    assert [(column["name"], column["type"]) for column in dataset["columns"]] == [
        ("order_id", "bigint"),
        ("amount", "decimal"),
        ("day", "date"),
    ]
    assert dataset["columns"][1]["mean"] == 51.0
    [job] = ingest.jobs()
    assert (job["state"], job["result"]) == ("succeeded", {"version": 1, "rows_loaded": 100, "rows_rejected": 3})


def test_its_completion_is_published_with_the_key_of_the_parquet(ingest: Ingest) -> None:
    dataset = ingest.load(SOME_BAD)
    [event] = ingest.events()
    [job] = ingest.jobs()
    completed = DatasetCompleted.model_validate(event["data"])
    assert (event["type"], event["subject"]) == (DatasetCompleted.type, dataset["id"])
    assert (event["workspace"], event["run"], event["causation"]) == (ingest.workspace, job["run"], job["id"])
    assert (str(completed.dataset_id), completed.name, completed.version) == (dataset["id"], "orders", 1)
    assert (completed.rows_loaded, completed.rows_rejected) == (100, 3)
    assert [(column.name, column.type) for column in completed.columns][1] == ("amount", "decimal")
    assert len(ingest.rows(completed.object)) == 100


def test_its_rejects_are_told_page_by_page(ingest: Ingest) -> None:
    dataset = ingest.load(SOME_BAD)
    first = ingest.show(f"{dataset['url']}/rejects", limit=2)
    second = ingest.show(f"{dataset['url']}/rejects", limit=2, after=first["next"])
    assert second["next"] is None
    assert [
        (item["line"], item["column"], item["value"], item["code"]) for item in first["items"] + second["items"]
    ] == [
        (102, "amount", "n/a", "value.not_decimal"),
        (103, None, "102,1.00", "row.too_few_fields"),
        (104, "day", "2024-02-30", "value.not_date"),
    ]
    assert first["items"][0]["reason"] == "The value is not a decimal number such as -12.50."


def test_a_file_without_bad_rows_has_no_rejects(ingest: Ingest) -> None:
    dataset = ingest.load(GOOD)
    assert ingest.show(f"{dataset['url']}/rejects") == {"items": [], "next": None}


def test_a_header_alone_is_a_dataset_of_no_rows(ingest: Ingest) -> None:
    dataset = ingest.load("a,b\n")
    assert (dataset["state"], dataset["rows_loaded"], dataset["rows_rejected"]) == ("ready", 0, 0)


def test_a_cell_of_ten_megabytes_is_rejected_and_the_rest_is_loaded(ingest: Ingest) -> None:
    dataset = ingest.load(b"id,note\n1,a\n2," + b"x" * 10_000_000 + b"\n3,b\n")
    [reject] = ingest.show(f"{dataset['url']}/rejects")["items"]
    assert (dataset["rows_loaded"], dataset["rows_rejected"]) == (2, 1)
    assert (reject["line"], reject["code"], reject["value"]) == (3, "row.too_long", "2," + "x" * 998)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\n\n\r\n", "csv.empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "csv.binary"),
        (BROKEN, "csv.binary"),
        ("1,2,3\n4,5,6\n", "csv.header"),
        ("id,id\n1,2\n", "csv.header"),
        ("name\nJürgen\n".encode("latin-1"), "csv.encoding"),
        ("name,city\nJürgen,Köln\n".encode("utf-16"), "csv.encoding"),
        ("a,b\r1,2\r", "csv.line_endings"),
        (b"x" * 10_000_000, "csv.header"),
        ("a,b,c\n1,2\n3\n", "csv.no_valid_rows"),
    ],
)
def test_a_file_that_cannot_be_loaded_fails_with_its_reason(ingest: Ingest, data: Any, code: str) -> None:
    dataset = ingest.load(data)
    [job], [event] = ingest.jobs(), ingest.events()
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", code)
    assert (job["state"], job["attempt"], job["error"]["code"]) == ("failed", 1, code)
    failed = DatasetFailed.model_validate(event["data"])
    assert (event["type"], str(failed.dataset_id)) == (DatasetFailed.type, dataset["id"])
    assert failed.reason.code == code
    assert failed.reason.detail == dataset["reason"]["detail"]
    assert "traceback" not in dataset["reason"]
    stored = [key.rsplit("/", 1)[1] for key in ingest.objects.keys("datasets")]
    assert stored == (["rejects.parquet"] if code == "csv.no_valid_rows" else [])


def test_when_every_row_was_rejected_the_rejects_can_be_read_all_the_same(ingest: Ingest) -> None:
    dataset = ingest.load("a,b,c\n1,2\n3\n")
    rejects = ingest.show(f"{dataset['url']}/rejects")["items"]
    assert dataset["rows_rejected"] == 2
    assert [reject["line"] for reject in rejects] == [2, 3]


def test_hostile_names_and_values_come_back_as_they_were(ingest: Ingest) -> None:
    hostile = "'; DROP TABLE job --"
    dataset = ingest.load(f'"{hostile}",n\n' + f'"{hostile}",1\n' * 40 + '"<script>",\'"\n')
    [reject] = ingest.show(f"{dataset['url']}/rejects")["items"]
    assert dataset["columns"][0]["name"] == hostile
    assert dataset["columns"][0]["top"] == [{"value": hostile, "count": 40}]
    assert (reject["line"], reject["column"], reject["value"]) == (42, "n", "'\"")


# Versions


def test_a_second_upload_of_the_name_is_the_next_version(ingest: Ingest) -> None:
    first, second = ingest.load(GOOD), ingest.load(SOME_BAD)
    assert (second["id"], second["version"], second["rows_rejected"]) == (first["id"], 2, 3)
    versions = ingest.show(f"{second['url']}/versions")["items"]
    assert [(version["version"], version["rows_rejected"]) for version in versions] == [(2, 3), (1, 0)]
    assert ingest.show(f"{second['url']}/rejects", version=1)["items"] == []


def test_a_failed_version_leaves_the_one_before_it_as_it_is(ingest: Ingest) -> None:
    ingest.load(GOOD)
    failed = ingest.load(BROKEN)
    assert (failed["version"], failed["state"]) == (2, "failed")
    _, before = ingest.show(f"{failed['url']}/versions")["items"]
    assert (before["state"], before["rows_loaded"]) == ("ready", 100)
    assert len(ingest.rows(ingest.events()[0]["data"]["object"])) == 100


def test_versions_are_listed_in_pages(ingest: Ingest) -> None:
    for _ in range(3):
        dataset = ingest.upload(GOOD).json()["dataset"]
    first = ingest.show(f"{dataset['url']}/versions", limit=2)
    second = ingest.show(f"{dataset['url']}/versions", limit=2, after=first["next"])
    assert [item["version"] for item in first["items"] + second["items"]] == [3, 2, 1]
    assert second["next"] is None


def test_datasets_are_listed_in_pages_and_found_by_name(ingest: Ingest) -> None:
    for name in ("orders", "customers", "stock"):
        ingest.upload(GOOD, name)
    first = ingest.show("/v1/datasets", limit=2)
    second = ingest.show("/v1/datasets", limit=2, after=first["next"])
    assert [item["name"] for item in first["items"] + second["items"]] == ["stock", "customers", "orders"]
    assert second["next"] is None
    assert [item["name"] for item in ingest.show("/v1/datasets", name="customers")["items"]] == ["customers"]


# Workspaces


def test_a_workspace_sees_nothing_of_another(ingest: Ingest) -> None:
    dataset = ingest.load(SOME_BAD)
    theirs = ids.draw()
    with ingest.client(theirs) as client:
        for path in ("", "/versions", "/rejects", "/rejects?version=1"):
            answer = client.get(dataset["url"] + path)
            assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found")
    assert ingest.show("/v1/datasets", theirs) == {"items": [], "next": None}
    assert ingest.show("/v1/jobs", theirs)["items"] == []


def test_the_same_name_in_two_workspaces_is_two_datasets(ingest: Ingest) -> None:
    theirs = ids.draw()
    mine, other = ingest.upload(GOOD).json()["dataset"], ingest.upload(GOOD, workspace=theirs).json()["dataset"]
    assert mine["id"] != other["id"]
    assert (mine["version"], other["version"]) == (1, 1)
    assert {key.split("/")[1] for key in ingest.objects.keys("uploads")} == {str(ingest.workspace), str(theirs)}


@pytest.mark.parametrize("path", ["", "/versions", "/rejects"])
def test_a_dataset_that_is_not_there_is_not_found(ingest: Ingest, path: str) -> None:
    with ingest.client() as client:
        assert client.get(f"/v1/datasets/{ids.draw()}{path}").status_code == 404


def test_a_version_that_is_not_there_is_not_found(ingest: Ingest) -> None:
    dataset = ingest.upload(GOOD).json()["dataset"]
    with ingest.client() as client:
        assert client.get(f"{dataset['url']}/rejects", params={"version": 7}).status_code == 404


# Attempts


def claimed(connection: Any, job: UUID) -> Claimed:
    """The job as a new worker takes it."""
    worker = ids.draw()
    leases.renew(connection, worker, "test", 300.0)
    [found] = moves.claim(connection, worker, [job])
    return found


def test_an_attempt_whose_job_went_to_another_worker_changes_nothing(ingest: Ingest) -> None:
    """The first worker was frozen past its lease. When it thaws, the job is done."""
    job = UUID(ingest.upload(GOOD).json()["job"]["id"])
    with ingest.database.connect() as connection:
        frozen = claimed(connection, job)
        moves.release(connection, job, frozen.attempt, REASON, 0.0, crashed=True)
        ingest.attempt(job)
        with pytest.raises(LeaseLost):
            load_dataset(Attempt(ingest.database, frozen, connection), LoadDataset.model_validate(frozen.args))
    [row] = ingest.jobs()
    assert (row["state"], row["attempt"]) == ("succeeded", 2)
    assert len(ingest.events()) == 1
    assert len(ingest.rows(ingest.events()[0]["data"]["object"])) == 100


def queued_again(ingest: Ingest, job: UUID) -> None:
    """What a redrive does to the job's row."""
    with ingest.database.connect() as connection:
        connection.execute(
            "UPDATE job SET state = 'queued', not_before = now(), finished_at = NULL WHERE id = %s", (job,)
        )


def test_a_load_whose_upload_is_gone_fails_with_the_reason(ingest: Ingest) -> None:
    answer = ingest.upload(GOOD).json()
    ingest.objects.delete(ingest.objects.keys("uploads")[0])
    run_due(ingest.database, tasks)
    assert ingest.show(answer["dataset"]["url"])["reason"]["code"] == "resource.not_found"


def test_a_failed_load_that_is_driven_again_can_succeed(ingest: Ingest) -> None:
    answer = ingest.upload(GOOD).json()
    [upload] = ingest.objects.keys("uploads")
    put(ingest.objects, upload, BROKEN.encode())
    run_due(ingest.database, tasks)
    assert ingest.show(answer["dataset"]["url"])["state"] == "failed"

    put(ingest.objects, upload, GOOD.encode())
    queued_again(ingest, UUID(answer["job"]["id"]))
    run_due(ingest.database, tasks)
    dataset = ingest.show(answer["dataset"]["url"])
    assert (dataset["state"], dataset["reason"], dataset["rows_loaded"]) == ("ready", None, 100)
    assert [event["type"] for event in ingest.events()] == [DatasetFailed.type, DatasetCompleted.type]


def test_a_load_that_kills_its_worker_again_and_again_fails_its_version(ingest: Ingest) -> None:
    answer = ingest.upload(GOOD).json()
    for _ in range(3):
        with ingest.database.connect() as connection:
            claimed(connection, UUID(answer["job"]["id"]))
        [job] = ingest.jobs()
        held = Held(**{field.name: job[field.name] for field in fields(Held)})
        failures.take_back(ingest.database, tasks, held, REASON, max_crashes=3)
    dataset = ingest.show(answer["dataset"]["url"])
    assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "job.quarantined")
    assert [event["type"] for event in ingest.events()] == [DatasetFailed.type]


def test_a_load_says_how_far_it_is(ingest: Ingest) -> None:
    ingest.load(GOOD)
    [job] = ingest.jobs()
    assert job["progress"]["unit"] == "bytes"
    assert 0 < job["progress"]["done"] <= job["progress"]["total"] == len(GOOD)


def test_a_load_that_is_called_off_fails_its_version_and_may_be_driven_again(ingest: Ingest) -> None:
    accepted = ingest.upload(GOOD).json()
    with ingest.client() as client:
        assert client.post(f"{accepted['job']['url']}/cancel").status_code == 200
        dataset = ingest.show(accepted["dataset"]["url"])
        assert (dataset["state"], dataset["reason"]["code"]) == ("failed", "job.cancelled")
        run_due(ingest.database, tasks)
        assert client.post(f"{accepted['job']['url']}/retry").status_code == 200
    dataset = ingest.show(accepted["dataset"]["url"])
    assert (dataset["state"], dataset["reason"]) == ("loading", None)
    run_due(ingest.database, tasks)
    assert ingest.show(accepted["dataset"]["url"])["state"] == "ready"
    assert [event["type"] for event in ingest.events()] == [DatasetFailed.type, DatasetCompleted.type]
    assert {str(event["run"]) for event in ingest.events()} == {accepted["run"]["id"]}


def test_a_dataset_is_loaded_again_when_somebody_asks(ingest: Ingest) -> None:
    first = ingest.load(GOOD)
    run_due(ingest.database, tasks)
    with ingest.client(content=None) as client:
        body = {"kind": ReloadDataset.kind, "args": {"dataset_id": first["id"]}}
        asked = client.post("/v1/jobs", json=body).json()
    run_due(ingest.database, tasks)
    again = ingest.show(first["url"])
    assert (again["version"], again["state"], again["rows_loaded"]) == (2, "ready", 100)
    assert again["run"] == asked["run"]["id"]
    assert [event["data"]["version"] for event in ingest.events()] == [1, 2]
    [job] = ingest.jobs(id=UUID(asked["job"]["id"]))
    assert (job["state"], job["kind"], job["began_as"]) == ("succeeded", LoadDataset.kind, ReloadDataset.kind)
    assert job["result"]["rows_loaded"] == 100


def test_another_workspaces_dataset_is_not_loaded_again(ingest: Ingest) -> None:
    first = ingest.load(GOOD)
    with ingest.client(workspace=ids.draw(), content=None) as client:
        client.post("/v1/jobs", json={"kind": ReloadDataset.kind, "args": {"dataset_id": first["id"]}})
    run_due(ingest.database, tasks)
    [job] = ingest.jobs(kind=ReloadDataset.kind)
    assert (job["state"], job["error"]["code"]) == ("failed", "resource.not_found")
    assert ingest.show(first["url"])["version"] == 1
