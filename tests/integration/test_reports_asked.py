"""A report that is asked for by name, over data that came before."""

from typing import Any

import pytest

from services.reports.jobs import RenderReport
from services.reports.tasks import tasks
from shared import ids
from shared.testing.ledger import jobs, run_due
from tests.integration.reports_service import BARE, TOTALS, Reports


def ask(reports: Reports, **args: Any) -> dict[str, Any]:
    """Ask for a render, do all that it causes, and show the job that was asked for."""
    with reports.client() as client:
        answer = client.post("/v1/jobs", json={"kind": "reports.definition.render", "args": args})
    assert answer.status_code == 202, answer.text
    run_due(reports.database, tasks)
    [job] = [job for job in jobs(reports.database) if str(job["id"]) == answer.json()["job"]["id"]]
    return job


def test_a_definition_made_after_the_data_came_is_rendered(reports: Reports) -> None:
    reports.run(reports.completed(version=2))
    reports.run(reports.completed(version=1))  # comes late
    definition = reports.define(TOTALS)
    job = ask(reports, definition_id=definition["id"])
    [render] = reports.renders()
    assert (job["state"], job["kind"]) == ("succeeded", RenderReport.kind)
    assert job["result"] == {"render": render["id"], "artifacts": 1}
    assert render["job"] == str(job["id"])
    assert (render["state"], render["version"], render["run"]) == ("ready", 2, str(job["run"]))
    ask(reports, definition_id=definition["id"], dataset="orders")
    assert len(reports.renders()) == 2, "each time anew"


def test_a_definition_for_every_dataset_needs_a_name(reports: Reports) -> None:
    reports.run(reports.completed())
    definition = reports.define(BARE)
    assert ask(reports, definition_id=definition["id"])["error"]["code"] == "report.dataset_unnamed"
    assert ask(reports, definition_id=definition["id"], dataset="orders")["state"] == "succeeded"


@pytest.mark.parametrize(("dataset", "code"), [("visits", "report.dataset_unnamed"), (None, "report.dataset_unknown")])
def test_a_dataset_that_does_not_fit_fails_with_the_reason(reports: Reports, dataset: str | None, code: str) -> None:
    job = ask(reports, definition_id=reports.define(TOTALS)["id"], dataset=dataset)
    assert (job["state"], job["error"]["code"]) == ("failed", code)


def test_a_dataset_without_rows_is_skipped_with_the_reason(reports: Reports) -> None:
    reports.run(reports.completed(rows_loaded=0))
    assert ask(reports, definition_id=reports.define(TOTALS)["id"])["result"] == {"skipped": 1}


def test_another_workspaces_definition_and_data_are_not_there(reports: Reports) -> None:
    reports.run(reports.completed())
    definition = reports.define(TOTALS)
    reports.workspace = ids.draw()
    assert ask(reports, definition_id=definition["id"])["error"]["code"] == "definition.not_found"
    own = reports.define(TOTALS)
    assert ask(reports, definition_id=own["id"])["error"]["code"] == "report.dataset_unknown"
