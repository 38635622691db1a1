"""Who a credential belongs to, and who it does not."""

import base64
import hashlib
import hmac
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OKPKey

from shared import auth, ids
from shared.auth import Principal, Verifier, digest, issue
from shared.errors import Unauthenticated, Unavailable
from shared.settings import StaticKey

WORKSPACE = ids.draw()
CALLER = Principal("key-1", frozenset({"read", "write"}), WORKSPACE)


def draw_key() -> OKPKey:
    return OKPKey.generate_key("Ed25519", private=True)


class Keys:
    """What `api` serves, and how often it was asked."""

    def __init__(self, *keys: OKPKey) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.away = False

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise ConnectionError("refused")
        return {"keys": [key.as_dict(private=False, kid=key.thumbprint()) for key in self.keys]}


@pytest.fixture
def key() -> OKPKey:
    return draw_key()


@pytest.fixture
def keys(key: OKPKey) -> Keys:
    return Keys(key)


@pytest.fixture
def verifier(keys: Keys) -> Verifier:
    return Verifier({}, keys)


def token(key: OKPKey, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token with the usual claims but these; None leaves one out."""
    now = int(time.time())
    usual = {
        "iss": auth.ISSUER,
        "sub": "key-1",
        "iat": now,
        "exp": now + 60,
        "scope": "read",
        "workspace": str(WORKSPACE),
    }
    chosen = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(header or {"alg": "Ed25519", "kid": key.thumbprint()}, chosen, key, algorithms=["Ed25519"])


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_an_issued_token_names_its_principal(key: OKPKey, verifier: Verifier) -> None:
    assert verifier.verify(issue(key, CALLER)) == CALLER


def test_a_token_is_good_for_its_time(key: OKPKey, verifier: Verifier) -> None:
    now = time.time()
    assert verifier.verify(issue(key, CALLER, now - auth.TOKEN_SECONDS / 2)) == CALLER
    with pytest.raises(Unauthenticated):
        verifier.verify(issue(key, CALLER, now - auth.TOKEN_SECONDS - auth.LEEWAY_SECONDS - 1))


def test_clocks_may_differ_by_a_little(key: OKPKey, verifier: Verifier) -> None:
    """The host that issues is a few seconds ahead of the one that verifies."""
    assert verifier.verify(issue(key, CALLER, time.time() + 5)) == CALLER
    with pytest.raises(Unauthenticated):
        verifier.verify(issue(key, CALLER, time.time() + 3600))


LONG_AGO, IN_A_CENTURY = 1_700_000_000, 4_900_000_000
"""In seconds, fixed: all processes that run tests name them alike."""


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "someone-else"},
        {"iss": None},
        {"exp": None},
        {"sub": None},
        {"exp": LONG_AGO},
        {"exp": "soon"},
        {"nbf": IN_A_CENTURY},
        {"workspace": "not a uuid"},
        {"workspace": 17},
        {"workspace": ["a"]},
        {"workspace": {}},
    ],
    ids=str,
)
def test_a_token_with_other_claims_is_refused(key: OKPKey, verifier: Verifier, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        verifier.verify(token(key, **claims))


def test_a_token_of_another_key_is_refused(key: OKPKey, verifier: Verifier) -> None:
    other = draw_key()
    for header in (None, {"alg": "Ed25519", "kid": key.thumbprint()}, {"alg": "Ed25519"}):
        with pytest.raises(Unauthenticated):
            verifier.verify(token(other, header))


def test_who_was_seen_is_known_without_asking_until_the_token_ends(
    key: OKPKey, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = issue(key, CALLER)
    assert verifier.seen(given) is None
    verifier.verify(given)
    assert verifier.seen(given) == CALLER
    last = time.time() + auth.TOKEN_SECONDS + auth.LEEWAY_SECONDS
    monkeypatch.setattr(time, "time", lambda: last + 2)
    assert verifier.seen(given) is None
    with pytest.raises(Unauthenticated):
        verifier.verify(given)


def test_nobody_is_seen_who_was_refused(key: OKPKey, verifier: Verifier) -> None:
    for refused in (token(draw_key()), token(key, exp=LONG_AGO), "a.b.c", "key"):
        with pytest.raises(Unauthenticated):
            verifier.verify(refused)
        assert verifier.seen(refused) is None


def test_a_key_that_was_taken_back_signs_nothing_any_more(
    key: OKPKey, keys: Keys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = issue(key, CALLER)
    verifier.verify(given)
    keys.keys = [draw_key()]
    later = time.monotonic() + auth.KEYS_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert verifier.seen(given) is None, "it is time to fetch the keys again"
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            verifier.verify(given)
        assert verifier.seen(given) is None


def test_so_many_tokens_are_remembered_and_no_more(
    key: OKPKey, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "SEEN_TOKENS", 2)
    given = [token(key, sub=f"key-{number}") for number in range(3)]
    for each in given:
        verifier.verify(each)
    assert [verifier.seen(each) is not None for each in given] == [False, False, True]


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS256"])
def test_a_token_without_a_real_signature_is_refused(key: OKPKey, verifier: Verifier, algorithm: str) -> None:
    claims = {"iss": auth.ISSUER, "sub": "a", "exp": int(time.time()) + 60, "scope": "read admin"}
    with pytest.raises(Unauthenticated):
        verifier.verify(unsigned({"alg": algorithm, "kid": key.thumbprint()}, claims))


def test_the_public_key_is_no_shared_secret(key: OKPKey, verifier: Verifier) -> None:
    """The classic confusion: signed with HMAC over the published key."""
    claims = {"iss": auth.ISSUER, "sub": "a", "exp": int(time.time()) + 60, "scope": "admin"}
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": key.thumbprint()}):
        for secret in (key.as_pem(private=False), key.as_bytes(private=False), str(key.as_dict()["x"]).encode()):
            body = unsigned(header, claims).rstrip(".")
            signature = hmac.new(secret, body.encode(), hashlib.sha256).digest()
            forged = f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
            with pytest.raises(Unauthenticated):
                verifier.verify(forged)


def test_a_tampered_token_is_refused(key: OKPKey, verifier: Verifier) -> None:
    header, _, signature = issue(key, CALLER).split(".")
    claims = {"iss": auth.ISSUER, "sub": "a", "exp": int(time.time()) + 60, "scope": "admin"}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        verifier.verify(f"{header}.{body}.{signature}")


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "\x00.\x00.\x00",
        "e30.e30.e30",
        "bnVsbA.bnVsbA.",
        "W10.W10.W10",
        unsigned({"alg": "Ed25519", "kid": 17}, {}),
        unsigned({"alg": "Ed25519", "kid": None}, {}),
        unsigned({"alg": ["Ed25519"]}, {}),
        unsigned({"alg": "Ed25519", "crit": ["b64"], "b64": False}, {}),
        "a" * 100_000 + ".b.c",
    ],
    ids=lambda text: repr(text)[:30],
)
def test_garbage_is_refused(verifier: Verifier, garbage: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier.verify(garbage)


VERIFIER = Verifier({}, Keys(draw_key()))


@given(st.text(), st.text(), st.text())
def test_whatever_looks_like_a_token_is_refused(header: str, claims: str, signature: str) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(f"{header}.{claims}.{signature}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c"]), json_values),
    json_values,
    st.binary(max_size=64),
)
def test_whatever_is_json_and_not_signed_is_refused(header: dict[str, Any], claims: Any, signature: bytes) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(unsigned(header, claims, signature))


# The public keys


def test_keys_are_fetched_once_for_many_tokens(key: OKPKey, keys: Keys, verifier: Verifier) -> None:
    for _ in range(5):
        verifier.verify(issue(key, CALLER))
    assert keys.asked == 1


def test_a_changed_signing_key_is_learned(
    key: OKPKey, keys: Keys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier.verify(issue(key, CALLER))
    changed = draw_key()
    keys.keys = [changed]
    verifier.verify(issue(key, CALLER))
    later = time.monotonic() + auth.REFETCH_SECONDS + 1
    monkeypatch.setattr(auth.time, "monotonic", lambda: later)
    assert verifier.verify(issue(changed, CALLER)) == CALLER
    with pytest.raises(Unauthenticated):
        verifier.verify(issue(key, CALLER))


def test_without_keys_a_token_waits_and_a_service_account_does_not(key: OKPKey, keys: Keys) -> None:
    keys.away = True
    verifier = Verifier({"prometheus": StaticKey(sha256=digest("k"), scopes=frozenset({"metrics"}))}, keys)
    with pytest.raises(Unavailable):
        verifier.verify(issue(key, CALLER))
    assert verifier.verify("k").name == "prometheus"


def test_known_keys_serve_on_while_api_is_away(
    key: OKPKey, keys: Keys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier.verify(issue(key, CALLER))
    keys.away = True
    start = time.monotonic()
    for hours in range(1, 4):
        monkeypatch.setattr(auth.time, "monotonic", lambda hours=hours: start + 3600.0 * hours)
        for _ in range(10):
            assert verifier.verify(issue(key, CALLER)) == CALLER
    assert keys.asked == 1 + 3, "a fetch that fails takes seconds: not one a request"


def test_bad_tokens_cause_no_storm_of_fetches(key: OKPKey, keys: Keys, verifier: Verifier) -> None:
    verifier.verify(issue(key, CALLER))
    other = draw_key()
    for away in (False, True):
        keys.away = away
        for _ in range(20):
            with pytest.raises(Unauthenticated):
                verifier.verify(issue(other, CALLER))
    assert keys.asked <= 2


def test_threads_wait_for_the_first_keys_and_one_fetches_them(key: OKPKey) -> None:
    begun, go_on = threading.Event(), threading.Event()
    keys = Keys(key)

    def slowly() -> dict[str, Any]:
        begun.set()
        assert go_on.wait(10)
        return keys()

    verifier = Verifier({}, slowly)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(verifier.verify, issue(key, CALLER)) for _ in range(4)]
        assert begun.wait(10)
        go_on.set()
        assert [future.result(10) for future in waiting] == [CALLER] * 4
    assert keys.asked == 1


# Service accounts


def test_a_service_account_is_known_by_its_key_alone() -> None:
    accounts = {name: StaticKey(sha256=digest(f"secret-{name}"), scopes=frozenset({name})) for name in ("a", "b")}
    verifier = Verifier(accounts, Keys())
    assert verifier.verify("secret-b") == Principal("b", frozenset({"b"}), None)
    for wrong in ("secret-c", "secret-", "", "a", digest("secret-a"), "secret-b "):
        with pytest.raises(Unauthenticated):
            verifier.verify(wrong)


def test_a_digest_has_a_form() -> None:
    with pytest.raises(ValueError, match="sha256"):
        StaticKey(sha256="secret", scopes=frozenset())
