"""Writes down what services promise: an OpenAPI document a service, a JSON Schema an event type.

`python -m infra.contracts` writes them into shared/contracts/, `--check` tells whether they are up to date.
Neither lets a published event type change in a way that breaks who reads it: that takes a new version of the
type. Nothing is connected to, so it needs no server.
"""

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shared.contracts.catalog import EVENTS, SERVICES
from shared.contracts.envelope import Event

Json = dict[str, Any]
FOLDER: Final = Path(__file__).parents[1] / "shared" / "contracts"
INTERNAL: Final = ("/v1/events", "/v1/runs/{id}/part", "/v1/runs/scheduled", "/v1/runs/tallies")
"""Paths that services serve to each other."""
# What a reader of events need not care about.
_ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "$id", "$schema", "$defs", "x-owner", "x-consumers"}
)


def openapi() -> dict[str, Json]:
    """The public OpenAPI document of each service, by its name."""
    with _settings():
        return {service: public(service, _document(service)) for service in SERVICES}


def schemas() -> dict[str, Json]:
    """The JSON Schema of each event type's data, by the type."""
    return {type: schema(event) for type, event in EVENTS.items()}


def schema(event: type[Event]) -> Json:
    """JSON Schema (draft 2020-12) of the event's data, with who answers for it and which job kinds it causes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:millrace:event:{event.type}",
        **event.model_json_schema(),
        "title": event.type,
        "x-owner": event.owner,
        "x-consumers": list(event.consumers),
    }


def public(service: str, document: Json) -> Json:
    """The document without what only services and operators call: other paths than /v1, feeds, parts of runs.

    Jobs, batches, schedules, queues and workers are the gateway's to show. Every operation gets the answer that all
    errors have.
    """
    paths = {path: _operations(item) for path, item in document["paths"].items() if _is_public(service, path)}
    components = {"Problem": PROBLEM, **document.get("components", {}).get("schemas", {})}
    return {
        "openapi": document["openapi"],
        "info": document["info"],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: components[name] for name in sorted(_named(paths, components))},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


PROBLEM: Final[Json] = {
    "title": "Problem",
    "description": "Why a request was not done (RFC 9457). `code` is stable; further members are facts of the code.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
_REFUSED: Final[Json] = {
    "description": "A problem",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _is_public(service: str, path: str) -> bool:
    gateways = service != "api" and re.match(r"/v1/(jobs|batches|schedules|queues|workers|limits)\b", path) is not None
    return path.startswith("/v1/") and path not in INTERNAL and not gateways


def _operations(item: Json) -> Json:
    """The path's operations; FastAPI's own idea of a 422 gives way to ours of every refusal."""
    return {method: {**operation, "responses": _responses(operation)} for method, operation in item.items()}


def _responses(operation: Json) -> Json:
    kept = {status: answer for status, answer in operation["responses"].items() if status != "422"}
    return {**kept, "default": _REFUSED}


def _named(paths: Json, components: Json) -> set[str]:
    """Names of the components that the paths use, directly or through others."""
    found: set[str] = set()
    open_ = list(_references(paths))
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += _references(components[name])
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rsplit("/", 1)[-1]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def breaks(old: Json, new: Json) -> list[str]:
    """What in `new` would break a reader of `old`, or fail to read an event that was published under it.

    Of an object's properties all stay, as they are; one may be added if it is not required, for the events in
    the feeds do not have it. Titles and descriptions may change.
    """
    return list(_breaks("data", old, new, old.get("$defs", {}), new.get("$defs", {})))


def _breaks(where: str, old: Json, new: Json, old_defs: Json, new_defs: Json) -> Iterator[str]:
    old, new = _resolved(old, old_defs), _resolved(new, new_defs)
    was, now = set(old.get("required", ())), set(new.get("required", ()))
    properties, added = old.get("properties", {}), new.get("properties", {})
    for name in properties:
        if name not in added:
            yield f"{where}.{name} is gone"
        elif name in was - now:
            yield f"{where}.{name} is no longer always there"
        elif name in now - was:
            yield f"{where}.{name} is required now: events that were published may lack it"
        else:
            yield from _breaks(f"{where}.{name}", properties[name], added[name], old_defs, new_defs)
    for name in sorted((set(added) - set(properties)) & now):
        yield f"{where}.{name} is new and required: events that were published lack it"
    if "items" in old and "items" in new:
        yield from _breaks(f"{where}[]", old["items"], new["items"], old_defs, new_defs)
    choices = list(zip(old.get("anyOf", ()), new.get("anyOf", ()), strict=False))
    for number, (before, after) in enumerate(choices):
        yield from _breaks(f"{where}|{number}", before, after, old_defs, new_defs)
    if len(old.get("anyOf", ())) != len(new.get("anyOf", ())):
        yield f"{where} may be something else now"
    compared = (set(old) | set(new)) - (_ANNOTATIONS | {"required", "properties", "items", "anyOf"})
    for key in sorted(compared):
        if old.get(key) != new.get(key):
            yield f"{where}: {key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"


def _resolved(value: Json, defs: Json) -> Json:
    return {**defs[value["$ref"].rsplit("/", 1)[-1]], **value, "$ref": None} if "$ref" in value else value


def broken(folder: Path, found: Mapping[str, Json]) -> list[str]:
    """Published event types that are gone or changed for their readers, one line each."""
    lines = []
    for path in sorted((folder / "schemas").glob("*.json")):
        if path.stem not in found:
            lines.append(f"{path.stem} is in no catalog any more: remove its schema once no feed holds such events")
            continue
        reasons = breaks(json.loads(path.read_text()), found[path.stem])
        lines += [f"{path.stem}: {reason}. Publish a new version of the type instead." for reason in reasons]
    return lines


def files(openapi: Mapping[str, Json], schemas: Mapping[str, Json]) -> dict[str, str]:
    """Text of each generated file by its path in the folder."""
    named = {f"openapi/{name}.json": document for name, document in openapi.items()}
    named |= {f"schemas/{name}.json": document for name, document in schemas.items()}
    return {path: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for path, document in named.items()}


def stale(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Paths whose file is missing, differs, or should not be there."""
    there = {f"{kind}/{path.name}" for kind in ("openapi", "schemas") for path in (folder / kind).glob("*.json")}
    differing = {path for path in wanted if path not in there or (folder / path).read_text() != wanted[path]}
    return sorted(differing | (there - set(wanted)))


