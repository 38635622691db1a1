"""The judge of a chaos run sees what is wrong, and nothing where all is right."""

import random
import time
from collections import Counter

import pytest

from infra.chaos.record import Record, SmallJob, Upload
from infra.chaos.report import build, markdown
from infra.chaos.run import Part, Run
from infra.chaos.verdict import NEVER, Counts, judge, percentile
from infra.chaos.world import JobRow, World
from infra.probe.record import FINISHED, FORMAT, RAN, STARTED

LEASE = 30.0


class Told(World):
    """A system that says what the test lets it say."""

    name = "told"
    lease_seconds = LEASE

    def __init__(self, folder):
        super().__init__(Record(), folder / "records", random.Random(1), lambda text: None)
        self.file = folder / "records"
        self.found, self.had, self.moved, self.files = [], [], [], {}

    def rows(self):
        return self.found

    def effects(self):
        return self.had

    def moves(self):
        return self.moved

    def upload_rows(self):
        return self.files

    def deed(self, deed, number, pid=1, at=None):
        with self.file.open("ab") as file:
            file.write(FORMAT.pack(deed, pid, number, 0, at or time.time_ns()))

    def owe(self, kind, state="succeeded", ending="succeeded", effects=1, deeds=(RAN,)):
        number = self.record.draw()
        job = f"job-{number}"
        self.record.jobs.append(SmallJob(number, kind, ending, "part", job, 0.0))
        self.found.append(JobRow(job, number, kind, state, state == "failed"))
        self.had += [{"number": number, "job": job, "attempt": 1}] * effects
        for deed in deeds:
            self.deed(deed, number)
        return number

    def upload(self, mails=1, hooks=1, **row):
        number = self.record.draw()
        dataset = f"chaos-{number}"
        self.record.uploads.append(Upload(dataset, "part", "run", 0.0))
        for arrivals, times in ((self.record.mails, mails), (self.record.hooks, hooks)):
            for _ in range(times):
                arrivals.take(f"id-{dataset}", dataset)
        right = {"unfinished": 0, "failed": 0, "versions": 1, "renders": 1, "deliveries": 2}
        self.files[dataset] = {"dataset": dataset, **right, **row}
        return dataset

    unfinished = views = process = mark = message_of = None


Told.__abstractmethods__ = frozenset()


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
    assert (found.accepted, found.succeeded, found.failed, wrong(found), found.wrongly_ended) == (6, 5, 1, {}, 0)


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


def test_an_event_without_its_subscriber_is_seen(told):
    told.owe("tell", effects=0)
    assert wrong(counts(told)) == {"unheard_events": 1}


def test_what_happened_twice_is_counted(told):
    told.owe("write", effects=3)
    told.owe("take", deeds=(STARTED, FINISHED, FINISHED))
    number = told.owe("noop", effects=0)
    told.found.append(JobRow("another", number, "noop", "succeeded", False))
    found = wrong(counts(told))
    assert found == {"duplicated_effects": 2, "double_commits": 1, "duplicated_jobs": 1}


def test_a_failure_needs_a_reason_and_a_cause(told):
    told.owe("noop", state="failed", effects=0)
    told.found[0] = JobRow("job-1", 1, "noop", "failed", False)
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
    ]
    *table, empty, beside = markdown(report).splitlines()
    assert ([line.count("|") for line in table], empty) == ([14] * 4, "")
    assert "`rolled_back_ran` 0" in beside
    assert {"lost", "duplicate_messages", "recovery_p99_s", "api_errors", "api_p99_ms"} <= report.keys()
    assert Counter(report["faults"][0]["injected"]) == Counter()
    assert Counts().accepted == 0
