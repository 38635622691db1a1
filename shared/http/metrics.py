"""HTTP metrics of a service, in Prometheus' terms."""

import time
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.db import Row

REQUESTS = Counter("millrace_http_requests_total", "Requests answered", ["service", "method", "route", "status"])
SECONDS = Histogram("millrace_http_request_seconds", "Time to the answer's start", ["service", "method", "route"])


class MetricsMiddleware:
    """Counts and times requests by route template, never by path: its cardinality is the API's own."""

    def __init__(self, app: Any, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observe(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "(none)")
                REQUESTS.labels(self.service, scope["method"], route, message["status"]).inc()
                SECONDS.labels(self.service, scope["method"], route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, observe)


def install(app: FastAPI, service: str) -> None:
    app.add_middleware(MetricsMiddleware, service=service)


def ledger(service: str, depths: list[Row], schedules: list[Row]) -> bytes:
    """Gauges of the ledger in the text format: jobs by queue and state, schedules by state, and for how long the
    oldest of them has been due."""
    registry = CollectorRegistry()
    labels = ["service", "queue", "state"]
    jobs = Gauge("millrace_jobs", "Jobs that wait or run", labels, registry=registry)
    oldest = Gauge("millrace_jobs_oldest_seconds", "Since the oldest of them was due", labels, registry=registry)
    for row in depths:
        jobs.labels(service, row["queue"], row["state"]).set(row["jobs"])
        oldest.labels(service, row["queue"], row["state"]).set(max(0.0, row["oldest"]))
    labels = ["service", "state"]
    kept = Gauge("millrace_schedules", "Schedules", labels, registry=registry)
    late = Gauge("millrace_schedules_overdue_seconds", "Since the first was to fire", labels, registry=registry)
    for row in schedules:
        kept.labels(service, row["state"]).set(row["schedules"])
        late.labels(service, row["state"]).set(max(0.0, row["overdue"] or 0.0))
    return generate_latest(registry)
