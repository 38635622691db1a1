"""A span for each request, named by its route. The library's instrumentation walks all routes for each request, which
takes longer than what most of them ask for (docs/decisions/0009)."""

import re
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers

from shared import telemetry

UNTRACED = re.compile("healthz|readyz|metrics|v1/traces$|v1/jobs/[^/]+/events")
"""Probes, the spans themselves, and streams that last."""


class TracingMiddleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or UNTRACED.search(scope["path"]):
            await self.app(scope, receive, send)
            return
        method, above = scope["method"], Headers(scope=scope).get("traceparent")
        about = {"http_request_method": method, "url_path": scope["path"]}
        with telemetry.span(method, above, SpanKind.SERVER, **about) as span:
            status = 500  # what is raised here is answered further out

            async def observe(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self.app(scope, receive, observe)
            finally:
                _conclude(span, scope, status)


def _conclude(span: Span, scope: Any, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if (route := scope.get("route")) is not None:
        span.update_name(f"{scope['method']} {route.path}")
        span.set_attribute("http.route", route.path)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def install(app: FastAPI) -> None:
    app.add_middleware(TracingMiddleware)
