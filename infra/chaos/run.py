"""A run: faults alone, one after the other, or several at once by a seeded plan; then the verdict."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import psycopg

from infra.chaos.faults import Fault, NotInjected, Scene, Window
from infra.chaos.load import SHARE_DONE, Load
from infra.chaos.record import Call
from infra.chaos.verdict import percentile
from infra.chaos.world import World
from infra.probe import record as deeds

BASELINE_SECONDS: Final = 5.0
BACK_SECONDS: Final = 60.0
"""After a fault throughput is to be back within so long."""
BACK_SHARE: Final = 0.95
BACK_WINDOW_SECONDS: Final = 5.0
AFTER_SECONDS: Final = 10.0
"""Load goes on for at least so long after a fault."""
MIXED: Final = "mixed"
QUIET_LOOKS: Final = 2
GAP_SECONDS: Final = (1.0, 5.0)
"""Between the starts of two faults of a plan."""
AT_ONCE: Final = 2
RECOVERY_EXTRA_SECONDS: Final = 15.0
"""A crashed job's next attempt begins at most so long after the lease."""


@dataclass
class Part:
    """A stretch of the run and what was measured in it; times are seconds since the epoch."""

    name: str
    group: str
    seconds: float
    injected: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """In a mixed plan: faults that met nothing to break, because of another that was on."""
    beatless_seconds: float = 0.0
    """How long no Beat may have been alive."""
    others_seconds: float = 0.0
    """In a mixed plan: how long what a recovery needs may itself have been away, by another fault."""
    began: float = 0.0
    ended: float = 0.0
    """When the last fault was over."""
    quiet: float | None = None
    """Seconds from then until nothing was unfinished any more; None when that never came."""
    back: float | None = None
    """Seconds until throughput was back; None when it did not come back while the load went on."""
    resumed: float | None = None
    """Seconds until the first job was done after it."""
    goes_on: bool = False
    """Whether other jobs are not to be held up by the fault."""
    still: float = 0.0
    """Longest time, while the fault was on, in which no job was done, or no event was heard; seconds."""
    calls: list[Call] = field(default_factory=list)
    """Requests while the fault was on."""
    before: list[Call] = field(default_factory=list)
    """Requests just before it."""

    @property
    def errors(self) -> list[Call]:
        return [call for call in self.calls if call.is_error]

    @property
    def p99_ms(self) -> float | None:
        return _p99_ms(self.calls)

    @property
    def before_p99_ms(self) -> float | None:
        return _p99_ms(self.before)


def _p99_ms(calls: Sequence[Call]) -> float | None:
    found = percentile([call.seconds for call in calls if not call.is_error], 0.99)
    return None if found is None else round(1000 * found, 1)


