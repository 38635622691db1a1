"""Every route of every service: closed without a good key, without the right scope, and to other workspaces."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import OKPKey

from shared import ids
from shared.auth import ISSUER, WORKSPACE_SCOPES, Principal, Verifier, digest, issue
from shared.contracts.catalog import SERVICES
from tests.architecture import rows

OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/.well-known/jwks.json")}
"""The only routes that answer without a key."""
PASSED_ON = ("GET", "POST", "PUT", "PATCH", "DELETE")
ANY_KEY = {
    *(("GET", path) for path in ("/docs", "/docs/openapi.json", "/docs/start.js", "/docs/{asset}")),
    ("POST", "/v1/token"),
    *(
        (m, path)
        for m in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for path in ("/v1/{resource}", "/v1/{resource}/{rest:path}")
    ),
}
"""The gateway's routes that take every good key: pages, and what it passes on with the caller's own scopes."""
SERVICE_SCOPES = ("operator", "events", "spans", "metrics")
NEED_MORE = {
    ("PUT", "/v1/schedules/{id}"): "job.kind_unknown",
    ("POST", "/v1/schedules/{id}/run"): "job.kind_unknown",
    ("POST", "/v1/definitions/{id}/bursts"): "report.dataset_unnamed",
}
"""Routes that need more than the row: a kind that callers may ask for, a dataset. What they say when it is found."""
QUERIES = {("GET", "/v1/jobs/{id}/events"): "?seconds=0.1"}
"""What keeps a route's answer short."""
GENERAL = {"asset": "swagger-ui.css", "key": "each:walked", "resource": "rules", "rest:path": "x"}
"""Values of path parameters that name no row."""


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    scopes: frozenset[str]
    """Those that its dependencies require."""

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    def at(self, found: rows.Ids) -> str:
        """The path with the rows' ids in it. KeyError: rows.py makes no row of that kind yet."""
        parts = self.path.split("/")
        for number, part in enumerate(parts):
            if part.startswith("{"):
                name = part.strip("{}")
                parts[number] = GENERAL[name] if name in GENERAL else found[parts[number - 1]]
        return "/".join(parts)

    @property
    def names_a_row(self) -> bool:
        return "{id}" in self.path or "{trace_id}" in self.path


@dataclass
class Surface:
    """A service's application with one workspace's rows in it."""

    service: str
    app: FastAPI
    client: TestClient
    key: OKPKey
    owner: UUID = field(default_factory=ids.draw)
    ids: rows.Ids = field(default_factory=dict)

    def routes(self) -> list[Route]:
        return [
            Route(method, context.path, frozenset(_scopes(context.dependant)))
            for context in iter_route_contexts(self.app.routes)
            for method in sorted(context.methods)
        ]

    def token(self, workspace: UUID | None, *scopes: str) -> dict[str, str]:
        return bearer(issue(self.key, Principal("somebody", frozenset(scopes), workspace)))

    def ask(self, route: Route, headers: dict[str, str]):
        path = route.at(self.ids) + QUERIES.get(route.key, "")
        return self.client.request(route.method, path, headers=headers, json=rows.BODIES.get(route.key))


def _scopes(dependant) -> Iterator[str]:
    for beneath in dependant.dependencies:
        if hasattr(beneath.call, "scope"):
            yield beneath.call.scope
        yield from _scopes(beneath)


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture(params=SERVICES)
def surface(request, service_database, environment, monkeypatch, tmp_path) -> Iterator[Surface]:
    service = request.param
    database = service_database(service)
    environment(service)
    key = OKPKey.generate_key("Ed25519", private=True)
    (tmp_path / "signing.pem").write_bytes(key.as_pem(private=True))
    monkeypatch.setenv("API_SIGNING_KEY_FILE", str(tmp_path / "signing.pem"))
    monkeypatch.setenv("NOTIFICATIONS_SMTP_URL", "smtp://127.0.0.1:1")
    monkeypatch.setenv("NOTIFICATIONS_MAIL_FROM", "reports@millrace.localhost")
    account = {"sha256": digest("the account of all scopes"), "scopes": [*WORKSPACE_SCOPES, *SERVICE_SCOPES]}
    monkeypatch.setenv("MILLRACE_STATIC_KEYS", json.dumps({"everything": account}))
    app = import_module(f"services.{service}.main").create()
    if service != "api":  # `api` has the public keys itself; the others would ask it for them
        public = {"keys": [key.as_dict(private=False, kid=key.thumbprint())]}
        app.state.verifier = Verifier(app.state.settings.static_keys, lambda: public)
    with TestClient(app) as client:
        made = Surface(service, app, client, key)
        client.headers.update(made.token(made.owner, *WORKSPACE_SCOPES))
        made.ids = rows.make(service, database, client, made.owner)
        client.headers.pop("Authorization")
        yield made


