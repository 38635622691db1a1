"""`millrace jobs …` against a real gateway."""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from clients.cli import run
from clients.client import Client
from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared import ids
from shared.db import Database
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.testing.ledger import jobs, run_due
from tests.integration.api_service import Say


def fall_over(attempt: Attempt, args: RunCanary) -> None:
    raise RuntimeError(f"{args.text} fell over")


FAILING = Tasks()
FAILING.job(RunCanary)(fall_over)


@pytest.fixture
def say(say: Say) -> Say:
    return partial(say, "jobs")


def owe(client: Client, *texts: str) -> list[str]:
    made = client.create_jobs([{"kind": RunCanary.kind, "args": {"text": text}} for text in texts])
    owed: list[str] = made["jobs"]
    return owed


def states(database: Database) -> list[str]:
    return [job["state"] for job in jobs(database, kind=RunCanary.kind)]


def test_a_dead_letter_is_told_so_that_a_person_can_read_it(client: Client, database: Database, say: Say) -> None:
    [job] = owe(client, "bird")
    run_due(database, FAILING)
    assert say("retry", job) == (0, "1 driven again\n", "")
    code, out, _ = say("show", job)
    assert code == 0
    assert "state     queued" in out
    assert 'arguments {"text": "bird"}' in out
    assert "attempt 8: failed" in out
    assert "version 0.1.0" in out
    assert "attempt.error: RuntimeError: bird fell over" in out
    assert "in fall_over" in out, "the traceback"
    assert "redriven by key:mr_" in out
    assert "it was failed, at attempt 8: attempt.error: RuntimeError: bird fell over" in out
    code, out, _ = say("show", job, "--json")
    assert json.loads(out)["history"][7]["outcome"] == "failed"


def test_jobs_are_cancelled_and_driven_again_by_id(client: Client, database: Database, say: Say) -> None:
    first, second = owe(client, "a", "b")
    code, out, _ = say("cancel", first, second, "--json")
    assert (code, json.loads(out)) == (0, {"moved": [first, second], "refused": {}})
    code, out, err = say("cancel", first)
    assert (code, out) == (2, "")
    assert "The job is cancelled: only queued and running jobs can be cancelled" in err
    assert say("retry", first, "--args", '{"text": "c"}')[0] == 0
    code, out, err = say("retry", first, second)
    assert (code, out) == (1, "1 driven again\n")
    assert f"1 of 2 jobs were not driven again. {first}: The job is queued" in err
    run_due(database, tasks)
    assert [job["result"] for job in jobs(database, kind=RunCanary.kind)] == [{"text": "c"}, {"text": "b"}]


def test_a_job_is_owed_and_under_a_key_once(client: Client, database: Database, say: Say) -> None:
    asked = ("create", RunCanary.kind, "--args", '{"text": "a"}', "--unique", "k", "--json")
    code, out, _ = say(*asked)
    first = json.loads(out)
    assert (code, first["existing"]) == (0, False)
    assert json.loads(say(*asked, "--unique-while", "queued")[1]) == first | {"existing": True}
    code, out, _ = say(*asked[:-1], "--unique-for", "1h")
    assert out == f"job {first['job']['id']} was there already\nrun {first['run']['id']}\n"
    times = ("--not-before", "1h", "--start-by", "90m", "--deadline", "2h")
    say("create", RunCanary.kind, "--args", '{"text": "b"}', "--lane", "urgent", *times, "--limit-key", "host:a")
    [job] = [job for job in jobs(database, kind=RunCanary.kind) if job["args"]["text"] == "b"]
    assert (job["priority"], round((job["deadline"] - job["not_before"]).total_seconds())) == (0, 3600)
    assert job["limit_key"] == f"asked.host:{job['workspace']}:a"
    assert round((job["start_by"] - job["not_before"]).total_seconds()) == 1800
    assert round((job["not_before"] - job["created_at"]).total_seconds() / 60) == 60


def test_what_a_filter_matches_is_counted_first(client: Client, database: Database, say: Say) -> None:
    owe(client, *"abc")
    code, out, _ = say("cancel", "--kind", RunCanary.kind, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "24 jobs match: 3 api.canary.run, 7 x")
    assert states(database) == ["queued"] * 3
    code, out, err = say("cancel", "--kind", RunCanary.kind)
    assert (code, out) == (2, ""), "nobody is there to be asked"
    assert "24 jobs match" in err
    assert "with --yes" in err
    assert states(database) == ["queued"] * 3
    assert say("cancel", "--kind", RunCanary.kind, "--yes")[0] == 0
    assert states(database) == ["cancelled"] * 3
    code, out, _ = say("retry", "--all", "--yes", "--json", "--per-second", "1000")
    assert (code, json.loads(out)["moved"]) == (0, 3 + 21)
    assert states(database) == ["queued"] * 3