def main(arguments: Iterable[str], folder: Path = FOLDER) -> int:
    """Exit code 0: written, or up to date. 1: not up to date, or a published type would break. 2: bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m infra.contracts", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something differs")
    check = parser.parse_args(list(arguments)).check
    found = schemas()
    if lines := broken(folder, found):
        sys.stderr.writelines(f"contracts: {line}\n" for line in lines)
        return 1
    wanted = files(openapi(), found)
    outdated = stale(folder, wanted)
    if check:
        sys.stderr.writelines(f"contracts: {path} is not up to date: python -m infra.contracts\n" for path in outdated)
        return 1 if outdated else 0
    for path in outdated:
        _write(folder / path, wanted.get(path))
        sys.stdout.write(f"contracts: {path}\n")
    return 0


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _document(service: str) -> Json:
    app = importlib.import_module(f"services.{service}.main").create()
    found: Json = app.openapi()
    return found


@contextmanager
def _settings() -> Iterator[None]:
    """Settings that every service can be made with; nothing at these addresses is ever asked."""
    kept = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.pem"
        key.write_bytes(_signing_key())
        os.environ.clear()
        os.environ.update(
            MILLRACE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/millrace",
            MILLRACE_BROKER_URL="redis://127.0.0.1:1/0",
            MILLRACE_OBJECTS_URL=Path(folder).as_uri(),
            API_SIGNING_KEY_FILE=str(key),
            NOTIFICATIONS_SMTP_URL="smtp://127.0.0.1:1",
            NOTIFICATIONS_MAIL_FROM="nobody@millrace.localhost",
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)


def _signing_key() -> bytes:
    from joserfc.jwk import OKPKey

    return OKPKey.generate_key("Ed25519", private=True).as_pem(private=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