class Run:
    """Drives the load through parts of a run."""

    def __init__(self, world: World, load: Load, say: Callable[[str], None]) -> None:
        self._world, self._load, self._say = world, load, say
        self._stopped = threading.Event()
        self.parts: list[Part] = []
        self.trouble: list[str] = []
        """Faults that could not be injected, and why."""
        self._given_up: set[int | str] = set()
        """Numbers and datasets that are not waited for any more: their part is over."""

    def stop(self) -> None:
        """Ends what is going on soon; called when the run is interrupted."""
        self._stopped.set()

    def alone(self, fault: Fault, seconds: float) -> Part:
        beatless = seconds if fault.beatless else 0.0
        part = Part(fault.name, fault.group, seconds, goes_on=fault.goes_on, beatless_seconds=beatless)
        with self._part(part):
            self._inject(part, fault, seconds)
        return part

    def mixed(self, faults: Sequence[Fault], seconds: float, seed: int) -> Part:
        """Faults drawn by `seed`, at most two at once and never two of a group."""
        part = Part(MIXED, MIXED, seconds, others_seconds=max(fault.brief for fault in faults))
        part.beatless_seconds = part.others_seconds
        chance = random.Random(seed)  # noqa: S311  # a plan that can be repeated
        plan = _draw(faults, chance)
        window = Window(seconds, self._stopped)
        going: list[tuple[Fault, threading.Thread]] = []
        with self._part(part):
            while window.is_open:
                going = [each for each in going if each[1].is_alive()]
                if len(going) < AT_ONCE:
                    fault = next(plan)
                    if fault.group not in {each.group for each, _ in going}:
                        going.append((fault, self._begin(part, fault, fault.brief)))
                window.wait(chance.uniform(*GAP_SECONDS))
            for _, thread in going:
                thread.join()
        return part

    @contextmanager
    def _part(self, part: Part) -> Iterator[None]:
        """Load before, during and after; then quiet."""
        record = self._world.record
        record.enter(part.name)
        self.parts.append(part)
        self._load.resume()
        calm = time.time()
        self._stopped.wait(BASELINE_SECONDS)
        part.began = time.time()
        self._say(f"{part.name}: {part.seconds:.0f} s")
        yield
        part.ended = time.time()
        part.still = round(max(self._still(part, deeds.RAN, deeds.FINISHED), self._still(part, deeds.HEARD)), 1)
        self._wait_until_back(part)
        self._load.pause()
        self._wait_for_quiet(part)
        part.before = record.calls_between(calm, part.began)
        part.calls = record.calls_between(part.began, part.ended)
        self._say(
            f"{part.name}: {len(part.errors)} API errors, p99 {part.p99_ms} ms; throughput back after "
            f"{_seconds(part.back)}, quiet after {_seconds(part.quiet)}"
        )

    def _begin(self, part: Part, fault: Fault, seconds: float) -> threading.Thread:
        self._say(f"  {fault.name}, {seconds:.0f} s")
        thread = threading.Thread(target=self._inject, args=(part, fault, seconds), name=fault.name, daemon=True)
        thread.start()
        return thread

    def _inject(self, part: Part, fault: Fault, seconds: float) -> None:
        try:
            fault.inject(Scene(self._world, self._load, Window(seconds, self._stopped)))
            part.injected.append(fault.name)
        except NotInjected as error:
            self._say(f"  {fault.name}: not injected: {error}")
            if part.group == MIXED:
                part.missed.append(fault.name)
            else:
                self.trouble.append(f"{fault.name}: {error}")
        except Exception as error:  # what a fault meets is what faults are for; that it was not injected must show
            self.trouble.append(f"{fault.name}: {type(error).__name__}: {error}"[:300])
            self._say(f"  {self.trouble[-1]}")

    def _wait_until_back(self, part: Part) -> None:
        """Load goes on until as many jobs are done as are asked for."""
        while time.time() - part.ended < BACK_SECONDS and not self._stopped.wait(1.0):
            self._measure(part)
            if part.back is not None and time.time() - part.ended >= AFTER_SECONDS:
                return

    def _measure(self, part: Part) -> None:
        done = sorted(
            deed.at_ns / 1e9
            for deed in self._world.deeds.records()
            if deed.deed in (deeds.RAN, deeds.FINISHED) and deed.at_ns / 1e9 > part.ended
        )
        part.resumed = round(done[0] - part.ended, 2) if done else None
        wanted = BACK_SHARE * self._load.rate * SHARE_DONE * BACK_WINDOW_SECONDS
        for at in done:
            if sum(at <= other < at + BACK_WINDOW_SECONDS for other in done) >= wanted:
                part.back = round(at - part.ended, 2)
                return

    def _still(self, part: Part, *wanted: bytes) -> float:
        seen = (deed.at_ns / 1e9 for deed in self._world.deeds.records() if deed.deed in wanted)
        at = [part.began, *sorted(each for each in seen if part.began < each < part.ended), part.ended]
        return max(later - earlier for earlier, later in pairwise(at))

    def _wait_for_quiet(self, part: Part) -> None:
        began, looks = time.monotonic(), 0
        while time.monotonic() - began < self._world.patience_seconds and not self._stopped.wait(1.0):
            looks = looks + 1 if self._is_quiet() else 0
            if looks >= QUIET_LOOKS:
                part.quiet = round(time.time() - part.ended, 1)
                return
        with suppress(psycopg.Error):
            self._given_up |= self._unheard() | self._missing()
            self._world.clean_up()

    def _is_quiet(self) -> bool:
        """Nothing is unfinished, and what is owed to the outside has arrived or will never."""
        try:
            return self._world.unfinished() <= 0 and not (self._unheard() | self._missing()) - self._given_up
        except psycopg.Error:
            return False

    def _unheard(self) -> set[int | str]:
        """Numbers of jobs that told of themselves, and whose subscriber has not had its effect."""
        told: set[int | str] = {
            row.number for row in self._world.rows() if row.kind == "tell" and row.state == "succeeded"
        }
        return told - {effect["number"] for effect in self._world.effects()}

    def _missing(self) -> set[int | str]:
        """Datasets of which a mail or a webhook is still to come."""
        record = self._world.record
        missing: set[int | str] = {
            upload.dataset
            for upload in record.uploads
            for arrivals in (record.mails, record.hooks)
            if upload.dataset not in arrivals.rejected and not arrivals.about(upload.dataset)
        }
        if missing:
            rows = self._world.upload_rows()
            missing -= {dataset for dataset, row in rows.items() if row["failed"]}
        return missing


def _draw(faults: Sequence[Fault], chance: random.Random) -> Iterator[Fault]:
    """All of them in a drawn order, and again in another: none is left out by bad luck."""
    while True:
        yield from chance.sample(list(faults), len(faults))


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
