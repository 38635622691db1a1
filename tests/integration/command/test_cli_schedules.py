"""`millrace schedules …` against a real gateway."""

import json
from datetime import UTC, datetime
from functools import partial

import pytest

from clients.client import Client
from services.api.jobs import RunCanary
from services.api.tasks import tasks
from shared.db import Database
from shared.ledger import firing
from shared.testing.ledger import jobs
from tests.integration.api_service import Say

HELLO = ("create", "hello", RunCanary.kind, "--args", '{"text": "hello"}')


@pytest.fixture
def say(say: Say) -> Say:
    return partial(say, "schedules")


def fire(database: Database, at: str) -> None:
    with database.connect() as connection:
        firing.fire_due(connection, tasks, datetime.fromisoformat(at).astimezone(UTC))


def test_a_schedule_is_made_and_shown_by_its_name(say: Say) -> None:
    code, out, _ = say(*HELLO, "--cron", "30 8 * * MON-FRI", "--zone", "Europe/Berlin", "--jitter", "5m")
    assert code == 0
    assert "when      30 8 * * MON-FRI in Europe/Berlin, jitter 300 s" in out
    assert 'fires     api.canary.run {"text": "hello"}' in out
    assert "state     active" in out
    assert say("show", "hello")[1] == out
    shown = json.loads(say("show", "hello", "--json")[1])
    assert (shown["jitter_seconds"], shown["misfire"], shown["grace_seconds"]) == (300, "once", 60)
    code, listed, _ = say("list")
    assert (code, listed.splitlines()[1].split()[:2]) == (0, ["hello", "api.canary.run"])


def test_a_name_that_looks_like_markup_is_told_as_it_is(say: Say) -> None:
    assert say("create", "a[/b]", RunCanary.kind, "--args", '{"text": "b"}', "--cron", "@daily")[0] == 0
    code, out, err = say("list")
    assert (code, err, out.splitlines()[1].split()[0]) == (0, "", "a[/b]")


def test_a_service_that_cannot_be_asked_is_named(client: Client, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"items": [], "next": None, "unreachable": ["reports"]}
    monkeypatch.setattr(Client, "_get", lambda *_, **__: page)
    assert say("list") == (1, "no such schedules\n", "millrace: reports could not be asked\n")
    code, out, _ = say("list", "--json")
    assert (code, json.loads(out)) == (1, {"schedules": [], "unreachable": ["reports"]})
    assert say("show", "hello") == (1, "", "millrace: reports could not be asked\n")


def test_every_option_reaches_the_api(say: Say, client: Client) -> None:
    options = ("--every", "15m", "--start", "2036-01-01", "--end", "2036-02-01T12:00+01:00", "--zone", "Asia/Kathmandu",
               "--misfire", "all", "--window", "2h", "--grace", "10s", "--overlap", "queue",
               "--lane", "bulk")  # fmt: skip
    code, out, _ = say(*HELLO, *options, "--json")
    assert code == 0
    made = json.loads(out)
    assert client.schedule(made["id"]) == made
    assert (made["every_seconds"], made["misfire"], made["window_seconds"]) == (900, "all", 7200)
    assert (made["grace_seconds"], made["overlap"], made["lane"]) == (10, "queue", "bulk")
    assert datetime.fromisoformat(made["start"]) == datetime(2035, 12, 31, 18, 15, tzinfo=UTC)
    assert datetime.fromisoformat(made["end"]) == datetime(2036, 2, 1, 11, tzinfo=UTC)


def test_an_edit_changes_what_is_given_and_nothing_else(say: Say, client: Client) -> None:
    say(*HELLO, "--every", "15m", "--zone", "Asia/Kathmandu", "--lane", "bulk", "--overlap", "skip")
    before = client.schedule(next(client.schedules())["id"])
    code, out, _ = say("edit", "hello", "--overlap", "queue", "--jitter", "30s", "--json")
    after = json.loads(out)
    changed = {"overlap": "queue", "jitter_seconds": 30}
    assert (code, client.schedule(before["id"])) == (0, after)
    assert {name: after[name] for name in before if name not in ("next_at", "updated_at")} == {
        name: changed.get(name, value) for name, value in before.items() if name not in ("next_at", "updated_at")
    }
    code, out, _ = say("edit", "hello", "--cron", "@daily", "--name", "daily", "--args", '{"text": "b"}', "--json")
    after = json.loads(out)
    assert (code, after["cron"], after["every_seconds"]) == (0, "@daily", None)
    assert (after["name"], after["args"], after["zone"], after["overlap"]) == (
        "daily",
        {"text": "b"},
        "Asia/Kathmandu",
        "queue",
    )


