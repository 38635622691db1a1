"""Reports, from a dataset's completion to the files: real PostgreSQL, real Parquet, the real HTTP application."""

import csv
import io
import json
import shutil
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pypdf import PdfReader

from services.reports import operations
from services.reports.tasks import tasks
from shared import ids
from shared.contracts.ingest import Column
from shared.contracts.reports import ReportFailed, ReportRendered, ReportSkipped
from shared.ledger.enqueue import Origin
from shared.testing.ledger import jobs, run_due
from shared.testing.objects import put
from tests.integration.reports_service import BARE, TOTALS, Reports

# From the event to the files


def test_a_completed_dataset_becomes_a_report(reports: Reports) -> None:
    definition = reports.define(BARE)
    given = reports.run(reports.completed())

    [render] = reports.renders(run=str(given.runid))
    assert (render["state"], render["reason"]) == ("ready", None)
    assert (render["definition"], render["title"], render["dataset"]) == ("summary", "Orders of the year", "orders")
    assert {"label": "Total amount", "value": "50.00"} in render["figures"]
    assert [artifact["filename"] for artifact in render["artifacts"]] == [
        "summary-orders-v1.html",
        "summary-orders-v1.pdf",
        "summary-orders-v1.csv",
    ]
    [event] = reports.events()
    rendered = ReportRendered.model_validate(event["data"])
    assert event["type"] == ReportRendered.type
    assert (str(event["run"]), str(event["workspace"])) == (str(given.runid), str(reports.workspace))
    assert str(event["causation"]) == render["job"]
    assert str(rendered.definition_id) == definition["id"]
    assert str(rendered.render_id) == event["subject"] == render["id"]
    assert [figure.model_dump() for figure in rendered.figures] == render["figures"]
    for artifact in rendered.artifacts:
        assert reports.objects.size(artifact.object) == artifact.bytes > 0
    assert {job["state"] for job in jobs(reports.database)} == {"succeeded"}


def test_the_files_are_downloaded_as_they_were_rendered(reports: Reports) -> None:
    reports.define(BARE)
    reports.run(reports.completed())
    [render] = reports.renders()
    with reports.client() as client:
        html, pdf, table = (client.get(artifact["url"]) for artifact in render["artifacts"])

    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert html.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "Orders of the year" in html.text
    assert pdf.headers["content-type"] == "application/pdf"
    text = PdfReader(io.BytesIO(pdf.content)).pages[0].extract_text()
    assert "Orders of the year" in text
    assert "2 rejected rows (16.7% of the input)" in text
    assert list(csv.reader(io.StringIO(table.text, newline="")))[1] == ["South", "5", "27.50", "5.5"]
    for answer, artifact in zip((html, pdf, table), render["artifacts"], strict=True):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == f'attachment; filename="{artifact["filename"]}"'
        assert len(answer.content) == int(answer.headers["content-length"]) == artifact["bytes"]


def test_a_file_is_shown_in_the_browser_when_asked(reports: Reports) -> None:
    reports.define(BARE | {"formats": ["html"]})
    reports.run(reports.completed())
    [render] = reports.renders()
    with reports.client() as client:
        shown = client.get(render["artifacts"][0]["url"], params={"disposition": "inline"})
        assert shown.headers["content-disposition"].startswith("inline;")
        assert client.get(render["artifacts"][0]["url"], params={"disposition": "evil"}).status_code == 422


def test_each_definition_that_matches_is_rendered(reports: Reports) -> None:
    reports.define(BARE)
    reports.define(TOTALS)
    reports.define(TOTALS | {"name": "others", "dataset": "customers"})
    reports.run(reports.completed())
    assert sorted((render["definition"], render["state"]) for render in reports.renders()) == [
        ("summary", "ready"),
        ("totals", "ready"),
    ]


def test_nothing_happens_when_no_definition_is_made_for_the_dataset(reports: Reports) -> None:
    reports.define(TOTALS | {"dataset": "customers"})
    reports.run(reports.completed())
    assert (reports.renders(), reports.events()) == ([], [])
    [match] = jobs(reports.database)
    assert (match["kind"], match["state"]) == ("reports.definition.match", "succeeded")
    assert match["result"] == {"owed": 0, "skipped": 0}


def test_another_workspaces_definitions_are_left_alone(reports: Reports) -> None:
    with reports.client(ids.draw()) as stranger:
        assert stranger.post("/v1/definitions", json=BARE).status_code == 201
    reports.run(reports.completed())
    assert reports.events() == []


def test_an_event_that_comes_twice_is_rendered_once(reports: Reports) -> None:
    reports.define(BARE)
    event, id = reports.completed(), ids.draw()
    reports.run(event, id=id)
    reports.run(event, id=id)
    assert len(reports.renders()) == len(reports.events()) == 1
    assert len(jobs(reports.database)) == 2


def test_a_match_that_is_done_again_owes_nothing_more(reports: Reports) -> None:
    reports.define(BARE)
    given = reports.run(reports.completed())
    origin = Origin(given.workspace, given.runid, "event", given.id)
    with reports.database.transaction(origin=origin) as session:
        operations.match_definitions(session, given)
    run_due(reports.database, tasks)
    assert len(reports.renders()) == len(reports.events()) == 1


