"""The HTTP application of `api`: the front door."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from services.api import operations
from services.api.adapters.peers import Peers
from services.api.routes import ROUTERS, gateway
from services.api.settings import ApiSettings
from services.api.tasks import tasks
from shared.auth import Principal, Verifier
from shared.db import Database
from shared.http import create_app


@asynccontextmanager
async def _peers(app: FastAPI) -> AsyncIterator[None]:
    peers = app.state.peers = Peers(app.state.settings.service_urls)
    yield
    await peers.close()


class KeyVerifier(Verifier):
    """The gateway's verifier: besides tokens and service accounts it knows the workspaces' API keys."""

    def __init__(self, settings: ApiSettings, database: Database, public_keys: dict[str, Any]) -> None:
        super().__init__(settings.static_keys, lambda: public_keys)
        self._database = database

    def verify(self, credential: str) -> Principal:
        """Raises Unauthenticated."""
        if credential.startswith(operations.KEY_PREFIX):
            with self._database.transaction() as session:
                return operations.authenticate(session, credential)
        return super().verify(credential)


def create() -> FastAPI:
    settings = ApiSettings()
    app = create_app("api", settings, ROUTERS, tasks=tasks, jobs=False, lifespan=_peers, streams=_streams)
    app.state.public_keys = _public_keys(settings)
    app.state.verifier = KeyVerifier(settings, app.state.database, app.state.public_keys)
    return app


def _streams(path: str) -> bool:
    """Requests that are passed on, and spans, are bounded where they are read."""
    return path == "/v1/traces" or gateway.passes_on(path)


def _public_keys(settings: ApiSettings) -> dict[str, Any]:
    key = settings.signing_key
    return {"keys": [key.as_dict(private=False, kid=key.thumbprint(), use="sig", alg="Ed25519")]}
