"""What is written is true: links lead somewhere, commands exist, tables say what the code says."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from clients.cli.app import app as command
from infra.local import ports
from services.api.routes import gateway
from shared.contracts.catalog import EVENTS, SERVICES
from shared.ledger import schema
from shared.settings import Settings
from tests.architecture.tree import ROOT, files, relative

PAGES = [path for path in files() if path.suffix == ".md"]
OWNERS_WORDS = ("owns", "publishes", "subscribes to", "queues")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of each table row whose first cell is code."""
    found = re.findall(r"^\| `.*\|$", text(name), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in found]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), f"{relative(page)} links to {target}"
        if heading:
            assert heading in {anchor(line) for line in linked.read_text().splitlines() if line.startswith("#")}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def commands(app: typer.Typer) -> set[str]:
    found = {each.name or each.callback.__name__ for each in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name or "jobs"
        found |= {f"{name} {each}" for each in commands(group.typer_instance)}
    return found


def written_commands() -> dict[str, set[str]]:
    """Each `millrace …` of the pages, and where it stands."""
    known = commands(command)
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for words in re.findall(
            r"(?:`|^|/)millrace ((?:(?:jobs|batches|schedules|workers|limits|bench) )?[a-z]+)",
            page.read_text(),
            re.MULTILINE,
        ):
            found.setdefault(words, set()).add(relative(page))
    assert known
    return found


def test_commands_that_are_written_down_exist():
    known = commands(command)
    assert {words: pages for words, pages in written_commands().items() if words not in known} == {}


def test_the_reference_has_every_command():
    known = commands(command)
    reference = {re.sub(r"[^a-z ].*", "", cells[0].strip("`").removeprefix("millrace ")).strip()
                 for cells in rows("docs/reference/command.md")}  # fmt: skip
    assert reference == known


def test_make_targets_that_are_written_down_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{relative(page)}: make {target}"


def test_modules_that_are_run_exist():
    for page in PAGES:
        for module in re.findall(r"python -m ([a-z_.]+)", page.read_text()):
            assert find_spec(module.rstrip(".")), f"{relative(page)}: python -m {module}"


def test_paths_of_the_api_exist():
    own = {path for service in SERVICES for path in documented(service)}
    for page in PAGES:
        for path in re.findall(r"(?:GET|POST|DELETE|PUT) (/v1/[\w/{}-]+)", page.read_text()):
            shape = re.sub(r"/(?:\{[^}]*\}|[A-Z]+|…)(?=/|$)", "/*", path)
            assert shape in own, f"{relative(page)}: {path}"


def documented(service: str) -> set[str]:
    import json

    paths = json.loads(text(f"shared/contracts/openapi/{service}.json"))["paths"]
    return {re.sub(r"\{[^}]*\}", "*", path) for path in paths} | {"/v1/events"}


def settings() -> dict[str, tuple[str, ...]]:
    """Every variable that a settings class reads, with its default as it is written down."""
    found: dict[str, tuple[str, ...]] = {}
    for service in SERVICES:
        module = import_module(f"services.{service}.settings")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Settings):
                for name, field in value.model_fields.items():
                    variable = str(field.validation_alias or f"MILLRACE_{name.upper()}")
                    found[variable] = ("required",) if field.is_required() else (str(field.default), "")
    return found


def test_the_reference_has_every_setting_with_its_default():
    written = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("docs/reference/settings.md")}
    expected = settings()
    assert set(written) == set(expected)
    for variable, default in written.items():
        required = expected[variable] == ("required",)
        assert (default == "required") == required, variable
        if re.fullmatch(r"[\d.]+|[A-Z]{4,}|json|\{\}", default):
            assert default == expected[variable][0], variable


def test_the_reference_has_every_event_and_what_it_becomes():
    written = {cells[0].strip("`"): re.findall(r"`([^`]+)`", cells[2]) for cells in rows("docs/reference/events.md")}
    assert written == {type: list(event.consumers) for type, event in EVENTS.items()}


def test_the_reference_has_every_job():
    written = {cells[0].strip("`"): tuple(cells[1:4]) for cells in rows("docs/reference/jobs.md")}
    expected = {
        kind: (f"`{task.args.queue}`", f"{task.time_limit:g} s", str(task.args.retry.max_attempts))
        for service in SERVICES
        for kind, task in import_module(f"services.{service}.worker").service.tasks.by_kind.items()
    }
    assert written == expected


def test_ports_are_those_of_the_stack():
    chosen = ports.from_base(ports.DEFAULT_BASE)
    shown = dict(re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| (\d+) \|", text("README.md"), re.MULTILINE))
    assert shown == {service: str(chosen[service]) for service in SERVICES}
    reference = text("docs/reference/processes.md")
    for name in ("flower", "mailbox", "smtp", "postgres", "valkey"):
        assert str(chosen[name]) in reference, name


def test_the_state_machine_has_the_moves_that_the_database_allows():
    allowed = set(re.findall(r"\('(\w+)', '(\w+)'\)", schema.V1))
    drawn = re.findall(r"^  (\w+) --> (\w+)$", text("docs/state-machine.md"), re.MULTILINE)
    assert set(drawn) == allowed
    assert len(drawn) == len(allowed)


def test_the_front_page_says_in_ten_lines_what_it_is():
    paragraphs = text("README.md").split("\n## ")[0].splitlines()[1:]
    assert len([line for line in paragraphs if line]) <= 10


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_on_one_page_what_it_is(service):
    page = text(f"services/{service}/README.md")
    for word in OWNERS_WORDS:
        assert re.search(rf"^(?:#+ |\| |\*\*){word}\b", page, re.MULTILINE | re.IGNORECASE), word
    assert re.search(r"^## Runbook$", page, re.MULTILINE)
    assert len(page.splitlines()) <= 120


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_names_what_it_publishes_hears_queues_and_reads(service):
    page = text(f"services/{service}/README.md")
    found = import_module(f"services.{service}.worker").service
    own = {type for type, event in EVENTS.items() if event.producer() == service}
    heard = {event.type for event in found.subscriptions}
    named = own | (heard if heard != set(EVENTS) else set())  # who hears everything need not list it
    named |= set(found.queues) | set(found.tasks.by_kind)
    named |= {found.event_queue().name} if found.event_queue() else set()
    named |= {variable for variable in settings() if variable.startswith(f"{service.upper()}_")}
    assert {name for name in named if f"`{name}`" not in page} == set()


def decisions() -> list[Path]:
    return sorted(path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md")


def test_decisions_are_numbered_and_listed():
    assert [int(path.name[:4]) for path in decisions()] == list(range(1, len(decisions()) + 1))
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", text("docs/decisions/README.md"))
    assert listed == [path.name for path in decisions()]


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.name)
def test_a_decision_says_why_and_what_would_undo_it(path):
    headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "What would change our mind"]
    assert path.read_text().startswith(f"# {int(path.name[:4])}. ")


def test_the_gateway_is_told_about_as_it_is():
    assert set(gateway.SERVICES.values()) == set(SERVICES) - {"api"}
