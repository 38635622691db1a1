"""A system under chaos that says what the test lets it say, and the report of a run of it."""

import random
import time
from dataclasses import replace
from datetime import UTC, datetime

from infra.chaos.record import Call, Crash, Record, SmallJob, Upload
from infra.chaos.report import build
from infra.chaos.run import Part, Run
from infra.chaos.schedules import TIMINGS, Made
from infra.chaos.verdict import judge
from infra.chaos.world import JobRow, World
from infra.probe.record import FINISHED, FORMAT, RAN, STARTED
from shared import ids

LEASE = 30.0


class Told(World):
    """A system that says what the test lets it say."""

    name = "told"
    lease_seconds = LEASE

    def __init__(self, folder):
        super().__init__(Record(), folder / "records", random.Random(1), lambda text: None)
        self.file = folder / "records"
        self.found, self.had, self.moved, self.files, self.left, self.fired = [], [], [], {}, [], []

    def rows(self):
        return self.found

    def effects(self):
        return self.had

    def moves(self):
        return self.moved

    def still_open(self):
        return self.left

    def fires(self):
        return self.fired

    def upload_rows(self):
        return self.files

    def deed(self, deed, number, pid=1, at=None):
        with self.file.open("ab") as file:
            file.write(FORMAT.pack(deed, pid, number, 0, at or time.time_ns()))

    def owe(self, kind, state="succeeded", ending="succeeded", effects=1, deeds=(RAN,)):
        number = self.record.draw()
        job = f"job-{number}"
        self.record.jobs.append(SmallJob(number, kind, ending, "part", job, 0.0))
        self.found.append(JobRow(job, number, kind, state, "attempt.error" if state == "failed" else None))
        self.had += [{"number": number, "job": job, "attempt": 1}] * effects
        for deed in deeds:
            self.deed(deed, number)
        return number

    def schedule(self, seconds):
        """One that fires every third second for so long, from the epoch on, each slot in time; answers its number."""
        number = self.record.draw()
        self.record.schedules.append(Made(number, "id", TIMINGS["each third second"], 0))
        self.record.ended, self.record._parts = seconds, [(0.0, "part")]
        for second in range(0, seconds + 1, 3):
            self.fire(number, second)
        return number

    def fire(self, number, second, late=0.5):
        job = str(ids.derive(datetime.fromtimestamp(second, UTC), len(self.fired)))
        self.fired.append({"job": job, "number": number, "at": second + late})
        self.found.append(JobRow(job, number, "tick", "succeeded", None))
        self.had.append({"number": number, "job": job, "attempt": 1})

    def upload(self, mails=1, hooks=1, **row):
        number = self.record.draw()
        dataset = f"chaos-{number}"
        self.record.uploads.append(Upload(dataset, "part", "run", 0.0))
        for arrivals, times in ((self.record.mails, mails), (self.record.hooks, hooks)):
            for _ in range(times):
                arrivals.take(f"id-{dataset}", dataset)
        right = {"unfinished": 0, "failed": 0, "quarantined": 0, "versions": 1, "renders": 1, "deliveries": 2}
        self.files[dataset] = {"dataset": dataset, **right, **row}
        return dataset

    views = process = mark = message_of = None


Told.__abstractmethods__ = frozenset()


PART = Part("part", "workers", 1.0, began=1.0, ended=2.0, quiet=1.0, back=1.0)


def call(seconds=0.1, status=202, says_when=False):
    return Call(1.0, seconds, status, says_when)


def crash(told, times=1, part="part"):
    told.record.crashes += [Crash(part, 10, frozenset([7]))] * times


def report(told, **changed):
    """Of a run in which a worker was hit and its job began again; `changed`: its one part."""
    run = Run(told, None, lambda text: None)
    calm = {"calls": [call()], "before": [call()]}
    run.parts.append(replace(PART, **{**calm, **changed}))
    return build(told, run, judge(told), seed=1, seconds=2.0)


def keep(told):
    """A run in which every promise was kept."""
    number = told.owe("take", deeds=())
    told.deed(STARTED, number, pid=7, at=5)
    crash(told)
    told.deed(STARTED, number, pid=8, at=15)
    told.deed(FINISHED, number, pid=8, at=16)
    assert report(told)["broken"] == []
    return told
