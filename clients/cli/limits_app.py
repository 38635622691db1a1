"""`millrace limits …`: the commands and their options; the work is in `limits`."""

from typing import Annotated

import typer

from clients.cli.options import JsonOption, StateOption, folder

app = typer.Typer(help="Limits on what all workers of a service together run.", rich_markup_mode=None)

Key = Annotated[
    str,
    typer.Argument(help="queue:NAME, kind:NAME, workspace:ID, key:PREFIX:NAME, or each:PREFIX for every such name."),
]
Service = Annotated[
    str | None, typer.Option("--service", help="Whose rule it is; needed unless the key names a queue or kind.")
]


@app.command("list")
def list_(as_json: JsonOption = False, state: StateOption = None) -> None:
    """List the limits and pauses of all services."""
    from clients.cli import limits

    limits.list_limits(folder(state), as_json=as_json)


@app.command("set")
def set_(
    key: Key,
    concurrency: Annotated[int | None, typer.Option("--concurrency", help="At most so many run at once.")] = None,
    per_second: Annotated[float | None, typer.Option("--per-second", help="At most so many begin a second.")] = None,
    burst: Annotated[int | None, typer.Option("--burst", help="After a quiet time so many begin at once.")] = None,
    weight: Annotated[float | None, typer.Option("--weight", help="A workspace's share beside others.")] = None,
    service: Service = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Make a limit, or replace what it says."""
    from clients.cli import limits

    rule = {"concurrency": concurrency, "per_second": per_second, "burst": burst, "weight": weight}
    limits.set_limit(folder(state), key, rule, service, as_json=as_json)


@app.command()
def delete(key: Key, service: Service = None, state: StateOption = None) -> None:
    """Delete a limit."""
    from clients.cli import limits

    limits.delete_limit(folder(state), key, service)