def test_what_waits_is_put_into_another_lane(client: Client, database: Database, say: Say) -> None:
    first, _ = owe(client, "a", "b")
    assert say("prioritise", first, "--lane", "urgent") == (0, "1 prioritised\n", "")
    assert "  its lane was normal\n" in say("show", first)[1]
    code, out, _ = say("prioritise", "--kind", RunCanary.kind, "--lane", "urgent", "--dry-run", "--json")
    assert (code, json.loads(out)["by_kind"][RunCanary.kind]) == (0, 1)
    code, out, _ = say("prioritise", "--kind", RunCanary.kind, "--lane", "bulk", "--yes")
    assert (code, out.endswith(" jobs prioritised\n")) == (0, True)
    assert {job["priority"] for job in jobs(database, kind=RunCanary.kind)} == {9}


def test_jobs_over_time_are_drawn(client: Client, database: Database, say: Say) -> None:
    owe(client, "a", "b")
    run_due(database, tasks)
    code, out, err = say("counts", "--bucket", "minute")
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith(RunCanary.kind)]
    assert line.split()[1] == "2"
    assert line.rstrip().endswith("█")
    assert "There were more" in out, "says another service"
    code, out, _ = say("counts", "--json", "--since", "1h", "--kind", RunCanary.kind)
    assert json.loads(out)["kinds"][0]["states"] == {"succeeded": 2}


