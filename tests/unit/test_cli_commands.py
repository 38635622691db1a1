"""The command line's manners: one line a failure, the right exit code, no traceback."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.cli import place, run
from infra.local import ports
from infra.local.state import Lock, State


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the shell that runs the tests, a state folder of the test's own, and the umask as it was."""
    for name in ("MILLRACE_URL", "MILLRACE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MILLRACE_STATE", str(tmp_path / "state"))
    umask = os.umask(0o022)
    yield
    os.umask(umask)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["up", "--api-port", "x"], 2, "Invalid value for '--api-port'"),
        (["up", "--api-port", "0"], 2, "port 0 (api) is not between 1 and 65535"),
        (["up", "--port-base", "70000"], 2, "port 70000 (api) is not between 1 and 65535"),
        (["up", "--smtp-port", "8700"], 2, "port 8700 is given to both api and smtp"),
        (["up", "--what"], 2, "No such option"),
        (["logs"], 2, "Missing argument 'service'"),
        (["logs", "ingest"], 2, "ingest has no log"),
        (["logs", "../secrets"], 2, "../secrets has no log"),
        (["demo", "/no/such.csv"], 2, "/no/such.csv cannot be read: No such file or directory"),
        (["demo", "--ephemeral", "/no/such.csv"], 2, "/no/such.csv cannot be read: No such file or directory"),
        (["demo", "--keep"], 2, "--keep is for --ephemeral"),
        (["demo"], 1, "no stack is running on"),
        (["status"], 1, "start one with `millrace up`"),
        (["runs"], 1, "no stack is running on"),
        (["trace"], 1, "no stack is running on"),
        (["trace", "nope"], 2, "'nope' is no id of a run"),
        (["jobs", "list"], 1, "no stack is running on"),
        (["jobs"], 2, "Missing command"),
    ],
)
def test_failures_are_one_line_on_standard_error(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("millrace: ")
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_help_is_shown_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "demo" in capsys.readouterr().out


def test_stopping_nothing_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stop"]) == 0
    assert "no stack is running" in capsys.readouterr().out


def test_a_second_up_on_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = State(tmp_path / "state")
    state.create()
    with Lock(state):
        assert run(["up"]) == 2
    assert "a stack is already running on" in capsys.readouterr().err


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        given = {**ports.free(), "valkey": port}
        assert run(["up", *(part for name, number in given.items() for part in (f"--{name}-port", str(number)))]) == 2
    assert f"port {port} (valkey) is taken by" in capsys.readouterr().err
    assert not (tmp_path / "state" / "postgres").exists()


def test_a_state_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").touch()
    assert run(["up"]) == 2
    assert "cannot hold the stack's state" in capsys.readouterr().err


def test_a_gateway_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MILLRACE_URL", ports.url(ports.free()["api"]))
    monkeypatch.setenv("MILLRACE_KEY", "k")
    monkeypatch.setattr("clients.client.time.sleep", lambda seconds: None)
    assert run(["runs"]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["runs", "queues"])
@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://127.0.0.1:1", "", "MILLRACE_URL is set without MILLRACE_KEY"),
        ("", "k", "MILLRACE_KEY is set without MILLRACE_URL"),
        ("nonsense", "k", "MILLRACE_URL 'nonsense' is no address"),
        ("http://[::1", "k", "is no address"),
        ("http://127.0.0.1:99999", "k", "is no address"),
        ("http://127.0.0.1:1", "clé", "MILLRACE_KEY is no key"),
    ],
)
def test_half_a_gateway_is_never_taken_for_the_local_stack(
    command: str, url: str, key: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_URL", url)
    monkeypatch.setenv("MILLRACE_KEY", key)
    assert run([command]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    state = State(tmp_path / "state")
    state.create()
    first = {"service": "ingest", "timestamp": "2026-01-01T10:00:00.1Z", "level": "info", "event": "first", "rows": 3}
    third = {"service": "ingest", "timestamp": "2026-01-01T10:00:00.3Z", "level": "error", "event": "third"}
    second = {"service": "ingest", "timestamp": "2026-01-01T10:00:00.2Z", "level": "info", "event": "second"}
    state.log("ingest-worker").write_text(f"{json.dumps(first)}\n{json.dumps(third)}\n")
    state.log("ingest-http").write_text(f"{json.dumps(second)}\nnot json\nhalf a line")
    state.log("reports-http").write_text("elsewhere\n")
    return state.folder


def test_logs_of_a_service_are_merged_by_time(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "ingest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "10:00:00.1 ingest-worker info: first  rows=3" in lines[0].replace("Z", "")
    assert sorted(line.split()[-1] for line in lines[1:]) == ["json", "second", "third"]
    assert not any("elsewhere" in line or "half" in line for line in lines)


def test_logs_of_one_process_and_the_last_line_only(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "ingest-worker", "-n", "1", "--raw"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "third"


def test_a_broken_pipe_ends_quietly(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    assert run(["logs", "ingest"]) == 0


def test_the_default_folder_is_beside_the_project() -> None:
    assert place.default_folder() == Path(__file__).parents[2] / ".millrace"
