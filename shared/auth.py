"""Who is calling: short-lived tokens (JWT, EdDSA as `Ed25519` of RFC 9864) verified offline, and service accounts."""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from shared.errors import Unauthenticated, Unavailable
from shared.settings import StaticKey

ISSUER = "millrace"
TOKEN_SECONDS = 300
KEYS_SECONDS = 300.0
"""How long a fetched key set is used before it is fetched again."""
WORKSPACE_SCOPES = ("read", "write", "admin")
"""What a workspace's key can be allowed. Service accounts have other scopes: operator, events, spans, metrics."""


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. `workspace` is None for service accounts, which belong to none."""

    name: str
    scopes: frozenset[str]
    workspace: UUID | None


def digest(key: str) -> str:
    """SHA-256 (hex) of a random key: all that is kept of it. A random 256-bit key needs no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def issue(signing_key: OKPKey, principal: Principal, now: float | None = None) -> str:
    """A token for `principal`, good for TOKEN_SECONDS."""
    at = int(now or time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": principal.name,
        "iat": at,
        "exp": at + TOKEN_SECONDS,
        "scope": " ".join(sorted(principal.scopes)),
    }
    if principal.workspace is not None:
        claims["workspace"] = str(principal.workspace)
    return jwt.encode({"alg": "Ed25519", "kid": signing_key.thumbprint()}, claims, signing_key, algorithms=["Ed25519"])


class Verifier:
    """Turns a credential into a principal. Keys of service accounts come from settings, public keys from `fetch`."""

    def __init__(self, static_keys: dict[str, StaticKey], fetch: Callable[[], dict[str, Any]]) -> None:
        self._static = static_keys
        self._fetch = fetch
        self._keys: KeySet | None = None
        self._fetched_at = float("-inf")

    def verify(self, credential: str) -> Principal:
        """Raises Unauthenticated, or Unavailable when the public keys cannot be had."""
        found = self.static(credential)
        if found is not None:
            return found
        if credential.count(".") != 2:
            raise Unauthenticated("The key is not known.")
        return self._verify_token(credential)

    def static(self, credential: str) -> Principal | None:
        """The service account that the key belongs to, if it is one's."""
        hashed = digest(credential)
        for name, key in self._static.items():
            if hmac.compare_digest(key.sha256, hashed):
                return Principal(name, key.scopes, None)
        return None

    def _verify_token(self, token: str) -> Principal:
        try:
            decoded = self._decode(token, self._key_set(refresh=False))
        except JoseError:
            # The signing key may have been changed since the keys were fetched.
            if time.monotonic() - self._fetched_at < 5.0:
                raise Unauthenticated("The token is not valid.") from None
            try:
                decoded = self._decode(token, self._key_set(refresh=True))
            except JoseError:
                raise Unauthenticated("The token is not valid.") from None
        return _principal(decoded.claims)

    def _decode(self, token: str, keys: KeySet) -> jwt.Token:
        decoded = jwt.decode(token, keys, algorithms=["Ed25519"])
        jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": ISSUER}, exp={"essential": True}, sub={"essential": True}
        ).validate(decoded.claims)
        return decoded

    def _key_set(self, *, refresh: bool) -> KeySet:
        if self._keys is None or refresh or time.monotonic() - self._fetched_at > KEYS_SECONDS:
            try:
                self._keys = KeySet.import_key_set(self._fetch())  # type: ignore[arg-type]
                self._fetched_at = time.monotonic()
            except Exception as error:
                if self._keys is None:
                    raise Unavailable("The keys that tokens are verified with cannot be had.") from error
        return self._keys


def _principal(claims: dict[str, Any]) -> Principal:
    try:
        workspace = UUID(claims["workspace"]) if "workspace" in claims else None
        return Principal(str(claims["sub"]), frozenset(str(claims.get("scope", "")).split()), workspace)
    except ValueError:
        raise Unauthenticated("The token is not valid.") from None
