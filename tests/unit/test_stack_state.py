"""Ports, secrets and the state folder."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import ports, secrets
from infra.local.errors import AlreadyRunning, BadPort, BadState, PortTaken
from infra.local.state import Lock, State, holder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def test_ports_follow_the_base_and_the_choice() -> None:
    chosen = ports.from_base(9000, {"smtp": 2525})
    assert chosen["api"] == 9000
    assert chosen["ingest"] == 9001
    assert chosen["smtp"] == 2525
    assert tuple(chosen) == ports.NAMES


@pytest.mark.parametrize(
    ("base", "chosen", "reason"),
    [
        (0, {}, "port 0 (api) is not between 1 and 65535"),
        (65530, {}, "port 65536 (smtp) is not between 1 and 65535"),
        (9000, {"api": 9001}, "port 9001 is given to both api and ingest"),
        (9000, {"valkey": 70000}, "port 70000 (valkey) is not between 1 and 65535"),
    ],
)
def test_impossible_ports_are_refused(base: int, chosen: dict[str, int], reason: str) -> None:
    with pytest.raises(BadPort) as refused:
        ports.from_base(base, chosen)
    assert str(refused.value) == reason


def test_free_ports_are_different_and_can_be_bound() -> None:
    chosen = ports.free()
    assert len(set(chosen.values())) == len(ports.NAMES)
    ports.check(chosen)


def test_a_taken_port_is_named_with_its_setting_and_holder() -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as refused:
            ports.check({"reports": port})
    assert str(refused.value).startswith(f"port {port} (reports) is taken by ")
    assert f"(process {os.getpid()})" in str(refused.value)
    assert "--reports-port N or --port-base N" in str(refused.value)


def test_secrets_are_made_once_and_private(state: State) -> None:
    first, second = secrets.load(state), secrets.load(state)
    assert (first.passwords, first.keys, first.stack) == (second.passwords, second.keys, second.stack)
    assert len({*first.passwords.values(), *first.keys.values()}) == len(first.passwords) + len(first.keys)
    for path in (state.path("secrets.json"), first.signing_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.signing_key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_secrets_do_not_show(state: State) -> None:
    loaded = secrets.load(state)
    for secret in (*loaded.passwords.values(), *loaded.keys.values()):
        assert secret not in repr(loaded)
        assert secret not in loaded.static_keys()


def test_a_secret_that_a_later_version_needs_is_added(state: State) -> None:
    first = secrets.load(state)
    kept = state.read("secrets.json")
    del kept["keys"]["prometheus"]
    state.write("secrets.json", kept)
    second = secrets.load(state)
    assert second.keys["prometheus"] != first.keys["prometheus"]
    assert second.keys["operator"] == first.keys["operator"]


def test_static_keys_name_every_account_with_its_scopes(state: State) -> None:
    accounts = json.loads(secrets.load(state).static_keys())
    assert accounts["operator"]["scopes"] == ["operator"]
    assert accounts["ingest"]["scopes"] == ["events"]
    assert accounts["telemetry"]["scopes"] == ["spans"]
    assert accounts["prometheus"]["scopes"] == ["metrics"]


def test_one_stack_a_folder(state: State) -> None:
    assert holder(state) is None
    with Lock(state):
        assert holder(state) == os.getpid()
        with pytest.raises(AlreadyRunning, match=f"already running on .*process {os.getpid()}"), Lock(state):
            pass
    assert holder(state) is None


def test_the_lock_of_a_killed_stack_is_free(state: State) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from infra.local.state import Lock, State\n"
        "lock = Lock(State(Path(sys.argv[1]))).__enter__(); print('held', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, str(state.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        assert holder(state) == other.pid
        other.kill()
        other.wait()
        assert holder(state) is None
        with Lock(state):
            pass


def test_damaged_state_is_named(state: State) -> None:
    state.path("access.json").write_text("{")
    with pytest.raises(BadState, match=r"access\.json is damaged"):
        state.read("access.json")
    state.path("access.json").write_text("[]")
    with pytest.raises(BadState, match=r"access\.json is damaged"):
        state.read("access.json")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadState, match="cannot hold the stack's state"):
        State(tmp_path / "file" / "state").create()
    assert holder(State(tmp_path / "file" / "state")) is None
