"""The judge of a chaos run sees what is wrong, and nothing where all is right."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from infra.chaos.document import FILES, PAGE, place
from infra.chaos.faults.database import stay_idle
from infra.chaos.faults.fault import Fault, NotInjected, Scene
from infra.chaos.record import Unknown
from infra.chaos.report import build, markdown
from infra.chaos.run import Part, Run
from infra.chaos.verdict import NEVER, QUARANTINED, Counts, judge, percentile
from infra.chaos.world import JobRow
from infra.measured import END, document, mark
from infra.probe.record import FINISHED, HEARD, RAN, STARTED
from tests.unit.chaos_told import LEASE, PART, Told, call, crash, keep, report


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path)


def counts(told):
    return judge(told).parts["part"]


def wrong(found):
    return {name: getattr(found, name) for name in NEVER if getattr(found, name)}


def test_where_all_is_right_nothing_is_wrong(told):
    for kind, effects in (("noop", 0), ("write", 1), ("tell", 1)):
        told.owe(kind, effects=effects)
    told.owe("take", deeds=(STARTED, FINISHED))
    told.owe("misbehave", state="failed", ending="failed", effects=0, deeds=(STARTED,))
    told.upload()
    found = counts(told)
    assert (found.accepted, found.succeeded, found.failed, wrong(found)) == (6, 5, 1, {})


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_has_not_ended_is_lost(told, state):
    told.owe("write", state=state)
    assert wrong(counts(told)) == {"lost": 1}


def test_a_job_that_the_system_knows_nothing_of_is_lost(told):
    told.owe("write")
    told.found.clear()
    assert wrong(counts(told)) == {"lost": 1}


def test_what_succeeded_without_its_effect_is_lost(told):
    told.owe("write", effects=0)
    told.owe("noop", effects=0, deeds=())
    assert wrong(counts(told)) == {"lost": 2}


def test_a_body_that_died_between_its_commit_and_its_record_has_lost_nothing(told):
    told.owe("write", deeds=())
    told.owe("take", deeds=(STARTED,))
    assert wrong(counts(told)) == {}


def test_an_event_without_its_subscriber_is_seen(told):
    told.owe("tell", effects=0)
    assert wrong(counts(told)) == {"unheard_events": 1}


def test_what_happened_twice_is_counted(told):
    told.owe("write", effects=3)
    told.owe("take", deeds=(STARTED, FINISHED, FINISHED))
    number = told.owe("noop", effects=0)
    told.found.append(JobRow("another", number, "noop", "succeeded", None))
    found = wrong(counts(told))
    assert found == {"duplicated_effects": 2, "double_commits": 1, "duplicated_jobs": 1}


def test_a_failure_needs_a_reason_and_a_cause(told):
    told.owe("noop", state="failed", effects=0)
    told.found[0] = JobRow("job-1", 1, "noop", "failed", None)
    found = counts(told)
    assert (found.failed, found.unexplained, found.wrongly_ended) == (1, 1, 1)


def test_what_was_rolled_back_must_not_run(told):
    told.record.refused += [7, 8]
    told.deed(RAN, 8)
    assert judge(told).total().rolled_back_ran == 1


def test_moves_are_checked_one_by_one(told):
    move = {"service": "probe", "job": "job-1", "attempt_was": 1, "attempt": 1}
    told.moved = [
        {**move, "was": "queued", "became": "running", "attempt": 2},
        {**move, "was": "running", "became": "succeeded"},
        {**move, "was": "succeeded", "became": "running", "attempt": 2},
        {**move, "was": "running", "became": "succeeded"},
        {**move, "was": "queued", "became": "running"},
    ]
    total = judge(told).total()
    assert (total.illegal_moves, total.double_commits) == (2, 1)


def test_a_file_has_succeeded_when_its_mail_and_its_webhook_have_come(told):
    told.upload(mails=0)
    told.upload(hooks=2, mails=2)
    told.upload(renders=2)
    refused = told.upload(mails=0)
    told.record.mails.rejected.add(refused)
    told.upload(mails=0, failed=1)
    found = counts(told)
    assert (found.accepted, found.lost, found.succeeded, found.failed) == (5, 1, 2, 2)
    assert (found.duplicate_messages, found.duplicated_effects, found.wrongly_ended) == (2, 1, 1)


def test_recovery_is_from_the_crash_to_the_next_attempt_of_what_it_hit(told):
    told.record.part = "part"
    second = 1_000_000_000
    told.deed(STARTED, 1, pid=10, at=1 * second)
    told.deed(FINISHED, 1, pid=10, at=2 * second)
    told.deed(STARTED, 2, pid=10, at=3 * second)
    told.deed(STARTED, 3, pid=11, at=3 * second)
    told.record.crashed([10])
    told.record.crashes[0] = type(told.record.crashes[0])("part", 4 * second, frozenset([10]))
    told.deed(STARTED, 3, pid=12, at=5 * second)
    told.deed(STARTED, 2, pid=12, at=9 * second)
    assert judge(told).recoveries == {"part": [5.0]}


def test_percentiles_are_of_the_nearest_rank():
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(map(float, range(1, 101))), 0.99) == 99.0


@pytest.fixture
def kept(told):
    return keep(told)


def fail_wrongly(told):
    told.owe("noop", state="failed", effects=0)


def quarantine(told):
    told.owe("noop", state="failed", effects=0)
    told.found[-1] = replace(told.found[-1], reason=QUARANTINED)


def leave_open(told):
    told.left = ["reports.report.render 1 is queued"]


def leave_unresolved(told):
    told.record.unresolved.append(99)


def scatter(told):
    told.record.crowds.append(("part", frozenset({told.owe("write"), told.owe("write")})))


def hit_nobody(told):
    told.record.crashes.clear()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (fail_wrongly, "wrongly_ended is 1"),
        (quarantine, "wrongly_ended is 1"),
        (leave_open, "left_open is 1"),
        (leave_unresolved, "1 requests were repeated for 90 s without a proper answer"),
        (scatter, "scattered is 1"),
        (hit_nobody, "part: it hit no process that had a job in hand"),
        (lambda told: told.upload(mails=0, failed=1), "wrongly_ended is 1"),
        (lambda told: told.owe("tell", effects=0), "unheard_events is 1"),
    ],
)
def test_what_is_wrong_breaks_the_run(kept, act, said):
    act(kept)
    assert report(kept)["broken"] == [said]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"quiet": None}, "it never became quiet"),
        ({"back": None}, "throughput was not back within 60 s"),
        ({"calls": [call(status=500)]}, "1 errors were no 503 with Retry-After"),
        ({"calls": [call(status=503)]}, "1 errors were no 503 with Retry-After"),
        ({"group": "database", "calls": [call(status=None)]}, "1 requests got no answer"),
        ({"group": "broker", "calls": [call(), call(status=None)]}, "it showed in the API: 1 errors"),
        ({"group": "broker", "calls": [call(seconds=2.6)]}, "API p99 is 2600.0 ms, more than 2500 ms"),
        ({"group": "broker", "calls": []}, "no request met it"),
        ({"goes_on": True, "still": 15.1}, "for 15.1 s no other job was done, or no event was heard"),
    ],
)
def test_what_a_fault_was_not_to_show_breaks_the_run(kept, changed, said):
    assert report(kept, **changed)["broken"] == [f"part: {said}"]


@pytest.mark.parametrize(
    "changed",
    [
        {"calls": [call(status=503, says_when=True), call(status=None)]},
        {"group": "database", "calls": [call(status=503, says_when=True)]},
        {"group": "broker", "calls": [call(seconds=2.6)], "before": [call(seconds=0.3)]},
        {"goes_on": True, "still": 14.0},
        {"still": 60.0},
        {"group": "outside", "calls": [call(seconds=9.0)]},
    ],
)
def test_what_a_fault_may_show_breaks_nothing(kept, changed):
    assert report(kept, **changed)["broken"] == []


def test_an_api_process_that_was_killed_may_leave_requests_without_an_answer(kept):
    kept.record.silenced.add("part")
    assert report(kept, group="database", calls=[call(status=None)])["broken"] == []


def test_a_crowd_of_which_two_came_by_one_message_was_one(kept):
    scatter(kept)
    [(_, numbers)] = kept.record.crowds
    kept.together = lambda: numbers
    assert report(kept)["broken"] == []


def forget(told, *numbers):
    """What callers sent without a key, and nobody answered."""
    told.record.unknown += [Unknown(number, "write", "part") for number in numbers]
    told.record.jobs = [job for job in told.record.jobs if job.number not in numbers]


def test_what_nobody_confirmed_is_there_once_or_not_at_all(kept):
    forget(kept, kept.owe("write"), kept.record.draw())
    found = report(kept)
    assert (found["broken"], found["accepted"], found["unconfirmed"]) == ([], 2, 2)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda told, number: told.deed(RAN, number), "rolled_back_ran is 1"),
        (lambda told, number: told.had.append({"number": number}), "rolled_back_ran is 1"),
    ],
)
def test_what_nobody_confirmed_and_is_not_there_must_not_have_run(kept, act, said):
    number = kept.record.draw()
    forget(kept, number)
    act(kept, number)
    assert report(kept)["broken"] == [said]


def test_what_nobody_confirmed_must_not_be_there_twice(kept):
    number = kept.owe("write", effects=2)
    kept.found.append(JobRow("again", number, "write", "succeeded", None))
    forget(kept, number)
    assert report(kept)["broken"] == ["duplicated_effects is 1", "duplicated_jobs is 1"]


def test_a_slow_recovery_breaks_the_run(kept):
    crash(kept)
    kept.deed(STARTED, kept.owe("take", deeds=()), pid=7, at=6)
    kept.deed(STARTED, 2, pid=8, at=int(LEASE + 16) * 1_000_000_000)
    kept.deed(FINISHED, 2, pid=8, at=int(LEASE + 17) * 1_000_000_000)
    assert report(kept)["broken"] == ["part: recovery p99 is 46.0 s, more than 45 s"]


def test_who_lost_three_workers_may_be_quarantined_where_we_killed_three(kept):
    crash(kept, times=2)
    quarantine(kept)
    kept.upload(mails=0, failed=1, quarantined=1)
    found = report(kept)
    assert (found["broken"], found["quarantined"]) == ([], 2)
    kept.upload(mails=0, failed=2, quarantined=1)
    assert report(kept)["broken"] == ["wrongly_ended is 1"]


def test_a_fault_that_was_not_injected_breaks_the_run(told):
    def inject(scene):
        raise NotInjected("nothing was there")

    part, run = replace(PART, injected=[]), Run(told, None, lambda text: None)
    run._inject(part, Fault("none", "broker", 1.0, inject), 1.0)
    assert part.injected == []
    assert build(told, run, judge(told), seed=1, seconds=2.0)["broken"] == ["not injected: none: nothing was there"]


def test_a_fault_that_another_kept_from_its_prey_is_named_and_not_counted_as_injected(told):
    def inject(scene):
        raise NotInjected("nothing was there")

    part, run = replace(PART, group="mixed", injected=[]), Run(told, None, lambda text: None)
    run._inject(part, Fault("none", "broker", 1.0, inject), 1.0)
    assert (part.injected, part.missed, run.trouble) == ([], ["none"], [])


def test_how_long_nothing_was_done_is_of_jobs_and_of_events(told):
    run, part, second = Run(told, None, lambda text: None), replace(PART, began=10.0, ended=20.0), 1_000_000_000
    for at in (5, 11, 14, 19, 30):
        told.deed(RAN, 1, at=at * second)
    assert (run._still(part, RAN), run._still(part, HEARD)) == (5.0, 10.0)


def test_an_idle_transaction_that_could_not_be_opened_is_no_fault(told):
    told.app_url = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"
    with pytest.raises(NotInjected):
        stay_idle(Scene(told, None, None))


def test_the_report_names_every_promise_that_was_broken(told):
    told.owe("write", effects=2)
    told.owe("write", state="queued")
    run = Run(told, None, lambda text: None)
    run.parts.append(Part("broker-flush", "broker", 1.0, began=1.0, ended=2.0))
    report = build(told, run, judge(told), seed=1, seconds=2.0)
    assert report["accepted"] == 2
    assert report["broken"] == [
        "lost is 1",
        "duplicated_effects is 1",
        "accepted is not succeeded + failed + cancelled",
        "broker-flush: throughput was not back within 60 s",
        "broker-flush: it never became quiet",
        "broker-flush: no request met it",
    ]
    *table, empty, beside = markdown(report).splitlines()
    assert ([line.count("|") for line in table], empty) == ([17] * 4, "")
    assert "`rolled_back_ran` 0" in beside
    assert {"lost", "duplicate_messages", "recovery_p99_s", "api_errors", "api_p99_ms"} <= report.keys()
    assert Counter(report["faults"][0]["injected"]) == Counter()
    assert Counts().accepted == 0


def test_the_documentation_is_filled_from_reports(kept, tmp_path):
    page, file, bad = tmp_path / "page.md", tmp_path / "report.json", tmp_path / "bad.json"
    page.write_text(PAGE.read_text())
    found = report(kept)
    for system in FILES:
        for accepted in (8_888, 7_777):
            file.write_text(json.dumps({**found, "system": system, "accepted": accepted}))
            document(page, [file], place)
    assert page.read_text().split("<!-- chaos")[0] == PAGE.read_text().split("<!-- chaos")[0]
    tables = [page.read_text().partition(mark(name))[2].partition(END)[0] for name in FILES.values()]
    assert [("7,777" in table, "8,888" in table, table.count("| part |")) for table in tables] == [(True, False, 1)] * 2
    kept_reports = [json.loads((tmp_path / "measured" / file).read_text()) for file in FILES.values()]
    assert [each["accepted"] for each in kept_reports] == [7_777] * 2
    whole = page.read_text()
    for text in ("not JSON", "[]", json.dumps({**found, "system": "another"})):
        bad.write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json holds no report for page\.md"):
            document(page, [file, bad], place)
    assert page.read_text() == whole
