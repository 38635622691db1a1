"""What became of what was accepted: counts by part of the run, from our own record and the system's tables."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from infra.chaos import limits, schedules
from infra.chaos.record import Record, SmallJob, Unknown, Upload
from infra.chaos.world import JobRow, Row, World
from infra.probe import record as deeds
from infra.probe.record import Record as Deed

LEGAL: Final = frozenset(
    {
        *(("queued", to) for to in ("running", "failed", "cancelled")),
        *(("running", to) for to in ("succeeded", "failed", "cancelled", "queued")),
        *(("failed", "queued"), ("cancelled", "queued")),
    }
)
"""The moves of a job's state, written down a second time: the checker believes nobody."""
SERVICES: Final = "services"
"""Where is counted what belongs to no part: the services' own work."""
ENDED: Final = ("succeeded", "failed", "cancelled")
OWN_EFFECT: Final = ("write", "take", "hold", "gather", limits.KIND, schedules.KIND)
QUARANTINED: Final = "job.quarantined"
CRASHES: Final = 3
"""So many times a job must have lost its worker before it is quarantined: by the default of MILLRACE_MAX_CRASHES."""
DELIVERIES: Final = 2
"""Of each upload: a mail and a webhook."""


@dataclass
class Counts:
    """All zero but the first three when every promise is kept."""

    accepted: int = 0
    succeeded: int = 0
    failed: int = 0
    """Ended with a reason; what was to fail, and what was not."""
    cancelled: int = 0
    lost: int = 0
    """Accepted, and not ended when all was quiet, or ended as succeeded without what it owed."""
    wrongly_ended: int = 0
    """Succeeded though it could not, or failed though nothing was wrong with it; with its reason."""
    unexplained: int = 0
    """Failed without a reason."""
    duplicated_effects: int = 0
    """Rows in the database beyond the one that a key is to have."""
    duplicated_jobs: int = 0
    """Jobs beyond the one that a request asked for."""
    double_commits: int = 0
    """Jobs of which two attempts committed."""
    illegal_moves: int = 0
    unheard_events: int = 0
    """Events without their subscribers' jobs."""
    rolled_back_ran: int = 0
    """Jobs that ran although their transaction was rolled back."""
    unconfirmed: int = 0
    """Asked for once, without a key and without an answer: of them those that exist count as accepted, too."""
    scattered: int = 0
    """Crowds of jobs asked for at once of which no message carried two: what is said of such messages was not tried."""
    limited: int = 0
    """Of the accepted, those under limits."""
    limit_exceeded: int = 0
    """Jobs that were in what they share when it held as many others as its limit allows."""
    rate_exceeded: int = 0
    """Jobs that began sooner than their rate allows."""
    schedule_slots: int = 0
    """Slots of schedules that fell due, by their definitions and the clock."""
    slots_missed: int = 0
    """Of these, those of which there is no job."""
    slots_fired_twice: int = 0
    """Of these, those of which there is more than one."""
    slots_unasked: int = 0
    """Jobs of schedules that are of no slot, or were there before its time."""
    left_open: int = 0
    """Jobs and events of any service that had not ended at the end of the run, whoever asked for them."""
    quarantined: int = 0
    """Of the failed, those whose worker was killed under them three times, by us: allowed, and counted."""
    duplicate_messages: int = 0
    """Mails and webhooks that arrived again, under the same id: allowed, and counted."""

    def add(self, other: "Counts") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


NEVER: Final = (
    *("lost", "unexplained", "duplicated_effects", "duplicated_jobs", "double_commits"),
    *("illegal_moves", "unheard_events", "rolled_back_ran", "wrongly_ended", "left_open", "scattered"),
    *("limit_exceeded", "rate_exceeded", "slots_missed", "slots_fired_twice", "slots_unasked"),
)
"""Counts that break a promise when they are not zero."""


@dataclass
class Verdict:
    """Counts by part, and what each says in words when it is not as it should be."""

    parts: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    words: list[str] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from a crash to the next attempt of each job that it hit, by part."""
    late: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from the time of each slot to its job, by the part in which it fell due."""
    most_held: int = 0
    """Bodies that were at once in a thing that limited jobs share."""

    def total(self) -> Counts:
        total = Counts()
        for counts in self.parts.values():
            total.add(counts)
        return total


