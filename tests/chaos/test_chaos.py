"""A short mixed run: faults drawn by a seed, several at once, and every promise kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

SECONDS = 100
LEASE_SECONDS = 6
"""Shorter than the default, so that what waits for a lost lease does not take up the run."""


@pytest.fixture(scope="module")
def report():
    ran = subprocess.run(
        [Path(sys.executable).with_name("millrace"), "chaos", "--seconds", str(SECONDS), "--json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MILLRACE_LEASE_SECONDS": str(LEASE_SECONDS)},
        stdout=subprocess.PIPE,
    )
    found = json.loads(ran.stdout)
    return {**found, "code": ran.returncode}


@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_happens_twice_whatever_dies(report):
    assert report["broken"] == [], report["words"]
    assert report["code"] == 0
    assert report["accepted"] == report["succeeded"] + report["failed"] + report["cancelled"]
    assert report["wrongly_ended"] == 0, report["words"]


def test_the_run_was_one_worth_its_name(report):
    assert report["accepted"] > 3 * SECONDS
    [mixed] = report["faults"]
    assert len(set(mixed["injected"])) > SECONDS / 12