def test_it_is_paused_resumed_run_and_deleted(say: Say, client: Client, database: Database) -> None:
    say(*HELLO, "--cron", "@daily")
    assert "state     paused" in say("pause", "hello")[1]
    code, out, _ = say("run", "hello")
    [job] = jobs(database, kind=RunCanary.kind)
    assert (code, out) == (0, f"job {job['id']} in run {job['run']}\n")
    assert "state     active" in say("resume", "hello")[1]
    assert say("delete", "hello") == (0, "hello is deleted\n", "")
    assert list(client.schedules()) == []


def test_its_history_is_a_table(say: Say, client: Client, database: Database) -> None:
    made = json.loads(say(*HELLO, "--every", "1m", "--overlap", "skip", "--json")[1])
    fire(database, made["next_at"])
    fire(database, client.schedule(made["id"])["next_at"])
    code, out, _ = say("history", "hello")
    assert code == 0
    assert "skipped" in out.splitlines()[1]
    assert "An earlier job of the schedule was unfinished" in out
    assert str(jobs(database)[0]["id"]) in out.splitlines()[2]
    [fired] = json.loads(say("history", "hello", "--outcome", "fired", "--json")[1])["slots"]
    assert fired["job"]["id"] == str(jobs(database)[0]["id"])


def test_times_are_previewed_with_what_the_clocks_do(say: Say) -> None:
    code, out, _ = say("preview", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--start", "2027-03-28", "-n", "2")
    assert code == 0
    assert "2027-03-28T03:00:00+02:00" in out
    assert "02:30:00 does not exist that day" in out
    say(*HELLO, "--at", "2036-10-26T02:30", "--zone", "Europe/Berlin")
    [item] = json.loads(say("preview", "hello", "--json")[1])["items"]
    assert item["local"] == "2036-10-26T02:30:00+02:00"


def test_the_client_replaces_a_definition(client: Client) -> None:
    made = client.create_schedule(name="a", kind=RunCanary.kind, args={}, cron="@daily")
    changed = client.replace_schedule(made["id"], name="a", kind=RunCanary.kind, args={}, every_seconds=60)
    assert (changed["cron"], changed["every_seconds"]) == (None, 60)
    assert len(client.preview_schedule(made["id"], 3)["items"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*HELLO, "--cron", "61 * * * *"), "minute: 61 is not between 0 and 59"),
        ((*HELLO, "--cron", "* * * * *", "--zone", "Europe/Brelin"), "near it are Europe/Berlin"),
        (HELLO, "one of cron, every_seconds and at is needed"),
        ((*HELLO, "--every", "soon"), "--every 'soon' is no length of time"),
        ((*HELLO, "--at", "tomorrow"), "--at 'tomorrow' is no time"),
        ((*HELLO, "--at", "2020-01-01"), "its times are over"),
        ((*HELLO, "--cron", "@daily", "--misfire", "never"), "'skip', 'once' or 'all'"),
        ((*HELLO, "--cron", "@daily", "--lane", "fast"), "--lane 'fast' is none of urgent, normal, bulk"),
        (("create", "x", RunCanary.kind, "--args", "[1]", "--cron", "@daily"), "--args is a JSON object"),
        (("create", "x", "api.run.settle", "--cron", "@daily"), "the service's own"),
        (("edit", "nobody"), "say what is to change"),
        (("edit", "nobody", "--cron", "@daily"), "there is no schedule named 'nobody'"),
        (("show", "nobody"), "there is no schedule named 'nobody'"),
        (("preview", "x", "--cron", "@daily"), "name a schedule or give times, not both"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(say: Say, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = say(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("millrace: ")
    assert err.count("\n") == 1
