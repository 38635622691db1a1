"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

StateOption = Annotated[
    Path | None, typer.Option("--state", envvar="MILLRACE_STATE", help="The stack's folder.", show_default=".millrace")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def folder(given: Path | None) -> Path:
    """The stack's folder: the given one, else the default."""
    from clients.cli.place import default_folder

    return given or default_folder()
