"""What messages say."""

import pytest
from jinja2.sandbox import SecurityError

from services.notifications.adapters import templates
from services.notifications.adapters.templates import render
from services.notifications.handlers import SUBSCRIPTIONS

EVENTS = {
    "reports.report.rendered.v1": {
        "definition": "overview",
        "title": "Orders, week 47",
        "dataset": "orders",
        "version": 3,
        "figures": [{"label": "Revenue", "value": "1,234,567.89"}, {"label": "Orders", "value": "99,873"}],
    },
    "reports.report.skipped.v1": {
        "definition": "overview",
        "dataset": "orders",
        "reason": {"code": "no_rows", "detail": "There are no rows."},
    },
    "reports.report.failed.v1": {
        "definition": "overview",
        "dataset": "orders",
        "reason": {"code": "column_missing", "detail": "There is no column 'amount'."},
    },
    "reports.burst.completed.v1": {"definition": "overview", "dataset": "orders", "rendered": 41, "failed": 1},
    "ingest.dataset.completed.v1": {
        "name": "orders",
        "version": 3,
        "rows_loaded": 99873,
        "rows_rejected": 127,
        "columns": [{"name": "amount", "type": "decimal"}],
    },
    "ingest.dataset.failed.v1": {"name": "orders", "reason": {"code": "no_header", "detail": "There is no header."}},
}
FILES = [{"filename": "orders.pdf", "bytes": 184_223, "attached": True, "url": "http://127.0.0.1/v1/artifacts/1"}]


def told(event_type, data, **context):
    event = {"type": event_type, "subject": "s", "time": "2026-11-22T16:00:00Z", "data": data}
    facts = {"event": event, "rule": {"name": "tell the team"}, "links": {"run": "http://127.0.0.1/v1/runs/1"}}
    return render(event_type, {**facts, **context})


def test_every_subscribed_event_has_words_of_its_own():
    assert {event.type for event in SUBSCRIPTIONS} == set(EVENTS)
    assert all(templates.is_known(event.type) for event in SUBSCRIPTIONS)


@pytest.mark.parametrize("event_type", EVENTS)
def test_a_message_names_its_subject_reason_rule_and_run(event_type):
    data = EVENTS[event_type]
    content = told(event_type, data, files=FILES)
    named = data.get("name") or data.get("definition")
    assert named in content.subject + content.text
    for body in (content.text, content.html):
        assert "http://127.0.0.1/v1/runs/1" in body
        assert "tell the team" in body
        assert "22 November 2026, 16:00 UTC" in body
        if "reason" in data:
            assert data["reason"]["detail"] in body.replace("&#39;", "'")
            assert data["reason"]["code"] in body


def test_a_report_shows_figures_and_files():
    content = told("reports.report.rendered.v1", EVENTS["reports.report.rendered.v1"], files=FILES)
    assert content.subject == "Orders, week 47: report on orders"
    for body in (content.text, content.html):
        assert "1,234,567.89" in body
        assert "orders.pdf" in body
        assert "184 kB, attached" in body
        assert "http://127.0.0.1/v1/artifacts/1" in body


def test_a_dataset_shows_its_rows():
    content = told("ingest.dataset.completed.v1", EVENTS["ingest.dataset.completed.v1"])
    assert content.subject == "orders is loaded: 99,873 rows, 127 rejected"
    assert "Rows rejected: 127" in content.text


def test_an_event_without_words_gets_the_default():
    content = told("reports.something.else.v9", {"colour": "green", "nested": {"a": 1}})
    assert content.subject == "reports.something.else.v9: s"
    assert "colour: green" in content.text


@pytest.mark.parametrize("event_type", ["../layout", "default", "layout", "parts", "a/b", ""])
def test_a_type_is_never_a_path(event_type):
    assert not templates.is_known(event_type)
    assert told(event_type, {}).subject.startswith(event_type or ": s")


@pytest.mark.parametrize("event_type", [*EVENTS, "x.y.z.v1"])
def test_whatever_a_field_holds_it_is_shown_and_not_run(event_type):
    hostile = "<script>alert(1)</script>{{ 7 * 7 }}\r\nBcc: eve@example.com"
    data = _every_string(EVENTS.get(event_type, {"colour": "green"}), hostile)
    files = [{**FILES[0], "filename": hostile}]
    content = told(event_type, data, files=files, rule={"name": hostile})
    assert "<script>" not in content.html
    assert "&lt;script&gt;" in content.html
    assert "49" not in content.html
    assert len(content.subject.splitlines()) == 1
    assert not any(line.startswith("Bcc:") for line in content.text.splitlines())


def _every_string(value, text):
    if isinstance(value, dict):
        return {key: _every_string(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [_every_string(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("event_type", [*EVENTS, "x.y.z.v1"])
def test_an_event_that_lacks_everything_still_makes_a_message(event_type):
    content = render(event_type, {"event": {"type": event_type, "data": {}}})
    assert content.text.strip()
    assert content.html.strip()


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ ().__class__ }}", "{{ self._TemplateReference__context }}"]
)
def test_a_template_sees_no_internals(source):
    assert templates._environment().from_string(source).render() == ""


@pytest.mark.parametrize("source", ["{{ rule.update(name='x') }}", "{{ files.append(1) }}", "{{ ''.__class__() }}"])
def test_a_template_changes_nothing(source):
    with pytest.raises(SecurityError):
        templates._environment().from_string(source).render(rule={"name": "a"}, files=[])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (-5, "-5"),
        (1234.5, "1,234.50"),
        (12.0, "12"),
        (0.00123456, "0.001235"),
        (float("nan"), "nan"),
        (True, "True"),
        ("already 1,5", "already 1,5"),
    ],
)
def test_numbers_are_grouped(value, shown):
    assert templates._number(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (184_223, "184 kB"), (84_223_000, "84.2 MB"), (7.2e12, "7200 GB")],
)
def test_sizes_are_for_people(count, shown):
    assert templates._size(count) == shown
