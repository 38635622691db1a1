"""The load: bounded, through the public HTTP API alone, by callers that repeat what was not answered."""

import math
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import uuid4

import httpx2 as httpx
import psycopg

from infra.chaos import limits, schedules
from infra.chaos.record import Call, Ending, SmallJob, Unknown, Upload
from infra.chaos.world import Endpoint, World

SENDERS: Final = 8
TIMEOUT_SECONDS: Final = 15.0
GIVE_UP_SECONDS: Final = 90.0
LONGEST_PAUSE_SECONDS: Final = 2.0
MIX: Final = ("noop", "write", "tell", "noop", "write", "tell", "write", "take")
"""Kinds of the small jobs, in turn."""
TAKES_SECONDS: Final = (0.8, 2.2)
REFUSED_EVERY: Final = 20
"""One in so many requests is rolled back by the service: what it owed must never run."""
SHARE_DONE: Final = 1 - 1 / REFUSED_EVERY
"""Of the requests for small jobs, those that become one."""
KEYLESS: Final = ("noop", "write")
KEYLESS_EVERY: Final = 2
"""Of these kinds one in so many is asked for without an Idempotency-Key."""
SHARERS: Final = 16
SHARERS_EVERY: Final = 64
"""So many jobs that share one thing are asked for at once, each time that so many others were: half of what the limits
let begin."""
SHARED_SECONDS: Final = 0.3
SOON_SECONDS: Final = 2.0
"""From the request for a schedule to its first slot."""
GATHER_EVERY: Final = 24
"""One in so many small jobs owes a batch, and goes on when that has ended."""
ROWS: Final = 200
Json = dict[str, Any]


@dataclass(frozen=True)
class Want:
    """A small job to ask for."""

    kind: str
    args: Json
    ending: Ending = "succeeded"
    headers: tuple[tuple[str, str], ...] = ()
    """Of the first try alone."""
    keyless: bool = False
    """Sent once, without an Idempotency-Key: such requests share a commit."""
    numbers: tuple[int, ...] = ()
    """Of several jobs that are asked for by one request."""
    together: bool = False
    """Messages of several are to come of these."""


