"""A benchmark of seconds, of ours alone: it runs, counts every job, and reports in the shape that all keep."""

import json
import subprocess
import sys
from pathlib import Path

from infra.local.stack import ROOT


def test_the_benchmark_of_jobs_measures_ours():
    command = [str(Path(sys.executable).with_name("millrace")), "bench", "jobs"]
    options = ["--only", "ours", "--kinds", "noop", "--cases", "complete", "--rounds", "1", "--scale", "0.02"]
    done = subprocess.run([*command, *options, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == {"figures", "ratios", "conditions"}
    figures = {measure: found["median"] for measure, found in found["figures"]["ours"].items()}
    assert figures["complete.noop.end_to_end_per_s"] > 0
    assert figures["complete.noop.drain_per_s"] > 0
    assert "enqueued a second, library call" in [target["target"] for target in found["ratios"]["targets"]]
