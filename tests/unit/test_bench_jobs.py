"""The benchmark of jobs: what it makes of figures, and how it counts statements."""

import json

import pytest

from bench.jobs.__main__ import main
from bench.jobs.report import Report
from bench.jobs.statements import tally

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
    found = json.loads(report.as_json())
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
    report.add("ours", "start", {"p99_ms": 31.0}, [])
    said = report.as_text()
    assert "| ours noop | 4,000 (3,000-5,000) |" in said
    assert "| commit to start, p99 in ms | <= 30 | 31 | not reached |" in said


@pytest.mark.parametrize(
    "arguments", [["--only", "nobody"], ["--cases", "all"], ["--rounds", "0"], ["--scale", "x"], ["--kinds", ""]]
)
def test_bad_input_is_told_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main(arguments))
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("bench jobs: ")
