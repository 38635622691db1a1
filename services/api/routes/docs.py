"""The documentation of the whole API: this service's own routes and those that the gateway passes on."""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from shared.errors import NotFound
from shared.http.dependencies import caller_of

router = APIRouter(include_in_schema=False, dependencies=[Depends(caller_of)])

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Millrace API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"></head><body><div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>"""
START = """SwaggerUIBundle({
  url: location.origin + "/docs/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null
});"""
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


@router.get("/docs")
def show_docs() -> HTMLResponse:
    """Every route, to read and to try. A browser asks for the key: any user name, the key as the password."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/openapi.json")
def show_document(request: Request) -> dict[str, Any]:
    """One OpenAPI document over the gateway's own routes and those that it passes on."""
    return whole(request.app.openapi())


@router.get("/docs/start.js")
def show_start() -> Response:
    return Response(START, media_type="text/javascript")


@router.get("/docs/{asset}")
def show_asset(asset: str) -> Response:
    if asset not in ASSETS:
        raise NotFound("There is no such page.")
    return Response(_read(asset), media_type=ASSETS[asset], headers={"Cache-Control": "private, max-age=86400"})


@lru_cache
def _read(asset: str) -> bytes:
    return (files("fastapi_offline") / "static" / asset).read_bytes()


def whole(own: dict[str, Any]) -> dict[str, Any]:
    """The own document with the public paths of the other services' (shared/contracts/openapi)."""
    paths, schemas = dict(own["paths"]), dict(own.get("components", {}).get("schemas", {}))
    for document in _contracts():
        for path, item in document["paths"].items():
            paths.setdefault(path, item)
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            schemas.setdefault(name, schema)
    security = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        **own,
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security},
        "security": [{"key": []}],
    }


@lru_cache
def _contracts() -> tuple[dict[str, Any], ...]:
    folder = files("shared.contracts") / "openapi"
    names = ("ingest", "reports", "notifications")
    return tuple(json.loads((folder / f"{name}.json").read_text()) for name in names)
