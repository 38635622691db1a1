"""The repository as these tests see it."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "shared", "infra", "clients")


@cache
def files() -> tuple[Path, ...]:
    """What is committed or would be: every file that is not ignored."""
    listed = subprocess.run(
        # The tree may belong to another user than the one who tests it.
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return tuple(sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()}))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def services() -> set[str]:
    """The folders below services/ that hold files."""
    found = {path.relative_to(ROOT / "services").parts for path in files() if path.is_relative_to(ROOT / "services")}
    return {parts[0] for parts in found if len(parts) > 1}


def modules(*packages: str) -> Iterator[tuple[str, Path, ast.Module]]:
    """Dotted name, path and syntax tree of each module of the packages."""
    for path in files():
        name = relative(path)
        if path.suffix == ".py" and name.split("/")[0] in packages:
            dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield dotted, path, ast.parse(path.read_bytes())


def imports(tree: ast.Module) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
