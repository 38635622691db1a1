"""The service for measuring and breaking does what benchmarks and chaos runs ask of it."""

import httpx2 as httpx
import psycopg
import pytest

from infra.probe import mischief
from infra.probe.plant import plant
from infra.probe.record import FINISHED, HEARD, RAN, STARTED, Reader
from shared.testing.waiting import until


@pytest.fixture(scope="module")
def running():
    with plant() as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    with httpx.Client(base_url=running.probe.url, headers=running.probe.headers) as client:
        yield client


@pytest.fixture
def reader(running):
    return Reader(running.probe.record_file)


def owe(client, kind, **args):
    answer = client.post("/v1/jobs", json={"kind": f"probe.thing.{kind}", "args": args})
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]["id"]


def ended(client, job):
    def look():
        found = client.get(f"/v1/jobs/{job}").json()
        return found if found["state"] in ("succeeded", "failed", "cancelled") else None

    return until(look, 60)


def effects(running, number):
    with psycopg.connect(running.probe.database_url) as connection:
        return connection.execute("SELECT count(*) FROM effect_row WHERE number = %s", (number,)).fetchone()[0]


def deeds(reader, number):
    return [record.deed for record in reader.records() if record.number == number]


def test_a_job_that_does_nothing_answers_its_number_and_leaves_a_record(client, reader):
    assert ended(client, owe(client, "noop", number=11, sent_ns=5))["result"] == 11
    [record] = [record for record in reader.records() if record.number == 11]
    assert (record.deed, record.sent_ns) == (RAN, 5)
    assert record.at_ns > record.sent_ns


def test_effects_are_rows(client, running, reader):
    for number, kind in ((21, "write"), (22, "take"), (23, "hold")):
        assert ended(client, owe(client, kind, number=number, **({"seconds": 0} if kind != "write" else {})))
        assert effects(running, number) == 1
    assert deeds(reader, 22) == deeds(reader, 23) == [STARTED, FINISHED]


def test_an_event_has_one_subscriber(client, running, reader):
    ended(client, owe(client, "tell", number=31, effect=True))
    until(lambda: HEARD in deeds(reader, 31))
    assert sorted(deeds(reader, 31)) == [HEARD, RAN]
    assert effects(running, 31) == 1


def test_what_was_rolled_back_never_runs(client, running, reader):
    assert client.post("/v1/refused", json={"number": 41}).status_code == 409
    ended(client, owe(client, "write", number=42))
    assert deeds(reader, 41) == []
    assert effects(running, 41) == 0


def test_whatever_goes_wrong_ends_with_its_reason(client):
    owed = {how: owe(client, "misbehave", how=how) for how in mischief.BODIES}
    found = {how: ended(client, job) for how, job in owed.items()}
    assert {each["state"] for each in found.values()} == {"failed"}
    assert {how: each["reason"]["code"] for how, each in found.items()} == {
        **dict.fromkeys(mischief.BODIES, "attempt.error"),
        **dict.fromkeys(["segfault", "oom_killed"], "job.quarantined"),
        "result": "job.result_invalid",
    }


def test_a_request_whose_answer_was_lost_gets_the_same_job_when_it_is_repeated(client, running, reader):
    before = running.view("probe-http").pid
    body, key = {"kind": "probe.thing.noop", "args": {"number": 51}}, {"Idempotency-Key": "51"}
    with pytest.raises(httpx.TransportError):
        client.post("/v1/jobs", json=body, headers={**key, "probe-die": "1"})
    until(lambda: RAN in deeds(reader, 51))
    until(lambda: running.view("probe-http").pid not in (None, before))
    until(lambda: running.view("probe-http").status.holds)
    job = client.post("/v1/jobs", json=body, headers=key).json()["job"]["id"]
    assert ended(client, job)["result"] == 51
    assert deeds(reader, 51) == [RAN]