def judge(world: World) -> Verdict:
    """Compares once all is quiet, or the patience was used up. Raises psycopg.Error when PostgreSQL is away."""
    verdict, record = Verdict(), world.record
    done = list(world.deeds.records())
    rows, effects = world.rows(), world.effects()
    by_number: dict[int, list[JobRow]] = defaultdict(list)
    for row in rows:
        by_number[row.number].append(row)
    had: dict[int, list[Row]] = defaultdict(list)
    for effect in effects:
        had[effect["number"]].append(effect)
    fired = _judge_slots(verdict, world)
    ran = Counter(deed.number for deed in done)
    ends = Counter(deed.number for deed in done if deed.deed == deeds.FINISHED)
    jobs = record.jobs + [job for each in record.unknown if (job := _find(verdict, each, by_number, had, ran))]
    together = world.together() if record.crowds else set()
    for part, numbers in record.crowds:
        verdict.parts[part].scattered += not numbers & together
    killed = Counter(crash.part for crash in record.crashes)
    deadly = {part for part, times in killed.items() if times >= CRASHES}
    for job in jobs:
        excused = job.part in deadly
        _judge_job(verdict, job, excused, by_number[job.number], had[job.number], ran[job.number], ends[job.number])
    for job in fired:  # jobs of one schedule share a number
        mine = [row for row in by_number[job.number] if row.job == job.job]
        _judge_job(
            verdict, job, job.part in deadly, mine, [row for row in had[job.number] if row["job"] == job.job], 0, 0
        )
    _judge_uploads(verdict, world, record, deadly)
    _judge_refused(verdict, record, by_number, had, ran)
    moves = world.moves()
    _judge_moves(verdict, record, moves)
    _judge_limits(verdict, world, done, moves)
    left = world.still_open()
    verdict.parts[SERVICES].left_open = len(left)
    verdict.words += [f"at the end {words}" for words in left]
    for crash in record.crashes:
        verdict.recoveries[crash.part] += _recoveries(done, crash.pids, crash.at_ns)
    return verdict


def _find(
    verdict: Verdict,
    unknown: Unknown,
    rows: dict[int, list[JobRow]],
    effects: dict[int, list[Row]],
    ran: Counter[int],
) -> SmallJob | None:
    """The job of a request that nobody confirmed; None when it came to nothing, and then nothing is to have run."""
    number, part = unknown.number, unknown.part
    verdict.parts[part].unconfirmed += 1
    if rows[number]:
        return SmallJob(number, unknown.kind, "succeeded", part, rows[number][0].job, 0.0)
    if ran[number] or effects[number]:
        verdict.parts[part].rolled_back_ran += 1
        verdict.words.append(f"{part}: {unknown.kind} {number} is nowhere and ran")
    return None


def _judge_job(
    verdict: Verdict,
    job: SmallJob,
    excused: bool,
    rows: Sequence[JobRow],
    effects: Sequence[Row],
    ran: int,
    ends: int,
) -> None:
    """`excused`: workers were killed so often that a job may have been quarantined."""
    counts = verdict.parts[job.part]
    counts.accepted += 1
    counts.duplicated_jobs += max(0, len(rows) - 1)
    row = next((row for row in rows if row.job == job.job), None)
    if row is None or row.state not in ENDED:
        counts.lost += 1
        verdict.words.append(f"{job.part}: {job.kind} {job.number} (job {job.job}) is {_state(row)}")
        return
    setattr(counts, row.state, getattr(counts, row.state) + 1)
    if row.state != job.ending and excused and row.reason == QUARANTINED:
        counts.quarantined += 1
    elif row.state != job.ending:
        counts.wrongly_ended += 1
        verdict.words.append(f"{job.part}: {job.kind} {job.number} (job {job.job}) has {row.state} ({row.reason})")
    if row.state == "failed" and row.reason is None:
        counts.unexplained += 1
    if row.state == "succeeded":
        wanted = 1 if job.kind in (*OWN_EFFECT, "tell") else 0
        if job.kind == "tell" and not effects:
            counts.unheard_events += 1
        elif len(effects) < wanted or not (wanted or ran):
            # Where there is a row it is the proof: a body writes its record after its commit, and may die in between.
            counts.lost += 1
            what = f"{len(effects)} effects, {ran} records"
            verdict.words.append(f"{job.part}: {job.kind} {job.number} (job {job.job}) succeeded with {what}")
    counts.duplicated_effects += max(0, len(effects) - 1)
    counts.double_commits += max(0, ends - 1)


def _state(row: JobRow | None) -> str:
    return row.state if row is not None else "nowhere"


def _judge_uploads(verdict: Verdict, world: World, record: Record, deadly: set[str]) -> None:
    found = world.upload_rows() if record.uploads else {}
    for upload in record.uploads:
        _judge_upload(verdict, record, upload, upload.part in deadly, found.get(upload.dataset))
    for arrivals in (record.mails, record.hooks):
        parts = {upload.dataset: upload.part for upload in record.uploads}
        for id, times in arrivals.ids.items():
            if part := parts.get(arrivals.datasets[id]):
                verdict.parts[part].duplicate_messages += times - 1


