"""Workspaces, their keys, and tokens."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request

from services.api import operations, repository
from services.api.models import ApiKey
from services.api.schemas import KeyBody, KeyList, NewKey, NewKeyBody, NewWorkspace, TokenBody, WorkspaceBody
from shared.auth import TOKEN_SECONDS, Principal, issue
from shared.http import Caller, Transaction, requires
from shared.http.dependencies import caller_of

router = APIRouter(tags=["identity"])
Operator = Annotated[Principal, Depends(requires("operator"))]
Anyone = Annotated[Principal, Depends(caller_of)]


@router.post("/v1/workspaces", status_code=201)
def create_workspace(caller: Operator, session: Transaction, body: NewWorkspace) -> WorkspaceBody:
    """Make a workspace. Needs the operator's key."""
    workspace = operations.create_workspace(session, caller, body.name)
    return WorkspaceBody(**workspace.model_dump())


@router.post("/v1/workspaces/{id}/keys", status_code=201)
def create_first_key(caller: Operator, session: Transaction, id: UUID, body: NewKey) -> NewKeyBody:
    """Give a workspace a key. Needs the operator's key; the answer shows the new key once."""
    return _shown(*operations.create_key(session, caller, id, body.name, body.scopes))


@router.get("/v1/keys")
def list_keys(caller: Caller.Admin, session: Transaction) -> KeyList:
    """The workspace's keys, without their text."""
    assert caller.workspace is not None
    return KeyList(items=[KeyBody(**key.model_dump()) for key in repository.list_keys(session, caller.workspace)])


@router.post("/v1/keys", status_code=201)
def create_key(caller: Caller.Admin, session: Transaction, body: NewKey) -> NewKeyBody:
    """Make a key; the answer shows it once."""
    assert caller.workspace is not None
    return _shown(*operations.create_key(session, caller, caller.workspace, body.name, body.scopes))


@router.delete("/v1/keys/{id}", status_code=204)
def revoke_key(caller: Caller.Admin, session: Transaction, id: UUID) -> None:
    """Revoke a key. Tokens that it was exchanged for end within five minutes."""
    assert caller.workspace is not None
    operations.revoke_key(session, caller, caller.workspace, id)


@router.post("/v1/token")
def exchange_key(caller: Anyone, request: Request) -> TokenBody:
    """Exchange the key for a short-lived token that every service takes."""
    return TokenBody(access_token=issue(request.app.state.settings.signing_key, caller), expires_in=TOKEN_SECONDS)


@router.get("/.well-known/jwks.json")
def show_public_keys(request: Request) -> dict[str, list[dict[str, str]]]:
    """The public keys that tokens are verified with (RFC 7517)."""
    found: dict[str, list[dict[str, str]]] = request.app.state.public_keys
    return found


def _shown(key: ApiKey, text: str) -> NewKeyBody:
    return NewKeyBody(**key.model_dump(), key=text)