def test_a_definition_that_is_deleted_meanwhile_is_still_rendered_as_it_was(reports: Reports) -> None:
    definition = reports.define(BARE)
    reports.give(reports.completed())
    reports.do("reports.definition.match")
    with reports.client() as client:
        assert client.delete(definition["url"]).status_code == 204
    run_due(reports.database, tasks)
    assert [render["state"] for render in reports.renders()] == ["ready"]


# Skipped


def test_a_definition_for_every_dataset_is_skipped_where_its_columns_are_missing(reports: Reports) -> None:
    definition = reports.define(TOTALS | {"dataset": "*"})
    reports.run(reports.completed(name="visits", columns=[Column(name="page", type="text")]))
    [event] = reports.events()
    skipped = ReportSkipped.model_validate(event["data"])
    assert event["type"] == ReportSkipped.type
    assert (str(skipped.definition_id), skipped.dataset) == (definition["id"], "visits")
    assert skipped.reason.code == "report.column_unknown"
    assert reports.renders() == []


def test_a_dataset_without_rows_is_skipped(reports: Reports) -> None:
    reports.define(BARE)
    reports.define(TOTALS)
    reports.run(reports.completed(rows_loaded=0))
    assert [event["data"]["reason"]["code"] for event in reports.events()] == ["report.dataset_empty"] * 2
    assert reports.renders() == []


# Failed


def test_a_definition_whose_column_is_gone_fails_with_the_reason(reports: Reports) -> None:
    reports.define(TOTALS | {"figures": [{"label": "Profit", "function": "sum", "column": "profit"}]})
    reports.run(reports.completed())
    [render] = reports.renders(state="failed")
    assert render["reason"]["code"] == "report.column_unknown"
    assert "'profit'" in render["reason"]["detail"]
    assert render["artifacts"] == []
    [event] = reports.events()
    failed = ReportFailed.model_validate(event["data"])
    assert (event["type"], str(failed.render_id)) == (ReportFailed.type, render["id"])
    assert failed.reason.code == "report.column_unknown"
    [job] = jobs(reports.database, kind="reports.report.render")
    assert (job["state"], job["attempt"]) == ("failed", 1)


def test_a_parquet_that_is_gone_fails_at_once(reports: Reports) -> None:
    reports.define(BARE)
    reports.run(reports.completed(object="datasets/orders/gone.parquet"))
    [render] = reports.renders()
    assert (render["state"], render["reason"]["code"]) == ("failed", "report.dataset_unreadable")


def test_a_broken_parquet_fails_at_once(reports: Reports) -> None:
    reports.define(BARE)
    put(reports.objects, "datasets/orders/broken.parquet", b"PAR1 and no more")
    reports.run(reports.completed(object="datasets/orders/broken.parquet"))
    [render] = reports.renders()
    assert (render["state"], render["reason"]["code"]) == ("failed", "report.dataset_unreadable")


def test_a_store_that_is_away_is_tried_again_until_the_attempts_are_used_up(reports: Reports) -> None:
    reports.define(BARE)
    event = reports.completed()
    shutil.rmtree(reports.folder / "objects")
    (reports.folder / "objects").write_text("not a directory")
    reports.run(event)
    [render] = reports.renders()
    assert render["state"] == "failed"
    [job] = jobs(reports.database, kind="reports.report.render")
    assert job["attempt"] == job["max_attempts"] == 5
    assert [event["type"] for event in reports.events()] == [ReportFailed.type]


def test_a_failed_render_becomes_ready_when_its_job_is_redriven(reports: Reports) -> None:
    reports.define(BARE)
    event = reports.completed(object="datasets/orders/late.parquet")
    reports.run(event)
    put(reports.objects, "datasets/orders/late.parquet", reports.objects.get_bytes("datasets/orders/1.parquet"))
    with reports.database.connect() as connection:
        connection.execute("UPDATE job SET state = 'queued', finished_at = NULL WHERE state = 'failed'")
    run_due(reports.database, tasks)
    [render] = reports.renders()
    assert (render["state"], render["reason"], len(render["artifacts"])) == ("ready", None, 3)
    assert [event["type"] for event in reports.events()] == [ReportFailed.type, ReportRendered.type]


def test_what_a_killed_attempt_left_is_removed_by_the_next(reports: Reports) -> None:
    reports.define(BARE)
    reports.give(reports.completed())
    reports.do("reports.definition.match")
    [job] = jobs(reports.database, kind="reports.report.render")
    left = reports.folder / "scratch" / f"{job['id']}.0"
    left.mkdir(parents=True)
    (left / "data.parquet").write_bytes(b"half of it")
    run_due(reports.database, tasks)
    assert not left.exists()


# Definitions over HTTP


