"""Event types: examples that are true, subscribers that are named, schemas that readers can rely on."""

import importlib
import json
from pathlib import Path
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from infra import contracts
from shared import ids
from shared.contracts.catalog import EVENTS, SERVICES
from shared.contracts.envelope import Envelope

EXAMPLES = contracts.FOLDER / "examples"


def example(type: str) -> dict:
    return json.loads((EXAMPLES / f"{type}.json").read_text())


def test_every_event_type_has_an_example_and_every_example_a_type():
    assert {path.stem for path in EXAMPLES.iterdir()} == set(EVENTS)


@pytest.mark.parametrize("type", EVENTS)
def test_an_example_is_a_cloudevent_as_services_send_it(type):
    given = example(type)
    envelope = Envelope.model_validate(given)
    assert envelope.model_dump(mode="json") == given
    assert envelope.type == type
    assert envelope.source == f"/millrace/{EVENTS[type].producer()}"
    assert envelope.time == ids.time_of(envelope.id)


@pytest.mark.parametrize("type", EVENTS)
def test_an_examples_data_is_of_the_types_shape(type):
    data = example(type)["data"]
    assert Envelope.model_validate(example(type)).read(EVENTS[type]).model_dump(mode="json") == data
    Draft202012Validator(contracts.schema(EVENTS[type]), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        data
    )


@pytest.mark.parametrize("type", EVENTS)
def test_a_type_is_named_for_its_producer_in_the_past_tense_with_a_version(type):
    service, noun, verb, version = type.split(".")
    assert service in SERVICES
    assert importlib.import_module(f"shared.contracts.{service}").__dict__[EVENTS[type].__name__] is EVENTS[type]
    assert noun.isidentifier()
    assert verb.endswith("ed")
    assert version[0] == "v"
    assert int(version[1:]) > 0


def subscribers() -> dict[str, set[str]]:
    """Job kinds that the services' handlers subscribe, by event type."""
    found: dict[str, set[str]] = {type: set() for type in EVENTS}
    for service in SERVICES:
        for event, kinds in subscriptions(service).items():
            found[event.type].update(kind.kind for kind in kinds)
    return found


def subscriptions(service: str) -> dict:
    worker = importlib.import_module(f"services.{service}.worker")
    return worker.service.subscriptions


def test_the_consumers_that_a_type_names_are_those_that_subscribe():
    assert {type: set(event.consumers) for type, event in EVENTS.items()} == subscribers()


@pytest.mark.parametrize("type", EVENTS)
def test_an_example_becomes_the_arguments_of_each_subscriber(type):
    envelope = Envelope.model_validate(example(type))
    kinds = [kind for service in SERVICES for kind in subscriptions(service).get(EVENTS[type], ())]
    assert kinds
    for kind in kinds:
        assert kind.model_validate(kind(envelope=envelope).model_dump(mode="json")).envelope == envelope


def test_the_written_schemas_are_those_of_the_code():
    folder = contracts.FOLDER
    assert contracts.broken(folder, contracts.schemas()) == []
    wanted = contracts.files({}, contracts.schemas())
    assert [path for path in contracts.stale(folder, wanted) if path.startswith("schemas/")] == []


OBJECT = {
    "type": "object",
    "required": ["id", "many"],
    "properties": {
        "id": {"type": "string", "format": "uuid", "description": "Whose"},
        "many": {"type": "array", "items": {"$ref": "#/$defs/One"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "$defs": {"One": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
}


def changed(**replaced) -> dict:
    return {**json.loads(json.dumps(OBJECT)), **replaced}


def properties(**replaced) -> dict:
    return {**json.loads(json.dumps(OBJECT["properties"])), **replaced}


@pytest.mark.parametrize(
    "new",
    [
        changed(),
        changed(title="Another title", description="other words"),
        changed(properties=properties(more={"type": "integer", "default": 0})),
    ],
)
def test_words_and_further_optional_fields_break_nobody(new):
    assert contracts.breaks(OBJECT, new) == []


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (changed(properties={name: OBJECT["properties"][name] for name in ("id", "many")}), "data.note is gone"),
        (changed(required=["id"]), "data.many is no longer always there"),
        (changed(required=["id", "many", "note"]), "data.note is required now"),
        (
            changed(properties=properties(more={"type": "string"}), required=["id", "many", "more"]),
            "data.more is new and required",
        ),
        (changed(properties=properties(id={"type": "integer"})), 'data.id: type was "string", is "integer"'),
        (changed(properties=properties(note={"type": "string"})), "data.note may be something else now"),
        (
            changed(properties=properties(note={"anyOf": [{"type": "integer"}, {"type": "null"}]})),
            'data.note|0: type was "string"',
        ),
        (changed(**{"$defs": {"One": {"type": "object", "properties": {}}}}), "data.many[].name is gone"),
    ],
)
def test_what_would_break_readers_is_found(new, said):
    found = contracts.breaks(OBJECT, new)
    assert any(line.startswith(said) for line in found), found


def test_a_published_type_cannot_be_changed_or_dropped_by_writing_again(tmp_path: Path):
    published = contracts.schemas()
    older = json.loads(json.dumps(published["ingest.dataset.completed.v1"]))
    older["properties"]["checksum"] = {"type": "string"}
    folder = tmp_path / "schemas"
    folder.mkdir()
    for name, document in (("ingest.dataset.completed.v1", older), ("ingest.dataset.archived.v1", older)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    lines = contracts.broken(tmp_path, published)
    assert [line.split(" ")[0] for line in lines] == ["ingest.dataset.archived.v1", "ingest.dataset.completed.v1:"]
    before = {path: path.read_text() for path in folder.iterdir()}
    assert contracts.main([], tmp_path) == 1
    assert {path: path.read_text() for path in folder.iterdir()} == before


def test_ids_in_examples_are_time_ordered():
    for type in EVENTS:
        given = example(type)
        assert ids.time_of(UUID(given["runid"])) <= ids.time_of(UUID(given["id"]))
