"""`millrace bench …`: benchmarks, which come with the repository and not with the installed package."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import typer

from clients.cli.errors import BadInput

app = typer.Typer(help="Benchmarks; each with servers of its own.", rich_markup_mode=None)
_ROOT = Path(__file__).parents[2]


@app.callback()
def bench() -> None:
    """Keeps `jobs` a command of its own while it is the only one."""


@app.command("jobs", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench_jobs(context: typer.Context) -> None:
    """Measure jobs a second, latency and cost beside other task queues; `--help` has the options."""
    _run("bench.jobs", context.args)


def _run(module: str, arguments: list[str]) -> NoReturn:
    """In place of this process, so that Ctrl-C and the exit code are the benchmark's own."""
    os.chdir(_ROOT)
    if not (_ROOT / "bench").is_dir() or find_spec("bench") is None:
        raise BadInput("the benchmarks are in Millrace's repository, and not in the installed package")
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  # our own module
