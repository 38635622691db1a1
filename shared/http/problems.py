"""Every error answer is a problem of RFC 9457 (application/problem+json)."""

from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared.db import is_outage
from shared.errors import MillraceError, Unauthenticated, Unavailable, what_is_wrong
from shared.ledger.values import storable

log = structlog.get_logger(__name__)

MEMBERS = ("type", "title", "status", "detail", "code")
"""What a problem always says; no fact replaces it."""


def problem(status: int, code: str, title: str, detail: str, **facts: Any) -> JSONResponse:
    """A problem document; `type` is a URN that is as stable as its code. Facts may be anything."""
    body = {"type": f"urn:millrace:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse(storable({**facts, **body}), status, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    app.add_exception_handler(MillraceError, _on_named)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(psycopg.Error, _on_database)
    app.add_exception_handler(PoolTimeout, _on_database)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_named(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MillraceError)
    facts = {name: value for name, value in error.facts.items() if name not in MEMBERS}
    answer = problem(error.status, error.code, error.title, error.detail, **facts)
    if isinstance(error, Unauthenticated):
        # Where people look with a browser, it asks them; programs are asked for a bearer token (RFC 6750).
        scheme = "Basic" if request.url.path.startswith("/docs") else "Bearer"
        answer.headers["WWW-Authenticate"] = f'{scheme} realm="millrace"'
    if isinstance(error, Unavailable):
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = what_is_wrong(error.errors())
    said = "; ".join(f"{found['where']}: {found['detail']}" for found in errors[:3])
    return problem(422, "request.invalid", "The request is not valid", said, errors=errors)


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "resource.not_found", 405: "request.method", 413: "request.too_large"}
    answer = problem(
        error.status_code, codes.get(error.status_code, "request.refused"), str(error.detail), str(error.detail)
    )
    answer.headers.update(error.headers or {})
    return answer


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    """PostgreSQL away is a 503 that says when to come back; a value that it cannot hold is the request's
    fault; any other database error is ours."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if is_outage(error):
        log.error("the database is away", reason=str(cause)[:300])
        detail = (
            "The database is away for a moment. It is not known whether the request took effect: repeat it with the "
            "same Idempotency-Key."
        )
        return await _on_named(request, Unavailable(detail))
    if isinstance(cause, psycopg.DataError):
        log.warning("unstorable value", path=request.url.path, reason=str(cause)[:300])
        detail = "A value of the request cannot be stored: a NUL character, half a character, a number out of range."
        return problem(422, "request.unstorable", "The request holds what cannot be stored", detail)
    return await _on_unexpected(request, error)


async def _on_disconnect(_: Request, __: Exception) -> JSONResponse:
    return problem(
        400, "request.cut_off", "Cut off", "The request ended before its body was complete; nothing was stored."
    )


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", path=request.url.path, exc_info=error)
    return problem(500, "internal.error", "Internal error", "Something went wrong on our side; it is in the log.")