def test_a_person_is_asked(client: Client, database: Database, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    owe(client, "a")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert say("cancel", "--all")[::2] == (1, "millrace: nothing was done\n")
    assert states(database) == ["queued"]
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert say("cancel", "--all")[0] == 0
    assert states(database) == ["cancelled"]


def test_jobs_are_listed_by_time_and_error(client: Client, database: Database, say: Say) -> None:
    owe(client, "a", "b")
    run_due(database, FAILING)
    code, out, _ = say("list", "--error", "a fell", "--since", "1h", "--json")
    assert (code, [job["args"]["text"] for job in map(_detail(client), json.loads(out)["jobs"])]) == (0, ["a"])
    assert "a fell over" in say("list", "--kind", RunCanary.kind)[1]
    assert say("list", "--until", "2026-01-01") == (0, "no such jobs\n", "")


def test_words_that_look_like_markup_are_told_as_they_are(client: Client, database: Database, say: Say) -> None:
    owe(client, "a[/b] [red]b :smile:")
    run_due(database, FAILING)
    code, out, err = say("list", "--kind", RunCanary.kind)
    assert (code, err) == (0, "")
    assert "a[/b] [red]b :smile: fell over" in out


def test_a_service_that_does_not_answer_is_named(client: Client, door: Any, say: Say) -> None:
    [job] = owe(client, "a")
    door.app.state.peers._urls["reports"] = "http://127.0.0.1:1"
    code, out, err = say("list", "--kind", RunCanary.kind)
    assert (code, err) == (1, "millrace: reports could not be asked\n")
    assert job in out
    code, out, _ = say("list", "--json")
    assert (code, json.loads(out)["unreachable"]) == (1, ["reports"])
    code, out, err = say("cancel", "--run", client.job(job)["run"], "--dry-run")
    assert (code, err) == (1, "millrace: reports could not be asked\n")
    asked = {"Authorization": f"Bearer {os.environ['MILLRACE_KEY']}"}
    for path in (f"/v1/jobs/{ids.draw()}", f"/v1/jobs/{ids.draw()}/why"):
        assert door.get(path, headers=asked).status_code == 503, "it may be one of theirs"
    code, out, err = say("cancel", "--kind", RunCanary.kind, "--yes")
    assert (code, err) == (1, "millrace: reports did not answer: it is not known if jobs there moved\n")


def _detail(client: Client) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda job: client.job(job["id"])


JOB = str(ids.draw())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "../keys"], "'../keys' is no id of a job"),
        (["show", JOB], "There is no such job"),
        (["retry", "x"], "'x' is no id of a job"),
        (["retry"], "name jobs, or say which by options"),
        (["retry", JOB, "--all"], "and not both"),
        (["cancel", JOB, "--kind", "x"], "and not both"),
        (["cancel", JOB, "--dry-run"], "leave the ids out"),
        (["cancel", JOB], "There is no such job"),
        (["retry", "--all", "--args", "{}"], "--args is for one job"),
        (["retry", JOB, "--args", "{"], "--args is no JSON"),
        (["retry", JOB, "--args", "[]"], "--args is a JSON object"),
        (["retry", JOB, "--per-second", "5"], "--per-second is for what options match"),
        (["retry", "--all", "--per-second", "0"], "--per-second is from 0.001 to 1000"),
        (["retry", "--all", "--per-second", "nan"], "--per-second is from 0.001 to 1000"),
        (["retry", "--job-state", "running"], "only failed and cancelled jobs can be driven again"),
        (["cancel", "--job-state", "done"], "'done' is none of"),
        (["list", "--since", "yesterday"], "--since 'yesterday' is neither a time"),
        (["list", "--since", "999999w"], "is neither a time"),
        (["list", "--since", "1960-01-01"], "created_from"),
        (["list", "--run", "x"], "'x' is no id of a run"),
        (["prioritise", JOB], "say into which lane: --lane urgent, normal, bulk"),
        (["prioritise", "--all"], "say into which lane: --lane urgent, normal, bulk"),
        (["list", "--lane", "fast"], "--lane 'fast' is none of"),
        (["list", "--workspace", "mine"], "'mine' is no id of a workspace"),
        (["prioritise", JOB, "--lane", "fast"], "--lane 'fast' is none of"),
        (["prioritise", "--lane", "bulk"], "name jobs, or say which by options"),
        (["counts", "--bucket", "week"], "--bucket 'week' is none of minute, hour, day"),
        (["counts", "--since", "400d"], "more than 500 buckets"),
        (["create", "api.no.such"], "There is no kind of job named 'api.no.such'"),
        (["create", RunCanary.kind, "--args", "{"], "--args is no JSON"),
        (["create", RunCanary.kind, "--lane", "fast"], "--lane 'fast' is none of"),
        (["create", RunCanary.kind, "--not-before", "soon"], "--not-before 'soon' is neither a time"),
        (["create", RunCanary.kind, "--deadline", "1960-01-01"], "deadline"),
        (["create", RunCanary.kind, "--args", '{"text": ""}', "--limit-key", "x"], "a limit key is PREFIX:NAME"),
        (["create", RunCanary.kind, "--start-by", "never"], "--start-by 'never' is neither a time"),
        (["create", RunCanary.kind, "--unique-for", "1h"], "for how long --unique KEY holds"),
        (["create", RunCanary.kind, "--unique", "k", "--unique-for", "1h", "--unique-while", "queued"], "and not both"),
        (["create", RunCanary.kind, "--unique", "k", "--unique-while", "ever"], "'ever' is none of"),
        (["create", RunCanary.kind, "--unique", "k", "--unique-for", "long"], "'long' is no length of time"),
        (["create", RunCanary.kind, "--args", '{"text": ""}', "--unique", "k", "--unique-for", "8d"], "604800"),
        (["create", RunCanary.kind, "--args", '{"text": ""}', "--unique", ""], "unique.key"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(say: Say, arguments: list[str], said: str) -> None:
    code, out, err = say(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("millrace: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "create", RunCanary.kind, "--args", '{"text": NaN}'),
        ("jobs", "create", RunCanary.kind, "--args", r'{"text": "\ud800"}'),
        ("jobs", "list", "--kind", "\udcff"),
        ("limits", "set", f"kind:{RunCanary.kind}", "--per-second", "nan"),
        ("limits", "set", "kind:\udcff", "--concurrency", "1"),
    ],
)
def test_what_no_request_can_hold_is_one_line_and_exit_code_2(
    client: Client, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(list(arguments)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_jobs_are_found_and_moved_by_queue_and_lane(client: Client, database: Database, say: Say) -> None:
    [normal] = owe(client, "a")
    bulk = client.create_job(RunCanary.kind, {"text": "b"}, lane="bulk")["job"]["id"]

    def listed(*options: str) -> set[str]:
        return {job["id"] for job in json.loads(say("list", "--kind", RunCanary.kind, *options, "--json")[1])["jobs"]}

    assert listed("--queue", "api.jobs") == {normal, bulk}
    assert listed("--queue", "api.jobs", "--lane", "bulk") == {bulk}
    assert listed("--queue", "api.other") == set()
    assert say("prioritise", "--in-lane", "bulk", "--lane", "urgent", "--yes")[0] == 0
    assert listed("--lane", "urgent") == {bulk}
    assert say("cancel", "--queue", "api.jobs", "--lane", "urgent", "--yes")[0] == 0
    assert listed("--job-state", "cancelled") == {bulk}


def test_the_operator_looks_at_the_jobs_of_a_workspace_that_it_names(
    client: Client, database: Database, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = owe(client, "a")
    [row] = jobs(database, kind=RunCanary.kind)
    whose = ("--workspace", str(row["workspace"]))
    assert "Only the operator names a workspace" in say("list", *whose)[2]
    monkeypatch.setenv("MILLRACE_KEY", "the operator")
    assert [each["id"] for each in json.loads(say("list", "--kind", RunCanary.kind, *whose, "--json")[1])["jobs"]] == [
        job
    ]
    assert f"job       {job}" in say("show", job, *whose)[1]
    assert "why " in say("why", job, *whose)[1]
    assert json.loads(say("list", "--workspace", str(ids.draw()), "--json")[1])["jobs"] == []
    code, _, err = say("show", job)
    assert (code, err.count("\n")) == (2, 1), "without a workspace it has none"
