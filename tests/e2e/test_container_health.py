"""The health checks of the containers, asked of real processes."""

import os
import subprocess
import sys

import pytest

from infra.docker import health
from tests.architecture.tree import ROOT


def ask(system, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The check as the container runs it, with the environment of ingest's processes."""
    told = {"PATH": os.environ["PATH"], **system.stack._environment("ingest"), **environment}
    return subprocess.run(
        [sys.executable, "-m", "infra.docker.health", *arguments], cwd=ROOT, env=told, capture_output=True, text=True
    )


@pytest.mark.parametrize("check", ["worker", "beat"])
def test_a_process_that_works_is_healthy(system, check):
    ran = ask(system, check, "ingest")
    assert ran.returncode == 0, ran.stderr


def test_an_http_server_that_can_reach_its_database_is_healthy(system, monkeypatch):
    monkeypatch.setattr(health, "PORT", system.stack.ports["ingest"])
    assert health.main(["http"]) == 0
    assert health.main(["http", "/nothing-here"]) == 1


def test_what_is_not_there_is_not_healthy(system, monkeypatch, capsys):
    monkeypatch.setattr(health, "PORT", 1)
    assert health.main(["http"]) == 1
    # The role of ingest sees no Beat of reports.
    ran = ask(system, "beat", "reports")
    assert (ran.returncode, "no Beat of reports" in ran.stderr) == (1, True)
    ran = ask(system, "worker", "ingest", MILLRACE_BROKER_URL="redis://127.0.0.1:1/0")
    assert ran.returncode == 1
    ran = ask(system, "beat", "ingest", MILLRACE_DATABASE_URL="postgresql://ingest:wrong@127.0.0.1:1/millrace")
    assert ran.returncode == 1
    assert "wrong" not in ran.stderr


def test_a_check_that_does_not_exist_is_said(capsys):
    assert health.main(["everything"]) == 2
    assert "http, worker, beat" in capsys.readouterr().err
