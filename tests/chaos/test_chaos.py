"""A short mixed run: faults drawn by a seed, several at once, and every promise kept. The control breaks some."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

SECONDS = 85
LEASE_SECONDS = 6
"""Shorter than the default, so that what waits for a lost lease does not take up the run."""


def run(*options):
    ran = subprocess.run(
        [Path(sys.executable).with_name("millrace"), "chaos", *options, "--json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MILLRACE_LEASE_SECONDS": str(LEASE_SECONDS)},
        stdout=subprocess.PIPE,
    )
    return {**json.loads(ran.stdout), "code": ran.returncode}


@pytest.fixture(scope="module")
def report():
    return run("--seconds", str(SECONDS))


@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_happens_twice_whatever_dies(report):
    assert report["broken"] == [], report["words"]
    assert report["code"] == 0
    assert report["accepted"] == report["succeeded"] + report["failed"] + report["cancelled"]


def test_the_run_was_one_worth_its_name(report):
    assert report["accepted"] > 3 * SECONDS
    assert report["limited"] > SECONDS
    [mixed] = report["faults"]
    assert len(set(mixed["injected"])) > SECONDS / 12


def test_stock_celery_is_seen_to_lose_and_to_repeat():
    found = run("--stock", "--faults", "api-kill-commit", "--seconds", "6")
    assert found["duplicated_effects"] > 0, "a request whose answer was lost was asked again, and done again"
    assert found["rolled_back_ran"] > 0
    assert found["code"] == 0, "of the control nothing else is expected"
