"""`python -m infra.docker.environment` writes `.env`, from which docker-compose.yml takes every secret.

Secrets are drawn once and kept in `.millrace/compose`; running it again writes the same ones, and keeps the
lines of `.env` that it does not know.
"""

import sys
from pathlib import Path
from typing import Final

from infra.local import secrets
from infra.local.errors import StackError
from infra.local.secrets import SERVICES, Secrets
from infra.local.state import State, write_private

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(".millrace", "compose")
SIGNING_KEY: Final = FOLDER / "signing-key.mounted.pem"
WEB_USER: Final = "millrace"


def variables(found: Secrets) -> dict[str, str]:
    """What docker-compose.yml needs to be told, by name."""
    web = found.passwords["web"]
    return {
        "POSTGRES_PASSWORD": found.passwords["postgres"],
        "VALKEY_PASSWORD": found.passwords["valkey"],
        **{f"MILLRACE_{name.upper()}_PASSWORD": found.passwords[name] for name in SERVICES},
        **{f"MILLRACE_{name.upper()}_KEY": key for name, key in found.keys.items()},
        "MILLRACE_STATIC_KEYS": found.static_keys(),
        "MILLRACE_SIGNING_KEY_FILE": f"./{SIGNING_KEY.as_posix()}",
        "FLOWER_BASIC_AUTH": f"{WEB_USER}:{web}",
        "MAIL_BASIC_AUTH": f"{WEB_USER}:{web}",
    }


def write(root: Path) -> Path:
    """Draws what is missing and writes `.env` in `root`; answers its path. Raises StackError or OSError."""
    folder = root / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = secrets.load(State(folder))
    _mount_signing_key(found.signing_key, root / SIGNING_KEY)
    target = root / ".env"
    write_private(target, _lines(variables(found), target).encode())
    return target


def _mount_signing_key(key: Path, target: Path) -> None:
    """A copy that the container's user may read: a mounted file keeps its mode. On this machine the folder,
    which only its owner may enter, guards it."""
    write_private(target, key.read_bytes())
    target.chmod(0o444)


def _lines(wanted: dict[str, str], target: Path) -> str:
    there = target.read_text().splitlines() if target.exists() else []
    others = [line for line in there if line.partition("=")[0].strip() not in wanted]
    # In single quotes nothing is replaced: the JSON and any $ stay as they are.
    return "\n".join([*others, *(f"{name}='{value}'" for name, value in wanted.items())]) + "\n"


def main() -> int:
    try:
        target = write(ROOT)
    except (StackError, OSError) as error:
        sys.stderr.write(f"environment: {error}\n")
        return 1
    sys.stdout.write(f"{target} is written; docker compose up --build starts the system\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
