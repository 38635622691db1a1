"""Benchmarks: what is made of figures, how statements are counted, and that the page has what was measured."""

import json
import re

import pytest

from bench.document import PAGE, TABLES, place
from bench.jobs.__main__ import main
from bench.jobs.report import Report, markdown
from bench.jobs.statements import tally
from infra.measured import END, document, mark

LOG = """\
2026-01-01 00:00:00 UTC [7] probe@millrace LOG:  statement: BEGIN
2026-01-01 00:00:00 UTC [7] probe@millrace LOG:  execute <unnamed>: INSERT INTO job
\tVALUES ($1)
2026-01-01 00:00:00 UTC [8] probe@millrace LOG:  execute _pg3_1: SELECT 1
2026-01-01 00:00:00 UTC [9] probe@elsewhere LOG:  statement: SELECT 2
2026-01-01 00:00:00 UTC [7] probe@millrace ERROR:  duplicate key
2026-01-01 00:00:00 UTC [7] probe@millrace LOG:  statement: COMMIT
"""


def test_statements_are_counted_with_their_transactions():
    assert tally(LOG.splitlines(), "millrace") == (4, 2)


@pytest.fixture
def report():
    made = Report(["ours", "dramatiq"], rounds=2)
    for ours, theirs in ((3000.0, 1000.0), (5000.0, 1100.0)):
        made.add("ours", "complete", {"noop.end_to_end_per_s": ours}, [{"foreign_cores": 0.1, "loop_ms": 12.0}])
        made.add("dramatiq", "complete", {"noop.end_to_end_per_s": theirs}, [])
    return made


def test_a_report_has_medians_ranges_ratios_and_targets(report):
    found = json.loads(json.dumps(report.found()))
    assert found.keys() == {"figures", "ratios", "conditions"}
    assert found["figures"]["ours"] == {
        "complete.noop.end_to_end_per_s": {"median": 4000.0, "min": 3000.0, "max": 5000.0, "runs": 2}
    }
    assert found["ratios"]["vs_dramatiq"] == {"end_to_end": pytest.approx(4000 / 1050, abs=0.001)}
    [target] = found["ratios"]["targets"]
    assert (target["wanted"], target["reached"]) == (">= 2", True)
    assert found["conditions"]["rounds"] == 2
    assert found["conditions"]["foreign_cores"]["max"] == 0.1


def test_a_report_in_words_says_what_was_not_reached(report):
    report.add("ours", "start", {"after_return_p99_ms": 31.0}, [])
    said = markdown(report.found())
    assert "| ours noop | 4,000 (3,000-5,000) |" in said
    assert "| commit to start, p99 in ms | <= 30 | 31 | **not reached** |" in said


def test_the_page_has_the_tables_of_what_was_measured():
    text = PAGE.read_text()
    for bench in TABLES:
        file = f"bench-{bench}.json"
        [said] = re.findall(f"{mark(file)}\n(.*?){END}", text, re.DOTALL)
        kept = PAGE.parent / "measured" / file
        assert said == (place(json.loads(kept.read_text()))[1] if kept.exists() else "Not measured yet.\n")


def test_the_page_is_written_from_reports(report, tmp_path):
    page, file = tmp_path / "page.md", tmp_path / "report.json"
    page.write_text(PAGE.read_text())
    file.write_text(json.dumps(report.found()))
    document(page, [file], place)
    assert markdown(report.found()) in page.read_text()
    assert json.loads((tmp_path / "measured/bench-jobs.json").read_text()) == json.loads(file.read_text())
    file.write_text(json.dumps({**report.found(), "conditions": {"bench": "another"}}))
    with pytest.raises(ValueError, match=r"report\.json holds no report for page\.md"):
        document(page, [file], place)


@pytest.mark.parametrize(
    "arguments", [["--only", "nobody"], ["--cases", "all"], ["--rounds", "0"], ["--scale", "x"], ["--kinds", ""]]
)
def test_bad_input_is_told_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main(arguments))
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("bench jobs: ")
