"""`millrace queues` and `millrace workers …`: the commands and their options; the work is in `fleet`."""

from typing import Annotated

import typer

from clients.cli.options import JsonOption, StateOption, folder

workers_app = typer.Typer(help="Workers of all services.", rich_markup_mode=None)


def queues(as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show every queue: what waits, since when, what runs, how fast it moves, who works on it."""
    from clients.cli import fleet

    fleet.list_queues(folder(state), as_json=as_json)


@workers_app.callback(invoke_without_command=True)
def workers(context: typer.Context) -> None:
    """Workers of all services; by itself, as `list`."""
    if context.invoked_subcommand is None:
        from clients.cli import fleet

        fleet.list_workers(folder(None), ended=False, as_json=False)


@workers_app.command("list")
def list_(
    ended: Annotated[bool, typer.Option("--ended", help="Also those that stopped in good order within a day.")] = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """List workers: what each takes, how busy it is, when it was heard of last."""
    from clients.cli import fleet

    fleet.list_workers(folder(state), ended=ended, as_json=as_json)


@workers_app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="A worker's name, its beginning before the @, or its id.")],
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Take a worker out: it gets no further jobs, ends those it runs, and stops."""
    from clients.cli import fleet

    fleet.drain_worker(folder(state), worker, as_json=as_json)