def forged(surface: Surface) -> dict[str, dict[str, str]]:
    """Headers that open nothing, by what is wrong with them."""
    stranger = OKPKey.generate_key("Ed25519", private=True)
    everything = Principal("everything", frozenset({*WORKSPACE_SCOPES, *SERVICE_SCOPES}), surface.owner)
    good = issue(surface.key, everything)
    head, body, signature = good.split(".")
    plain = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    endless = jwt.encode(
        {"alg": "Ed25519", "kid": surface.key.thumbprint()},
        {"iss": ISSUER, "sub": "x", "scope": "read", "workspace": str(surface.owner)},
        surface.key,
        algorithms=["Ed25519"],
    )
    return {
        "no key": {},
        "an empty key": bearer(""),
        "another scheme": {"Authorization": f"Digest {good}"},
        "a wrong key": bearer("not-a-key"),
        "a wrong API key": bearer("mr_" + "x" * 43),
        "the digest of a key": bearer(digest("the account of all scopes")),
        "a wrong password": {"Authorization": "Basic " + base64.b64encode(b"user:wrong").decode()},
        "a broken password": {"Authorization": "Basic !"},
        "a stranger's token": bearer(issue(stranger, everything)),
        "a token of yesterday": bearer(issue(surface.key, everything, now=time.time() - 86_400)),
        "a token without an end": bearer(endless),
        "a token without a signature": bearer(f"{head}.{body}."),
        "an unsigned token": bearer(f"{plain}.{body}."),
        "a token with another body": bearer(f"{head}.{body[:-4]}AAAA.{signature}"),
    }


def test_a_route_answers_nobody_without_a_good_key(surface):
    wrong = []
    for route in surface.routes():
        for name, headers in forged(surface).items():
            answer = surface.ask(route, headers)
            if route.key in OPEN:
                assert answer.status_code == 200, route
            elif answer.status_code != 401 or answer.json()["code"] != "auth.unauthenticated":
                wrong.append(f"{route.method} {route.path} answers {answer.status_code} to {name}")
            else:
                asked = "Basic" if route.path.startswith("/docs") else "Bearer"
                assert answer.headers["www-authenticate"].startswith(asked)
    assert wrong == []


def test_a_route_answers_nobody_without_its_scope(surface):
    wrong = []
    for route in surface.routes():
        if route.key in OPEN | ANY_KEY:
            continue
        assert len(route.scopes) == 1, f"{route.method} {route.path} requires a scope"
        others = [scope for scope in (*WORKSPACE_SCOPES, *SERVICE_SCOPES) if scope not in route.scopes]
        answer = surface.ask(route, surface.token(surface.owner, *others))
        if (answer.status_code, answer.json()["code"]) != (403, "auth.forbidden"):
            wrong.append(f"{route.method} {route.path} answers {answer.status_code} without {set(route.scopes)}")
    assert wrong == []


def test_what_belongs_to_a_workspace_is_shown_to_no_service_account(surface):
    for route in surface.routes():
        if route.scopes & set(WORKSPACE_SCOPES):
            answer = surface.ask(route, bearer("the account of all scopes"))
            assert answer.status_code == 403, f"{route.method} {route.path}"


def test_another_workspaces_rows_are_not_there(surface):
    """The stranger comes first: the owner then finds everything as it was. What may go with another row goes first."""
    stranger = surface.token(ids.draw(), *WORKSPACE_SCOPES)
    owner = surface.token(surface.owner, *WORKSPACE_SCOPES)
    routes = [route for route in surface.routes() if route.scopes & set(WORKSPACE_SCOPES) and route.names_a_row]
    assert routes
    for route in routes:
        answer = surface.ask(route, stranger)
        if route.path == "/v1/runs/{id}/part":
            assert answer.json() == {"jobs": [], "events": []}
        else:
            assert answer.status_code == 404, route
            assert answer.headers["content-type"] == "application/problem+json"
    deletes = sorted(
        (route for route in routes if route.method == "DELETE"), key=lambda route: route.path, reverse=True
    )
    for route in [*(route for route in routes if route.method != "DELETE"), *deletes]:
        answer = surface.ask(route, owner)
        if route.key in NEED_MORE:
            assert answer.json()["code"] == NEED_MORE[route.key], "it was found, and then more was not"
        else:
            assert answer.status_code in (200, 204), f"{route.method} {route.path}: {answer.text}"


def test_lists_hold_ones_own_rows_alone(surface):
    stranger = surface.token(ids.draw(), *WORKSPACE_SCOPES)
    owner = surface.token(surface.owner, *WORKSPACE_SCOPES)
    for route in surface.routes():
        resource = route.path.removeprefix("/v1/")
        if route.method == "GET" and resource in surface.ids and route.scopes & set(WORKSPACE_SCOPES):
            assert surface.ids[resource] in surface.ask(route, owner).text, route
            assert surface.ids[resource] not in surface.ask(route, stranger).text, route


def test_the_gateway_knows_what_it_passes_on(surface):
    if surface.service == "api":
        headers = surface.token(surface.owner, *WORKSPACE_SCOPES)
        assert surface.client.get("/v1/unheard-of", headers=headers).status_code == 404
        assert surface.client.get("/v1/rules", headers=headers).json()["code"] == "service.unavailable"


def test_no_route_is_open_that_is_not_listed(surface):
    unguarded = {route.key for route in surface.routes() if not route.scopes}
    assert unguarded <= OPEN | ANY_KEY
    assert surface.service != "api" or unguarded == OPEN | ANY_KEY
