"""The HTTP contracts: generated from the code, valid, and fit to be shown as one document."""

import json

import pytest
from openapi_spec_validator import validate

from infra import contracts
from services.api.routes import docs, gateway
from shared.contracts.catalog import SERVICES


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    return contracts.openapi()


def test_the_written_contracts_are_those_of_the_code(documents):
    wanted = contracts.files(documents, contracts.schemas())
    assert contracts.stale(contracts.FOLDER, wanted) == [], "run: python -m infra.contracts"


def test_check_tells_what_is_missing_and_writing_mends_it(tmp_path, capsys):
    assert contracts.main(["--check"], tmp_path) == 1
    assert f"openapi/{SERVICES[0]}.json is not up to date" in capsys.readouterr().err
    assert contracts.main([], tmp_path) == 0
    assert contracts.main(["--check"], tmp_path) == 0
    (tmp_path / "openapi" / "reports.json").write_text("{}")
    (tmp_path / "openapi" / "gone.json").write_text("{}")
    assert contracts.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().err
    assert "openapi/reports.json" in said
    assert "openapi/gone.json" in said
    assert contracts.main([], tmp_path) == 0
    assert not (tmp_path / "openapi" / "gone.json").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_a_contract_is_valid_and_public(documents, service):
    document = documents[service]
    validate(document)
    assert document["paths"]
    for path in document["paths"]:
        assert path.startswith("/v1/")
        assert path not in contracts.INTERNAL
    assert service == "api" or not any(path.startswith("/v1/jobs") for path in document["paths"])


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_says_what_it_does_and_how_it_refuses(documents, service):
    for path, item in documents[service]["paths"].items():
        for method, operation in item.items():
            assert operation.get("description"), f"{method} {path} has no docstring"
            assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_a_path_belongs_to_one_service_and_the_gateway_sends_it_there(documents):
    owners: dict[str, list[str]] = {}
    for service, document in documents.items():
        for path in document["paths"]:
            owners.setdefault(path, []).append(service)
    assert {path: names for path, names in owners.items() if len(names) > 1} == {}
    proxied = {path: names[0] for path, names in owners.items() if names != ["api"]}
    assert {path: gateway.SERVICES.get(path.split("/")[2]) for path in proxied} == proxied


def test_components_of_one_name_are_one_thing(documents):
    shapes: dict[str, dict[str, set[str]]] = {}
    for service, document in documents.items():
        for name, component in document["components"]["schemas"].items():
            shapes.setdefault(name, {}).setdefault(json.dumps(component, sort_keys=True), set()).add(service)
    assert {name: list(found.values()) for name, found in shapes.items() if len(found) > 1} == {}


def test_the_whole_document_that_the_gateway_shows_is_valid(documents):
    whole = docs.whole(documents["api"])
    validate(whole)
    assert set(whole["paths"]) == {path for document in documents.values() for path in document["paths"]}
