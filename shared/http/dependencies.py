"""What routes ask for: the caller with the scope they need, and a transaction."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from fastapi.dependencies.models import Dependant
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from shared import telemetry
from shared.auth import Principal, Verifier
from shared.db import Database
from shared.errors import Forbidden, MillraceError, Unauthenticated
from shared.ledger.enqueue import KEY_CHARACTERS, Origin
from shared.ledger.filters import JobFilter, State
from shared.ledger.messages import LaneName, Moment


def credential(request: Request) -> str:
    """The key or token of the request: `Authorization: Bearer …`, or Basic with it as the password."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise Unauthenticated("A key is needed: Authorization: Bearer <key>.")


async def caller_of(request: Request) -> Principal:
    """The authenticated caller, whatever its scopes. Who was seen lately needs no thread to wait in."""
    verifier: Verifier = request.app.state.verifier
    given = credential(request)
    principal = verifier.seen(given)
    if principal is None:
        principal = await run_in_threadpool(verifier.verify, given)
    if principal.workspace is not None:
        telemetry.belongs_to(principal.workspace)
    return principal


def requires(scope: str) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that answers the caller, or refuses one without `scope`.

    The scopes of workspaces (read, write, admin) are given to callers of a workspace alone.
    """

    async def check(request: Request) -> Principal:
        principal = await caller_of(request)
        if scope not in principal.scopes:
            raise Forbidden(f"This needs a key with the scope {scope!r}.", scope=scope)
        if scope in ("read", "write", "admin") and principal.workspace is None:
            raise Forbidden("This needs a key of a workspace.")
        if request.url.query:
            _refuse_unknown(request)
        return principal

    check.scope = scope  # type: ignore[attr-defined]  # read by the test that walks every route
    return check


_reads = requires("read")


async def looks(
    request: Request,
    workspace: Annotated[UUID | None, Query(description="For the operator: whose jobs.")] = None,
) -> Principal:
    """A reader of the own workspace; or the operator, as one of the workspace that it names."""
    if workspace is None:
        return await _reads(request)
    caller = await caller_of(request)
    if "operator" not in caller.scopes:
        raise Forbidden("Only the operator names a workspace: other keys have one.", scope="operator")
    _refuse_unknown(request)
    return Principal(caller.name, frozenset({"read"}), workspace)


looks.scope = "read"  # type: ignore[attr-defined]  # the same


class QueryUnknown(MillraceError):
    """A query parameter that the route does not know. Were it passed over, a misspelt filter would match everything."""

    code, status, title = "request.invalid", 422, "The request is not valid"


def _refuse_unknown(request: Request) -> None:
    known = dict.fromkeys(_known(request.scope["route"].dependant))
    if unknown := sorted(request.query_params.keys() - known.keys()):
        said = f"Known: {', '.join(known)}." if known else "The route has none."
        errors = [{"where": f"query.{name}"[:200], "detail": "Unknown query parameter."} for name in unknown[:20]]
        raise QueryUnknown(f"Unknown query parameter {unknown[0][:100]!r}. {said}", errors=errors)


def _known(dependant: Dependant) -> Iterator[str]:
    """The query parameters of a route, in its order."""
    yield from (field.alias for field in dependant.query_params)
    for beneath in dependant.dependencies:
        yield from _known(beneath)


class Caller:
    """Annotations for routes: `caller: Caller.Read`."""

    Read = Annotated[Principal, Depends(requires("read"))]
    Look = Annotated[Principal, Depends(looks)]
    Write = Annotated[Principal, Depends(requires("write"))]
    Admin = Annotated[Principal, Depends(requires("admin"))]
    Operator = Annotated[Principal, Depends(requires("operator"))]
    """Who runs the service: for what holds for all workspaces."""


def _database(request: Request) -> Database:
    found: Database = request.app.state.database
    return found


def _transaction(request: Request) -> Iterator[Session]:
    with request.app.state.database.transaction() as session:
        yield session


Ledger = Annotated[Database, Depends(_database)]
Transaction = Annotated[Session, Depends(_transaction, scope="function")]
"""A session that commits before the answer is sent: a 2xx means that it is stored."""
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=KEY_CHARACTERS)]


def _wanted(
    run: UUID | None = None,
    batch: UUID | None = None,
    state: State | None = None,
    kind: Annotated[str | None, Query(max_length=200)] = None,
    queue: Annotated[str | None, Query(max_length=200)] = None,
    lane: LaneName | None = None,
    created_from: Moment | None = None,
    created_until: Moment | None = None,
    error: Annotated[str | None, Query(min_length=1, max_length=500, description="Part of the reason.")] = None,
) -> JobFilter:
    return JobFilter(
        run=run,
        batch=batch,
        state=state,
        kind=kind,
        queue=queue,
        lane=lane,
        created_from=created_from,
        created_until=created_until,
        error=error,
    )


Wanted = Annotated[JobFilter, Depends(_wanted)]
PageLimit = Annotated[int, Query(ge=1, le=500, description="At most so many items.")]


def begin_run(session: Session, caller: Principal) -> Origin:
    """Make the transaction the start of a new run of the caller's workspace; answers its origin."""
    assert caller.workspace is not None
    origin = Origin.request(caller.workspace)
    session.info["origin"] = origin
    return origin


Json = dict[str, Any]