def _judge_upload(verdict: Verdict, record: Record, upload: Upload, excused: bool, row: Row | None) -> None:
    """A file has succeeded when its mail and its webhook have arrived here, whatever the system says."""
    counts = verdict.parts[upload.part]
    counts.accepted += 1
    missing, rejected = [], False
    for what, arrivals in (("mail", record.mails), ("webhook", record.hooks)):
        if not arrivals.about(upload.dataset):
            rejected |= upload.dataset in arrivals.rejected
            missing += [what] if upload.dataset not in arrivals.rejected else []
    if row is None or row["unfinished"] or (missing and not row["failed"]):
        counts.lost += 1
        verdict.words.append(f"{upload.part}: file {upload.dataset} (run {upload.run}): {row}, missing {missing}")
        return
    ending = "failed" if missing or rejected else "succeeded"
    setattr(counts, ending, getattr(counts, ending) + 1)
    if missing and excused and row["failed"] == row["quarantined"]:
        counts.quarantined += 1
    elif missing:
        counts.wrongly_ended += 1
        verdict.words.append(f"{upload.part}: file {upload.dataset} (run {upload.run}) has failed: {row}")
    beyond = {"versions": 1, "renders": 1, "deliveries": DELIVERIES}
    counts.duplicated_effects += sum(max(0, row[name] - most) for name, most in beyond.items())


def _judge_refused(
    verdict: Verdict,
    record: Record,
    rows: dict[int, list[JobRow]],
    effects: dict[int, list[Row]],
    ran: Counter[int],
) -> None:
    for number in record.refused:
        if ran[number] or effects[number] or rows[number]:
            verdict.parts["refused"].rolled_back_ran += 1
            verdict.words.append(f"{number} was rolled back and ran")


def _judge_moves(verdict: Verdict, record: Record, moves: Iterable[Row]) -> None:
    """Every committed move, of all services' jobs."""
    parts = {job.job: job.part for job in record.jobs}
    committed: Counter[tuple[str, str]] = Counter()
    for move in moves:
        counts = verdict.parts[parts.get(move["job"], SERVICES)]
        claims = int(move["became"] == "running")
        if (move["was"], move["became"]) not in LEGAL or move["attempt"] != move["attempt_was"] + claims:
            counts.illegal_moves += 1
            verdict.words.append(f"{move['service']}: job {move['job']} moved {move['was']} -> {move['became']}")
        if move["became"] == "succeeded":
            committed[move["service"], move["job"]] += 1
            counts.double_commits += int(committed[move["service"], move["job"]] > 1)


def _judge_slots(verdict: Verdict, world: World) -> list[SmallJob]:
    """The jobs that schedules fired: each is owed like those that callers asked for."""
    record, fires = world.record, world.fires()
    found = schedules.find(record.schedules, fires, record.ended)
    for name, slots in (
        ("schedule_slots", found.due),
        ("slots_missed", found.missed),
        ("slots_fired_twice", found.twice),
    ):
        for number, second in slots:
            part = record.part_at(second)
            setattr(verdict.parts[part], name, getattr(verdict.parts[part], name) + 1)
            if name in NEVER:
                verdict.words.append(f"{part}: {name}: slot {second} of schedule {number}")
    for job in found.unasked:
        verdict.parts[SERVICES].slots_unasked += 1
        verdict.words.append(f"job {job} is of no slot that was due")
    for second, seconds in found.late:
        verdict.late[record.part_at(second)].append(seconds)
    return [
        SmallJob(fire["number"], schedules.KIND, "succeeded", record.part_at(fire["at"]), fire["job"], fire["at"])
        for fire in fires
    ]


def _judge_limits(verdict: Verdict, world: World, done: Sequence[Deed], moves: Iterable[Row]) -> None:
    jobs = {job.job: job for job in world.record.jobs if job.kind == limits.KIND}
    parts = {job.number: job.part for job in jobs.values()}
    starts, taken = list[tuple[float, int]](), defaultdict[int, list[int]](list)
    for move in moves:
        if (job := jobs.get(move["job"])) is None:
            continue
        if move["became"] == "running":
            starts.append((move["at"], job.number))
        elif move["was"] == "running":
            taken[job.number].append(int(move["at"] * 1e9))
    held = limits.hold(world.record.things, done, world.record.crashes, taken, world.lease_seconds)
    verdict.most_held = max(held.most.values(), default=0)
    for job in jobs.values():
        verdict.parts[job.part].limited += 1
    for number in held.exceeded:
        verdict.parts[parts.get(number, SERVICES)].limit_exceeded += 1
        verdict.words.append(f"{world.record.things[number]}: {number} entered it as one too many")
    for number in limits.too_soon(starts):
        verdict.parts[parts[number]].rate_exceeded += 1
        verdict.words.append(f"{number} began sooner than its rate allows")


def _recoveries(done: Iterable[Deed], pids: Iterable[int], at_ns: int) -> list[float]:
    """Seconds from the crash to the next start of each job that these processes had begun and not finished."""
    begun: dict[int, int] = {}
    hit: dict[int, float] = {}
    for deed in done:
        if deed.at_ns <= at_ns:
            if deed.pid in set(pids) and deed.deed == deeds.STARTED:
                begun[deed.number] = deed.at_ns
            elif deed.deed == deeds.FINISHED:
                begun.pop(deed.number, None)
        elif deed.number in begun and deed.deed == deeds.STARTED and deed.number not in hit:
            hit[deed.number] = (deed.at_ns - at_ns) / 1e9
    return list(hit.values())


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def as_json(counts: Counts) -> dict[str, Any]:
    return {each.name: getattr(counts, each.name) for each in fields(counts)}