class Load:
    """Asks for small jobs and sends files, as often as it is told, between `resume` and `pause`."""

    def __init__(self, world: World, *, jobs_a_second: float, upload_every: float, seed: int) -> None:
        self._world, self._record = world, world.record
        self.rate = jobs_a_second
        self._upload_every = upload_every
        self._random = random.Random(seed)  # noqa: S311  # a run that can be repeated
        self._wanted: queue.Queue[Want | None] = queue.Queue(maxsize=SENDERS * 2)
        self._going, self._stopped = threading.Event(), threading.Event()
        self._idle = [threading.Event() for _ in range(SENDERS + 1)]
        self._threads = [
            threading.Thread(target=self._pace, name="pace", daemon=True),
            *(threading.Thread(target=self._send, args=(idle,), daemon=True) for idle in self._idle[1:]),
        ]
        if world.uploads is not None:
            self._threads.append(threading.Thread(target=self._upload, name="upload", daemon=True))
        else:
            self._idle[0].set()

    def start(self) -> None:
        """Raises httpx.HTTPError when the schedules are refused."""
        if self._world.schedules:
            self._make_schedules()
        for thread in self._threads:
            thread.start()

    def resume(self) -> None:
        self._going.set()

    def pause(self) -> None:
        """Returns when nothing is on its way any more, at the latest when the callers have given up."""
        self._going.clear()
        deadline = time.monotonic() + GIVE_UP_SECONDS + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._wanted.empty() and all(idle.is_set() for idle in self._idle):
                return
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopped.set()
        self._going.set()
        for _ in range(SENDERS):
            self._wanted.put(None)
        for thread in self._threads:
            thread.join(GIVE_UP_SECONDS + TIMEOUT_SECONDS)

    def _make_schedules(self) -> None:
        endpoint, begin = self._world.jobs, math.ceil(time.time() + SOON_SECONDS)
        for name, timing in schedules.TIMINGS.items():
            number = self._record.draw()
            start = datetime.fromtimestamp(timing.first(begin), UTC).isoformat()
            body = {"kind": f"probe.thing.{schedules.KIND}", "args": {"number": number}, "misfire": "all"}
            answer = httpx.post(
                f"{endpoint.url}/v1/schedules",
                json={"name": name, "start": start, **body, **timing.asked},
                headers=endpoint.headers,
                trust_env=False,
            )
            answer.raise_for_status()
            self._record.schedules.append(schedules.Made(number, answer.json()["id"], timing, begin))

    def end_schedules(self) -> None:
        """Deletes them when what was due by now has fired, and waits until that has ended, neither for too long. What
        falls due later does not count. Called when no fault is on any more."""
        record, endpoint = self._record, self._world.jobs
        record.ended = int(time.time())
        _wait(lambda: not schedules.find(record.schedules, self._world.fires(), record.ended).missed)
        with httpx.Client(headers=endpoint.headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            for made in record.schedules:
                self._persist(partial(client.delete, f"{endpoint.url}/v1/schedules/{made.id}"))
        _wait(lambda: not any(schedules.KIND in words for words in self._world.still_open()))

    def want(
        self, kind: str, args: Json | None = None, ending: Ending = "succeeded", keyless: bool = False, **headers: str
    ) -> None:
        """One more small job than the load's own; returns at once unless all callers are busy."""
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self._wanted.put(Want(kind, args or {}, ending, named, keyless and self._world.groups))

    def want_crowd(self, kind: str, jobs: int) -> frozenset[int]:
        """So many jobs by one request; answers their numbers. Nothing where messages carry one job each."""
        if not self._world.groups:
            return frozenset()
        numbers = tuple(self._record.draw() for _ in range(jobs))
        self._wanted.put(Want(kind, {}, numbers=numbers, together=True))
        return frozenset(numbers)

    def _pace(self) -> None:
        turn = 0
        while not self._stopped.is_set():
            self._going.wait()
            kind = MIX[turn % len(MIX)]
            turn += 1
            if turn % REFUSED_EVERY == 0:
                kind = "refused"
            elif self._world.batches and turn % GATHER_EVERY == 1:
                kind = "gather"
            with suppress(queue.Full):  # the API is away, and its callers wait: more of them would change nothing
                self._wanted.put_nowait(Want(kind, self._args(kind), keyless=self._is_keyless(kind)))
            if self._world.limits and turn % SHARERS_EVERY == 1:
                self._want_sharers(turn // SHARERS_EVERY)
            self._stopped.wait(1 / self.rate)

    def _want_sharers(self, round_: int) -> None:
        """More jobs of one thing at once than its limit and the rate let begin."""
        thing = limits.THINGS[round_ % len(limits.THINGS)]
        numbers = tuple(self._record.draw() for _ in range(SHARERS))
        self._record.things |= dict.fromkeys(numbers, thing)
        with suppress(queue.Full):
            self._wanted.put_nowait(Want(limits.KIND, {"thing": thing, "seconds": SHARED_SECONDS}, numbers=numbers))

    def _is_keyless(self, kind: str) -> bool:
        return self._world.groups and kind in KEYLESS and self._random.randrange(KEYLESS_EVERY) == 0

    def _args(self, kind: str) -> Json:
        if kind == "take":
            return {"seconds": round(self._random.uniform(*TAKES_SECONDS), 2)}
        return {"effect": True} if kind == "tell" else {}

    def _send(self, idle: threading.Event) -> None:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                idle.set()
                want = self._wanted.get()
                idle.clear()
                if want is None:
                    return
                if want.kind == "refused":
                    self._ask_for_refusal(client)
                elif want.numbers:
                    self._ask_for_crowd(client, want)
                else:
                    self._ask(client, want)

    def _ask(self, client: httpx.Client, want: Want) -> None:
        number, part, first = self._record.draw(), self._record.part, dict(want.headers)
        body = {"kind": f"probe.thing.{want.kind}", "args": {**want.args, "number": number}}

        def send() -> httpx.Response:
            key = {} if want.keyless else {"Idempotency-Key": f"job-{number}"}
            headers = {**self._world.jobs.headers, **key, **first}
            first.clear()
            return client.post(f"{self._world.jobs.url}/v1/jobs", json=body, headers=headers)

        answer = self._persist(send, tries=1 if want.keyless else None)
        if answer is None and want.keyless:
            self._record.unknown.append(Unknown(number, want.kind, part))
            return
        if answer is None or answer.status_code != httpx.codes.ACCEPTED:
            self._record.unresolved.append(number)
            return
        job = str(answer.json()["job"]["id"])
        self._record.jobs.append(SmallJob(number, want.kind, want.ending, part, job, time.time()))

    def _ask_for_crowd(self, client: httpx.Client, want: Want) -> None:
        """Many jobs by one request under one key."""
        part, endpoint = self._record.part, self._world.jobs
        jobs = [{"kind": f"probe.thing.{want.kind}", "args": {**want.args, "number": n}} for n in want.numbers]
        key = f"crowd-{want.numbers[0]}"

        def send() -> httpx.Response:
            headers = {**endpoint.headers, "Idempotency-Key": key}
            return client.post(f"{endpoint.url}/v1/jobs:batch", json={"jobs": jobs}, headers=headers)

        answer = self._persist(send)
        if answer is None or answer.status_code != httpx.codes.ACCEPTED:
            self._record.unresolved += want.numbers
            return
        now = time.time()
        self._record.jobs += [
            SmallJob(number, want.kind, want.ending, part, job, now)
            for number, job in zip(want.numbers, answer.json()["jobs"], strict=True)
        ]
        if want.together:
            self._record.crowds.append((part, frozenset(want.numbers)))

    def _ask_for_refusal(self, client: httpx.Client) -> None:
        number = self._record.draw()
        endpoint = self._world.jobs

        def send() -> httpx.Response:
            return client.post(f"{endpoint.url}/v1/refused", json={"number": number}, headers=endpoint.headers)

        self._record.refused.append(number)
        if self._persist(send) is None:
            self._record.unresolved.append(number)

    def _upload(self) -> None:
        endpoint = self._world.uploads
        assert endpoint is not None
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while not self._stopped.is_set():
                self._idle[0].set()
                self._going.wait()
                if self._stopped.is_set():
                    return
                self._idle[0].clear()
                self.send_file(client, endpoint, make_csv(self._random, ROWS))
                self._idle[0].set()
                self._stopped.wait(self._upload_every)

    def send_file(self, client: httpx.Client, endpoint: Endpoint, content: bytes, tries: int | None = None) -> None:
        """One file, as a new dataset of its own. `tries`: given up after so many; by default after a time."""
        number, part = self._record.draw(), self._record.part
        dataset, key = f"chaos-{number:06}", str(uuid4())

        def send() -> httpx.Response:
            return client.post(
                f"{endpoint.url}/v1/datasets",
                params={"name": dataset},
                content=content,
                headers={**endpoint.headers, "Content-Type": "text/csv", "Idempotency-Key": key},
            )

        answer = self._persist(send, tries)
        if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
            run = str(answer.json()["run"]["id"])
            self._record.uploads.append(Upload(dataset, part, run, time.time()))
        elif answer is not None or tries is None:
            self._record.unresolved.append(number)

    def _persist(self, send: Callable[[], httpx.Response], tries: int | None = None) -> httpx.Response | None:
        """Repeats under the same key until there is an answer that is none of a passing trouble."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        pause, tried = 0.1, 0
        while True:
            at, began = time.time(), time.monotonic()
            answer: httpx.Response | None = None
            with suppress(httpx.TransportError):
                answer = send()
            status = answer.status_code if answer is not None else None
            says_when = answer is not None and answer.status_code == 503 and "retry-after" in answer.headers
            self._record.calls.append(Call(at, time.monotonic() - began, status, says_when))
            if answer is not None and status is not None and status < 500:
                return answer
            tried += 1
            if tried == tries or time.monotonic() > deadline or self._stopped.is_set():
                return None
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            time.sleep(pause)


def _wait(holds: Callable[[], bool]) -> None:
    """Until it does, or it has had time for two takeovers."""
    limit = time.monotonic() + 2 * schedules.TAKEOVER_SECONDS
    while time.monotonic() < limit:
        with suppress(psycopg.Error):
            if holds():
                return
        time.sleep(0.5)


def make_csv(random_: random.Random, rows: int) -> bytes:
    """A small file of which a report can be made."""
    lines = [f"{n},2026-{n % 12 + 1:02}-01,{random_.choice(['north', 'south'])},{n}.50" for n in range(rows)]
    return "\n".join(["order_id,day,region,amount", *lines, ""]).encode()