def test_a_definition_is_made_shown_listed_and_deleted(reports: Reports) -> None:
    made = reports.define(TOTALS)
    with reports.client() as client:
        shown = client.get(made["url"])
        assert shown.json() == made
        assert {key: made[key] for key in ("name", "formats", "chart")} == {
            key: TOTALS[key] for key in ("name", "formats", "chart")
        }
        assert [item["id"] for item in client.get("/v1/definitions").json()["items"]] == [made["id"]]
        assert client.delete(made["url"]).status_code == 204
        assert client.get(made["url"]).json()["code"] == "definition.not_found"
        assert client.delete(made["url"]).status_code == 404


def test_a_name_is_taken_once_in_a_workspace(reports: Reports) -> None:
    reports.define(BARE)
    with reports.client() as client, reports.client(ids.draw()) as stranger:
        again = client.post("/v1/definitions", json=BARE)
        assert (again.status_code, again.json()["code"]) == (409, "definition.exists")
        assert stranger.post("/v1/definitions", json=BARE).status_code == 201


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "name"),
        (BARE | {"name": "Not A Slug"}, "name"),
        (BARE | {"query": "SELECT 1"}, "query"),
        (BARE | {"figures": [{"label": "x", "function": "sum"}]}, "needs a column"),
        (BARE | {"figures": [{"label": "x", "function": "sum", "column": "nul\x00"}]}, "column"),
        (BARE | {"title": "\ud800"}, "title"),
        (TOTALS | {"chart": {"kind": "bar", "x": "region", "y": "Gone"}}, "chart.y names none of 'Total'"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused_with_the_reason(
    reports: Reports, body: dict[str, Any], said: str
) -> None:
    with reports.client() as client:
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/definitions", content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_pages_go_on_where_the_last_one_ended(reports: Reports) -> None:
    for number in range(5):
        reports.define(BARE | {"name": f"report-{number}"})
    names, after = [], None
    with reports.client() as client:
        while True:
            params = {"limit": 2} | ({"after": after} if after else {})
            page = client.get("/v1/definitions", params=params).json()
            names += [item["name"] for item in page["items"]]
            after = page["next"]
            if after is None:
                break
    assert names == [f"report-{number}" for number in (4, 3, 2, 1, 0)]


# Who may see what


@pytest.mark.parametrize("kind", ["definitions", "renders", "artifacts"])
def test_what_is_not_there_is_a_named_404(reports: Reports, kind: str) -> None:
    with reports.client() as client:
        answer = client.get(f"/v1/{kind}/{ids.draw()}")
        assert (answer.status_code, answer.json()["code"]) == (404, f"{kind.removesuffix('s')}.not_found")
        assert client.get(f"/v1/{kind}/no-id").status_code == 422


def test_another_workspace_sees_nothing(reports: Reports) -> None:
    definition = reports.define(BARE)
    reports.run(reports.completed())
    [render] = reports.renders()
    with reports.client(ids.draw()) as stranger:
        for url in (definition["url"], render["url"], *(artifact["url"] for artifact in render["artifacts"])):
            assert stranger.get(url).status_code == 404
        assert stranger.delete(definition["url"]).status_code == 404
        assert stranger.get("/v1/definitions").json()["items"] == []
        assert stranger.get("/v1/renders", params={"run": render["run"]}).json()["items"] == []


def test_scopes_are_asked_for(reports: Reports) -> None:
    with reports.client(scopes=frozenset({"read"})) as reader, TestClient(reports.app.app) as nobody:
        assert reader.post("/v1/definitions", json=BARE).status_code == 403
        assert reader.get("/v1/definitions").status_code == 200
        assert nobody.get("/v1/definitions").status_code == 401


def test_a_file_that_the_store_lost_is_a_404_and_no_broken_answer(reports: Reports) -> None:
    reports.define(BARE | {"formats": ["csv"]})
    reports.run(reports.completed())
    [render] = reports.renders()
    for key in reports.objects.keys("reports"):
        reports.objects.delete(key)
    with reports.client() as client:
        assert client.get(render["artifacts"][0]["url"]).status_code == 404


def test_the_api_describes_itself(reports: Reports) -> None:
    with reports.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/definitions", "/v1/definitions/{id}", "/v1/renders", "/v1/renders/{id}", "/v1/artifacts/{id}"} <= set(
        paths
    )


def test_a_render_that_is_called_off_fails_and_may_be_driven_again(reports: Reports) -> None:
    reports.define(BARE)
    reports.give(reports.completed())
    reports.do("reports.definition.match")
    [render] = reports.renders()
    with reports.client() as client:
        assert client.post(f"/v1/jobs/{render['job']}/cancel").status_code == 200
        [cancelled] = reports.renders()
        assert (cancelled["state"], cancelled["reason"]["code"]) == ("failed", "job.cancelled")
        run_due(reports.database, tasks)
        assert client.post(f"/v1/jobs/{render['job']}/retry").status_code == 200
    [again] = reports.renders()
    assert (again["state"], again["reason"], again["finished_at"]) == ("queued", None, None)
    run_due(reports.database, tasks)
    assert [render["state"] for render in reports.renders()] == ["ready"]
    assert [event["type"] for event in reports.events()] == [ReportFailed.type, ReportRendered.type]
