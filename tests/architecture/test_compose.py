"""docker-compose.yml: valid, closed, and telling every process exactly the variables that its code reads."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest
import yaml

from infra import provision
from infra.docker import environment as compose_environment
from infra.local import secrets
from infra.local.state import State
from shared.auth import digest
from shared.contracts.catalog import SERVICES
from shared.settings import Settings
from tests.architecture.tree import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, Any] = COMPOSE["services"]
PROCESSES = ("http", "worker", "beat")
TELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT"}
"""Read by shared/telemetry.py and by OpenTelemetry's SDK, in every process of a service."""
OTHERS = {"MP_DATABASE", "MP_MAX_MESSAGES", "MP_UI_AUTH", "POSTGRES_PASSWORD", "VALKEYCLI_AUTH", "REDISCLI_AUTH"}
"""What the images of others read."""


def settings(service: str) -> type[Settings]:
    """The settings class that a service's processes are made with."""
    module = import_module(f"services.{service}.settings")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"services/{service}/settings.py has one settings class"
    return found[0]


def variables(service: str) -> set[str]:
    """The environment variables that the settings class reads."""
    prefix = Settings.model_config["env_prefix"]
    fields = settings(service).model_fields
    return {str(field.validation_alias or prefix + name.upper()) for name, field in fields.items()}


VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\}")


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """The text as compose reads it. Raises KeyError for a variable that must be set and is not."""

    def replace(found: re.Match[str]) -> str:
        value = values.get(found["name"], "")
        if value or found["how"] is None:
            return value
        if found["how"] == ":?":
            raise KeyError(found["name"])
        return found["rest"]

    return VARIABLE.sub(replace, text)


def asked_for() -> set[str]:
    """The variables that the file itself needs."""
    return {found["name"] for found in VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())}


def example() -> set[str]:
    """The names of .env.example."""
    return set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


@pytest.fixture
def drawn(tmp_path) -> dict[str, str]:
    """What `python -m infra.docker.environment` would write."""
    return compose_environment.variables(secrets.load(State(tmp_path)))


def test_the_file_is_what_compose_specifies():
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(ROOT / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("service", SERVICES)
def test_a_process_is_told_exactly_what_its_settings_read(service, process):
    told = set(CONTAINERS[f"{service}-{process}"]["environment"])
    assert told - TELEMETRY == variables(service)
    assert told >= TELEMETRY


def test_flower_is_told_what_api_reads_and_who_may_look():
    assert set(CONTAINERS["flower"]["environment"]) == variables("api") | TELEMETRY | {"FLOWER_BASIC_AUTH"}


def test_the_provisioning_is_told_exactly_what_it_reads():
    class Recorder(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return "x"

    asked: set[str] = set()
    provision._from_environment(Recorder())
    assert set(CONTAINERS["provision"]["environment"]) == asked


def test_others_are_told_what_they_read():
    ours = {name for name, container in CONTAINERS.items() if "build" in container}
    told = {
        variable
        for name, container in CONTAINERS.items()
        if name not in ours
        for variable in container.get("environment", {})
    }
    read = set(re.findall(r"\$\{env:(\w+)\}", (ROOT / "infra/otel/collector.yaml").read_text()))
    assert told == OTHERS | read


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_is_told_are_valid_settings(service, drawn, monkeypatch):
    for name in variables(service):
        monkeypatch.delenv(name, raising=False)
    for name, value in CONTAINERS[f"{service}-http"]["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, interpolated(value, drawn))
    read = settings(service)()
    assert set(read.service_urls) == set(SERVICES)
    assert set(read.static_keys) == set(secrets.ACCOUNTS)
    assert read.dsn.startswith(f"postgresql://{service}:{drawn[f'MILLRACE_{service.upper()}_PASSWORD']}@postgres")
    own = drawn[f"MILLRACE_{service.upper()}_KEY"]
    assert read.static_keys[service].sha256 == digest(own)


def test_urls_of_services_lead_to_containers():
    told = json.loads(CONTAINERS["api-http"]["environment"]["MILLRACE_SERVICE_URLS"])
    assert told == {service: f"http://{service}-http:8000" for service in SERVICES}
    assert all(f"{service}-http" in CONTAINERS for service in SERVICES)


def test_the_drawn_environment_is_all_that_the_file_needs(drawn):
    needed = set()
    for found in VARIABLE.finditer((ROOT / "docker-compose.yml").read_text()):
        if found["how"] == ":?":
            needed.add(found["name"])
    assert needed <= set(drawn)
    assert set(drawn) | asked_for() == example()


def test_a_variable_that_is_missing_is_told_by_name(drawn):
    del drawn["VALKEY_PASSWORD"]
    with pytest.raises(KeyError, match="VALKEY_PASSWORD"):
        interpolated(CONTAINERS["api-http"]["environment"]["MILLRACE_BROKER_URL"], drawn)


def test_the_environment_is_written_once_and_kept(tmp_path):
    target = compose_environment.write(tmp_path)
    first = target.read_text()
    target.write_text("API_PORT=9000\n" + first)
    assert compose_environment.write(tmp_path).read_text() == "API_PORT=9000\n" + first
    assert target.stat().st_mode & 0o777 == 0o600
    key = tmp_path / compose_environment.SIGNING_KEY
    assert key.stat().st_mode & 0o777 == 0o444
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert key.read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_nothing_listens_beyond_the_host():
    published = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_every_process_comes_back_and_can_be_asked_how_it_is():
    for name, container in CONTAINERS.items():
        wanted = "no" if name == "provision" else "unless-stopped"
        assert container["restart"] == wanted, name
        if name not in ("provision", "collector", "jaeger"):  # the last two images have nothing to ask with
            assert container["healthcheck"]["test"], name


def test_our_processes_can_do_no_more_than_they_must():
    for name, container in CONTAINERS.items():
        if "build" in container:
            assert container["read_only"] is True, name
            assert container["cap_drop"] == ["ALL"], name
            assert container["security_opt"] == ["no-new-privileges:true"], name
            assert "privileged" not in container


def test_images_of_others_have_a_version():
    images = {name: interpolated(c["image"], {}) for name, c in CONTAINERS.items() if "build" not in c}
    assert [name for name, image in images.items() if not re.search(r":v?\d", image)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_processes_are_started_as_on_one_machine(service):
    worker = f"celery -A services.{service}.worker worker -n {service}@%h --loglevel INFO"
    assert " ".join(CONTAINERS[f"{service}-worker"]["command"]).startswith(worker)
    assert (
        " ".join(CONTAINERS[f"{service}-beat"]["command"])
        == f"celery -A services.{service}.worker beat --loglevel INFO"
    )
    assert "command" not in CONTAINERS[f"{service}-http"]
    for process in PROCESSES:
        assert CONTAINERS[f"{service}-{process}"]["build"]["target"] == service


def test_the_signing_key_is_given_to_who_signs():
    holders = {name for name, container in CONTAINERS.items() if "signing-key" in container.get("secrets", [])}
    assert holders == {"api-http"}
