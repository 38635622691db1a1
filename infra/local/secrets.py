"""The stack's passwords and keys: made once, kept in the state folder with mode 0600."""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.local.state import State, write_private

SERVICES: Final = ("api", "ingest", "reports", "notifications")
# Service accounts: what each may do (scopes of MILLRACE_STATIC_KEYS).
ACCOUNTS: Final[dict[str, tuple[str, ...]]] = {
    "operator": ("operator",),
    "telemetry": ("spans",),
    "prometheus": ("metrics",),
    **dict.fromkeys(SERVICES, ("events",)),
}
WEB_PASSWORD: Final = "web-password"  # noqa: S105  # a file's name
"""The file that holds the web pages' password alone, for people to read."""
_FILE: Final = "secrets.json"
_SIGNING_KEY: Final = "signing-key.pem"


@dataclass(frozen=True)
class Secrets:
    """All the stack's secrets in clear. Never printed: no field shows in repr."""

    stack: str = field(repr=False)
    """Marks the stack's processes in their environment, to find what a crash left running."""
    passwords: dict[str, str] = field(repr=False)
    """Passwords of postgres (superuser), valkey, the web pages (Flower, mailbox) and each service's database role."""
    keys: dict[str, str] = field(repr=False)
    """The service accounts' keys."""
    signing_key: Path
    """PEM file of the gateway's Ed25519 key."""

    def static_keys(self) -> str:
        """MILLRACE_STATIC_KEYS: names, SHA-256 of the keys, scopes; nothing in it opens a door."""
        return json.dumps(
            {
                name: {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(ACCOUNTS[name])}
                for name, key in self.keys.items()
            }
        )


def load(state: State) -> Secrets:
    """The folder's secrets; what is missing is generated and saved first. Raises BadState."""
    kept = state.read(_FILE)
    passwords, keys = dict(kept.get("passwords", {})), dict(kept.get("keys", {}))
    for name in ("postgres", "valkey", "web", *SERVICES):
        passwords.setdefault(name, secrets.token_urlsafe(24))
    for name in ACCOUNTS:
        keys.setdefault(name, secrets.token_urlsafe(32))
    whole = {"stack": kept.get("stack", secrets.token_hex(8)), "passwords": passwords, "keys": keys}
    if whole != kept:
        state.write(_FILE, whole)
        write_private(state.path(WEB_PASSWORD), passwords["web"].encode() + b"\n")
    signing_key = state.path(_SIGNING_KEY)
    if not signing_key.exists():
        write_private(signing_key, _ed25519())
    return Secrets(whole["stack"], passwords, {name: keys[name] for name in ACCOUNTS}, signing_key)


def _ed25519() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
