"""Who is calling: short-lived tokens (JWT, EdDSA as `Ed25519` of RFC 9864) verified offline, and service accounts."""

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from shared.errors import Unauthenticated, Unavailable
from shared.settings import StaticKey

ISSUER = "millrace"
TOKEN_SECONDS = 300
KEYS_SECONDS = 300.0
"""How long a fetched key set is used before it is fetched again."""
REFETCH_SECONDS = 5.0
"""Not sooner after the last time, whatever tokens come: a fetch that fails takes seconds."""
RETRY_SECONDS = 1.0
"""The same while there are no keys at all."""
LEEWAY_SECONDS = 30
"""By so much the clocks of the issuer and the verifier may differ."""
SEEN_TOKENS = 1000
"""Of so many the signatures are remembered."""
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
        self._fetched_at = self._asked_at = float("-inf")
        self._lock = threading.Lock()
        self._seen = _Seen(None)

    def verify(self, credential: str) -> Principal:
        """Raises Unauthenticated, or Unavailable when the public keys cannot be had."""
        found = self.static(credential)
        if found is not None:
            return found
        if credential.count(".") != 2:
            raise Unauthenticated("The key is not known.")
        return self._verify_token(credential)

    def seen(self, credential: str) -> Principal | None:
        """Whom a token that was verified before belongs to, if it still does. None says nothing: `verify` knows, which
        may wait for an answer from elsewhere."""
        seen = self._seen
        claims = seen.claims.get(digest(credential))
        if claims is None or seen.keys is not self._keys or self._is_time():
            return None
        with suppress(Exception):
            return _principal(_good(claims))
        return None

    def static(self, credential: str) -> Principal | None:
        """The service account that the key belongs to, if it is one's."""
        hashed = digest(credential)
        for name, key in self._static.items():
            if hmac.compare_digest(key.sha256, hashed):
                return Principal(name, key.scopes, None)
        return None

    def _verify_token(self, token: str) -> Principal:
        known = self._key_set()
        try:
            return _principal(self._decode(token, known))
        except Exception:  # a hostile token makes the library raise more than its own errors
            changed = self._key_set(refresh=True)  # the signing key may be another by now
            if changed is known:
                raise Unauthenticated("The token is not valid.") from None
        try:
            return _principal(self._decode(token, changed))
        except Exception:
            raise Unauthenticated("The token is not valid.") from None

    def _decode(self, token: str, keys: KeySet) -> dict[str, Any]:
        """The token's claims. Who signed it is asked once while the keys are the same, what it claims each time."""
        seen, hashed = self._seen, digest(token)
        if seen.keys is not keys or len(seen.claims) >= SEEN_TOKENS:
            seen = self._seen = _Seen(keys)
        claims = seen.claims.get(hashed)
        if claims is None:
            claims = jwt.decode(token, keys, algorithms=["Ed25519"]).claims
        seen.claims[hashed] = _good(claims)
        return claims

    def _key_set(self, *, refresh: bool = False) -> KeySet:
        """The known keys, fetched when it is time. One thread fetches; the others use what is known meanwhile,
        or wait when nothing is."""
        first = self._keys is None
        if (first or self._is_time(refresh)) and self._lock.acquire(blocking=first):
            try:
                if self._is_time(refresh):
                    self._ask()
            finally:
                self._lock.release()
        if self._keys is None:
            raise Unavailable("The keys that tokens are verified with cannot be had.")
        return self._keys

    def _is_time(self, refresh: bool = False) -> bool:
        now = time.monotonic()
        if self._keys is None:
            return now - self._asked_at > RETRY_SECONDS
        return (refresh or now - self._fetched_at > KEYS_SECONDS) and now - self._asked_at > REFETCH_SECONDS

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        with suppress(Exception):  # whatever is wrong with `api`: known keys serve on
            self._keys = KeySet.import_key_set(self._fetch())  # type: ignore[arg-type]
            self._fetched_at = time.monotonic()


class _Seen:
    """The claims of tokens that one of these keys signed, by the digest of the token."""

    def __init__(self, keys: KeySet | None) -> None:
        self.keys = keys
        self.claims: dict[str, dict[str, Any]] = {}


def _good(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims, of an issuer, a subject and a time that are. Raises joserfc's errors."""
    jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": ISSUER},
        exp={"essential": True},
        sub={"essential": True},
    ).validate(claims)
    return claims


def _principal(claims: dict[str, Any]) -> Principal:
    try:
        workspace = UUID(str(claims["workspace"])) if "workspace" in claims else None
        return Principal(str(claims["sub"]), frozenset(str(claims.get("scope", "")).split()), workspace)
    except ValueError:
        raise Unauthenticated("The token is not valid.") from None
