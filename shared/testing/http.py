"""Calling a service's HTTP application in a test, as the gateway would."""

from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey

from shared import ids
from shared.auth import Principal, Verifier, issue
from shared.settings import StaticKey

ALL = frozenset({"read", "write", "admin"})


class TestApp:
    """An application whose tokens are signed with a key of the test's."""

    __test__ = False

    def __init__(self, app: FastAPI, static_keys: dict[str, StaticKey] | None = None) -> None:
        self.app = app
        self.key = OKPKey.generate_key("Ed25519", private=True)
        keys = {"keys": [self.key.as_dict(private=False, kid=self.key.thumbprint())]}
        app.state.verifier = Verifier(static_keys or {}, lambda: keys)

    def token(self, workspace: UUID, scopes: frozenset[str] = ALL) -> str:
        return issue(self.key, Principal("test", scopes, workspace))

    def client(self, workspace: UUID | None = None, scopes: frozenset[str] = ALL, **options: Any) -> TestClient:
        """A client of the workspace (default a new one) with the scopes."""
        headers = {"Authorization": f"Bearer {self.token(workspace or ids.draw(), scopes)}"}
        return TestClient(self.app, headers=headers, **options)
