"""A burst: one report for each recipient, of their rows alone, and one event when all have ended."""

from typing import Any

import pytest

from services.reports.tasks import tasks
from shared import ids
from shared.contracts.reports import BurstCompleted, ReportFailed, ReportRendered
from shared.testing.ledger import jobs, run_due
from tests.integration.reports_service import BARE, TOTALS, Reports

NORTH, SOUTH = ({"name": name, "only": {"region": name}} for name in ("North", "South"))
NOWHERE = {"name": "Nowhere", "only": {"region": "'; DROP TABLE job --"}}


def burst(reports: Reports, definition: dict[str, Any], *recipients: dict[str, Any], key: str = "", **more: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    with reports.client() as client:
        body = {"recipients": recipients, **more}
        return client.post(f"/v1/definitions/{definition['id']}/bursts", json=body, headers=headers)


def csv_of(reports: Reports, render: dict[str, Any]) -> list[str]:
    [artifact] = render["artifacts"]
    with reports.client() as client:
        return client.get(artifact["url"]).text.splitlines()  # type: ignore[no-any-return]


@pytest.fixture
def definition(reports: Reports) -> dict[str, Any]:
    """Made after the data came, so that nothing but bursts is rendered of it."""
    reports.run(reports.completed())
    return reports.define(TOTALS)


def test_each_recipient_gets_a_report_of_their_rows(reports: Reports, definition: dict[str, Any]) -> None:
    answer = burst(reports, definition, NORTH, SOUTH)
    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    assert answer.headers["location"] == accepted["batch"]["url"]
    assert accepted["renders"] == 2
    run_due(reports.database, tasks)
    renders = {render["title"]: render for render in reports.renders(run=accepted["run"]["id"])}
    assert set(renders) == {"Totals: North", "Totals: South"}
    assert {title: csv_of(reports, render)[1:] for title, render in renders.items()} == {
        "Totals: North": ["North,22.50"],
        "Totals: South": ["South,27.50"],
    }
    with reports.client() as client:
        batch = client.get(accepted["batch"]["url"]).json()
    assert (batch["state"], batch["name"], batch["jobs"]) == ("succeeded", "burst of totals", 3)
    told = [event["type"] for event in reports.events()]
    assert told == [ReportRendered.type, ReportRendered.type, BurstCompleted.type]
    completed = BurstCompleted.model_validate(reports.events()[-1]["data"])
    assert (str(completed.batch_id), completed.rendered, completed.failed) == (accepted["batch"]["id"], 2, 0)
    assert (str(completed.definition_id), completed.dataset, completed.version) == (definition["id"], "orders", 1)


def test_one_that_fails_keeps_none_from_the_others(reports: Reports, definition: dict[str, Any]) -> None:
    accepted = burst(reports, definition, NORTH, NOWHERE, SOUTH).json()
    run_due(reports.database, tasks)
    states = {render["title"]: render["state"] for render in reports.renders(run=accepted["run"]["id"])}
    assert states == {"Totals: North": "ready", "Totals: Nowhere": "failed", "Totals: South": "ready"}
    [failed] = [event["data"] for event in reports.events() if event["type"] == ReportFailed.type]
    assert failed["reason"]["code"] == "report.dataset_empty"
    assert reports.events()[-1]["data"] | {"rendered": 2, "failed": 1} == reports.events()[-1]["data"]
    with reports.client() as client:
        batch = client.get(accepted["batch"]["url"]).json()
    assert (batch["state"], batch["reason"]["code"]) == ("failed", "batch.failures")


def test_a_repeated_request_bursts_once(reports: Reports, definition: dict[str, Any]) -> None:
    first, again = (burst(reports, definition, NORTH, key="monday") for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(jobs(reports.database, kind="reports.report.render")) == 1
    assert burst(reports, definition, SOUTH, key="monday").json()["code"] == "idempotency.key_reused"


def test_a_burst_that_is_called_off_leaves_no_report_half_way(reports: Reports, definition: dict[str, Any]) -> None:
    accepted = burst(reports, definition, NORTH, SOUTH).json()
    with reports.client() as client:
        assert client.post(f"{accepted['batch']['url']}/cancel").json()["state"] == "cancelled"
    assert [render["reason"]["code"] for render in reports.renders()] == ["batch.cancelled"] * 2
    assert [event["type"] for event in reports.events()] == [ReportFailed.type] * 2


@pytest.mark.parametrize(
    ("recipients", "code"),
    [
        ([], "request.invalid"),
        ([NORTH, NORTH], "request.invalid"),
        ([{"name": "All", "only": {}}], "request.invalid"),
        ([{"name": f"r{n}", "only": {"region": "North"}} for n in range(1001)], "request.invalid"),
        ([NORTH, {"name": "x", "only": {"planet": "Mars"}}], "report.column_unknown"),
    ],
)
def test_what_cannot_be_rendered_for_anybody_is_refused(
    reports: Reports, definition: dict[str, Any], recipients: list[dict[str, Any]], code: str
) -> None:
    answer = burst(reports, definition, *recipients)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert reports.renders() == []


def test_its_dataset_must_be_known(reports: Reports) -> None:
    unknown = reports.define(TOTALS)
    assert burst(reports, unknown, NORTH).json()["code"] == "report.dataset_unknown"
    reports.run(reports.completed())
    every = reports.define(BARE)
    assert burst(reports, every, NORTH).json()["code"] == "report.dataset_unnamed"
    assert burst(reports, every, NORTH, dataset="orders").status_code == 202
    reports.workspace = ids.draw()
    assert burst(reports, every, NORTH).status_code == 404


def test_a_definition_may_be_of_some_rows_alone(reports: Reports) -> None:
    reports.define(TOTALS | {"only": {"region": "South"}})
    reports.run(reports.completed())
    [render] = reports.renders()
    assert csv_of(reports, render)[1:] == ["South,27.50"]
