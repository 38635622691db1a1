"""The Python client of Millrace's HTTP API: one object for a gateway and a key."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import httpx2 as httpx

from clients.connection import NEVER_SENT, REPEATABLE, Connection, Json, json_of
from clients.problems import ProblemError, Unreachable
from clients.streams import events_of

Progress = Callable[[int, int], None]
"""Told bytes sent so far and bytes in all; starts again from 0 when an upload is repeated."""

WATCH_SECONDS: Final = 120.0
"""Who watches a job waits so long for a service that is being started again."""
CHUNK_BYTES: Final = 256 * 1024
_BACK_SOON: Final = (502, 503, 504)


class Client(Connection):
    """What the gateway does, a method a route."""

    # Workspaces and keys (an operator's key)

    def create_workspace(self, name: str) -> Json:
        return self._post("/v1/workspaces", {"name": name})

    def create_workspace_key(self, workspace: str, name: str, scopes: list[str]) -> Json:
        """The answer holds the key in clear, once."""
        return self._post(f"/v1/workspaces/{workspace}/keys", {"name": name, "scopes": scopes})

    # Datasets

    def upload(
        self,
        path: Path,
        name: str,
        *,
        idempotency_key: str | None = None,
        progress: Progress = lambda sent, total: None,
    ) -> Json:
        """Streams a CSV file as a new version of the dataset `name`.

        Tried again under the same Idempotency-Key, so that it is taken once however often it is sent.
        Returns {"dataset": …, "job": …, "run": …}. Raises OSError when the file cannot be read.
        """
        headers = {
            "Content-Type": "text/csv",
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        }

        def send() -> httpx.Response:
            with open(path, "rb") as file:
                total = path.stat().st_size
                return self._http.post(
                    "/v1/datasets",
                    params={"name": name},
                    headers={**headers, "Content-Length": str(total)},
                    content=_chunks(file, total, progress),
                )

        return json_of(self._persist(send, REPEATABLE))

    def datasets(self) -> Iterator[Json]:
        return self._pages("/v1/datasets")

    def dataset(self, dataset: str) -> Json:
        return self._get(f"/v1/datasets/{dataset}")

    def rejects(self, dataset: str) -> Iterator[Json]:
        """The rows that were not loaded: line, column, value, reason."""
        return self._pages(f"/v1/datasets/{dataset}/rejects")

    # Reports

    def definitions(self) -> Iterator[Json]:
        return self._pages("/v1/definitions")

    def create_definition(self, **body: Any) -> Json:
        return self._post("/v1/definitions", body)

    def delete_definition(self, definition: str) -> None:
        self._delete(f"/v1/definitions/{definition}")

    def burst(
        self, definition: str, recipients: list[Json], dataset: str | None = None, *, idempotency_key: str | None = None
    ) -> Json:
        """One report for each recipient ({"name": …, "only": {column: value}}), once however often it is sent.
        Returns {"batch": …, "run": …, "renders": how many}."""
        body = {"recipients": recipients, "dataset": dataset}
        return self._owe(f"/v1/definitions/{definition}/bursts", body, idempotency_key)

    def renders(self, run: str | None = None) -> Iterator[Json]:
        return self._pages("/v1/renders", run=run)

    def render(self, render: str) -> Json:
        """With its artifacts."""
        return self._get(f"/v1/renders/{render}")

    def download(self, artifact: str, target: Path) -> int:
        """Writes an artifact's file, whole or not at all; returns its bytes."""
        draft = target.with_name(f".{target.name}.part")

        def receive() -> httpx.Response:
            with self._http.stream("GET", f"/v1/artifacts/{artifact}") as answer:
                if answer.is_error:
                    answer.read()
                    return answer
                _save(answer, draft)
                return answer

        self._persist(receive, REPEATABLE)
        draft.replace(target)
        return target.stat().st_size

    # Notifications

    def channels(self) -> Iterator[Json]:
        return self._pages("/v1/channels")

    def create_channel(self, **body: Any) -> Json:
        return self._post("/v1/channels", body)

    def delete_channel(self, channel: str) -> None:
        self._delete(f"/v1/channels/{channel}")

    def rules(self) -> Iterator[Json]:
        return self._pages("/v1/rules")

    def create_rule(self, **body: Any) -> Json:
        return self._post("/v1/rules", body)

    def delete_rule(self, rule: str) -> None:
        self._delete(f"/v1/rules/{rule}")

    def messages(self, run: str | None = None) -> Iterator[Json]:
        return self._pages("/v1/messages", run=run)

    def deliveries(self, run: str | None = None) -> Iterator[Json]:
        return self._pages("/v1/deliveries", run=run)

    # Runs, jobs

    def runs(self) -> Iterator[Json]:
        """The newest first."""
        return self._pages("/v1/runs")

    def run(self, run: str) -> Json:
        """With its jobs and events from all services."""
        return self._get(f"/v1/runs/{run}")

    def jobs(self, run: str | None = None, state: str | None = None, **more: str) -> Iterator[Json]:
        """The newest first. `more`: batch, kind, queue, lane, error (part of the reason), created_from, created_until
        (RFC 3339); `workspace` with the operator's key."""
        return self._pages("/v1/jobs", run=run, state=state, **more)

    def job(self, job: str, workspace: str | None = None) -> Json:
        """With its attempts, and what was done to it. `workspace`: with the operator's key."""
        return self._get(f"/v1/jobs/{job}", workspace=workspace)

    def watch_job(
        self, job: str, *, patience: float = WATCH_SECONDS, away: Callable[[Exception], None] = lambda problem: None
    ) -> Iterator[Json]:
        """The job as it stands, then each time it has changed, until it has ended. When the stream breaks off it comes
        back, until there was no answer for `patience` seconds: then it raises what the last try met.

        `away` is told the first of the tries that met no answer; the job is said again when there is one."""
        heard_at, tries, last, is_away = time.monotonic(), 0, Json(), False
        while True:
            wanted: str | None = None
            problem: ProblemError | Unreachable | None = None
            try:
                with self._http.stream("GET", f"/v1/jobs/{job}/events") as answer:
                    if answer.is_success:
                        for name, data in events_of(answer.iter_lines()):
                            heard_at, tries = time.monotonic(), 0
                            if name == "end":
                                return
                            if last != (last := json.loads(data)) or is_away:
                                is_away = False
                                yield last
                        heard_at = time.monotonic()
                    else:
                        answer.read()
                        problem, wanted = ProblemError.of(answer), answer.headers.get("Retry-After")
                        if answer.status_code not in _BACK_SOON:
                            raise problem
            except httpx.TransportError as error:
                problem = Unreachable(str(self._http.base_url), error)
            if problem is not None and time.monotonic() - heard_at > patience:
                raise problem
            if problem is not None and not is_away:
                is_away = True
                away(problem)
            tries += 1
            self._pause(tries, wanted)

    def create_job(self, kind: str, args: Json, *, idempotency_key: str | None = None, **options: Any) -> Json:
        """Owe a job of a public kind, once however often it is sent. `options`: lane, not_before, start_by, deadline,
        limit_key, unique ({"key": …, "scope": "queued", "unfinished" or "period", "period_seconds": …}).
        Returns {"job": …, "run": …, "existing": whether the unique key stood for it already}."""
        return self._owe("/v1/jobs", {"kind": kind, "args": args, **options}, idempotency_key)

    def create_jobs(self, jobs: list[Json], *, idempotency_key: str | None = None) -> Json:
        """Owe up to 10,000 jobs of one service, all or none. Returns {"run": …, "jobs": [ids in order],
        "existing": those of them that unique keys stood for already}."""
        return self._owe("/v1/jobs:batch", {"jobs": jobs}, idempotency_key)

    def cancel_job(self, job: str) -> Json:
        return self._post(f"/v1/jobs/{job}/cancel", {})

    def retry_job(self, job: str, args: Json | None = None) -> Json:
        """Drive a failed or cancelled job again, with other arguments if they are given."""
        return self._post(f"/v1/jobs/{job}/retry", {} if args is None else {"args": args})

    def cancel_jobs(self, filter: Json, *, dry_run: bool = False, **options: Any) -> Json:
        """Of what the filter matches (state, kind, run, error, created_from, created_until), at most `limit`.
        Returns {"jobs": how many, "more": whether others match, …}."""
        return self._post("/v1/jobs:cancel", {"filter": filter, "dry_run": dry_run, **options})

    def retry_jobs(self, filter: Json, *, dry_run: bool = False, **options: Any) -> Json:
        """As `cancel_jobs`; also with `per_second` and, to go on, `not_before` (the last answer's `until`)."""
        return self._post("/v1/jobs:retry", {"filter": filter, "dry_run": dry_run, **options})

    def prioritise_job(self, job: str, lane: str) -> Json:
        """Put a waiting job into the lane urgent, normal or bulk."""
        return self._post(f"/v1/jobs/{job}/prioritise", {"lane": lane})

    def prioritise_jobs(self, filter: Json, lane: str, *, dry_run: bool = False, **options: Any) -> Json:
        """As `cancel_jobs`, of waiting jobs that are not in the lane."""
        return self._post("/v1/jobs:prioritise", {"filter": filter, "lane": lane, "dry_run": dry_run, **options})

    def job_counts(self, **query: str) -> Json:
        """Over time by kind. `query`: bucket (minute, hour, day), created_from, created_until, kind."""
        return self._get("/v1/jobs:counts", **query)

    def why(self, job: str, workspace: str | None = None) -> Json:
        """What the job waits for, or how it ended: `reasons`, the weightiest first, each with code and detail.
        `workspace`: with the operator's key."""
        return self._get(f"/v1/jobs/{job}/why", workspace=workspace)

    # Batches

    def batches(self, state: str | None = None, run: str | None = None) -> Iterator[Json]:
        """Of all services, the newest first."""
        return self._pages("/v1/batches", state=state, run=run)

    def batch(self, batch: str) -> Json:
        """With `counts`: the jobs of each step by state."""
        return self._get(f"/v1/batches/{batch}")

    def create_batch(self, steps: list[list[Json]], *, idempotency_key: str | None = None, **options: Any) -> Json:
        """Owe jobs of one service in steps, once however often it is sent. `options`: name, on_failure.
        Returns {"batch": …, "run": …, "jobs": [[ids of a step]]}."""
        return self._owe("/v1/batches", {"steps": steps, **options}, idempotency_key)

    def cancel_batch(self, batch: str) -> Json:
        return json_of(self._persist(lambda: self._http.post(f"/v1/batches/{batch}/cancel"), NEVER_SENT))

    # Limits and pauses (an operator's key)

    def limits(self) -> Json:
        """The rules of all services: {"items": …, "unreachable": …}."""
        return self._get("/v1/limits")

    def set_limit(self, key: str, *, service: str | None = None, **rule: Any) -> Json:
        """`key`: queue:, kind:, workspace:, key: or each: and a name; `rule`: concurrency, per_second, burst, weight.
        `service` is needed unless the key names a queue or kind."""
        path = _limit(key, service)
        return json_of(self._persist(lambda: self._http.put(path, json=rule), REPEATABLE))

    def delete_limit(self, key: str, *, service: str | None = None) -> None:
        self._delete(_limit(key, service))

    def pause(self, key: str) -> Json:
        """Begin nothing of a queue: or kind: until it is resumed."""
        return self._post(f"{_limit(key)}/pause", {})

    def resume(self, key: str) -> None:
        self._persist(lambda: self._http.post(f"{_limit(key)}/resume"), NEVER_SENT)

    # Schedules

    def schedules(self, **filters: str) -> Iterator[Json]:
        """Of all services, the newest first. `filters`: name, state, kind."""
        return self._pages("/v1/schedules", **filters)

    def schedule(self, schedule: str) -> Json:
        return self._get(f"/v1/schedules/{schedule}")

    def create_schedule(self, **body: Any) -> Json:
        """`name`, `kind`, `args`, one of `cron`, `every_seconds` and `at`, and more (docs/how-to/schedule.md)."""
        return self._post("/v1/schedules", body)

    def replace_schedule(self, schedule: str, **body: Any) -> Json:
        return json_of(self._persist(lambda: self._http.put(f"/v1/schedules/{schedule}", json=body), REPEATABLE))

    def delete_schedule(self, schedule: str) -> None:
        self._delete(f"/v1/schedules/{schedule}")

    def pause_schedule(self, schedule: str) -> Json:
        return self._post(f"/v1/schedules/{schedule}/pause", {})

    def resume_schedule(self, schedule: str) -> Json:
        return self._post(f"/v1/schedules/{schedule}/resume", {})

    def run_schedule(self, schedule: str, *, idempotency_key: str | None = None) -> Json:
        """Fire it now, once however often it is sent. Returns {"job": …, "run": …}."""
        return self._owe(f"/v1/schedules/{schedule}/run", {}, idempotency_key)

    def preview_schedule(self, schedule: str, count: int = 10) -> Json:
        return self._get(f"/v1/schedules/{schedule}/preview", count=count)

    def preview_times(self, count: int = 10, **times: Any) -> Json:
        """The next fires of a schedule that is not made: `cron`, `every_seconds` or `at`; `zone`, `start`, `end`."""
        return json_of(
            self._persist(
                lambda: self._http.post("/v1/schedules/preview", params={"count": count}, json=times), REPEATABLE
            )
        )

    def schedule_history(self, schedule: str, outcome: str | None = None) -> Iterator[Json]:
        """What became of each of its times, the newest first."""
        return self._pages(f"/v1/schedules/{schedule}/history", outcome=outcome)

    # Traces

    def trace(self, trace: str) -> Json:
        return self._get(f"/v1/traces/{trace}")

    # Queues and workers (an operator's key)

    def queues(self) -> Json:
        """{"items": every queue of all services, "unreachable": services that could not be asked}."""
        return self._get("/v1/queues")

    def workers(self, *, ended: bool = False) -> Json:
        """As `queues`; with `ended`, also workers that stopped in good order."""
        return self._get("/v1/workers", ended=str(ended).lower())

    def drain_worker(self, worker: str) -> Json:
        """It gets no further jobs, ends those it runs, and stops. Answers the worker."""
        return json_of(self._persist(lambda: self._http.post(f"/v1/workers/{worker}/drain"), REPEATABLE))


def _limit(key: str, service: str | None = None) -> str:
    return f"/v1/limits/{quote(key, safe=':')}" + (f"?service={quote(service)}" if service is not None else "")


def _save(answer: httpx.Response, draft: Path) -> None:
    try:
        with open(draft, "wb") as file:
            for part in answer.iter_bytes():
                file.write(part)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _chunks(file: IO[bytes], total: int, progress: Progress) -> Iterator[bytes]:
    """The file in pieces, no more than `total` bytes: what is appended meanwhile is not part of the upload."""
    sent = 0
    progress(0, total)
    while chunk := file.read(min(CHUNK_BYTES, total - sent)):
        yield chunk
        sent += len(chunk)
        progress(sent, total)
