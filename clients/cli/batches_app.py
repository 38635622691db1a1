"""`millrace batches …`: the commands and their options; the work is in `batches`."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.options import JsonOption, StateOption, folder

app = typer.Typer(help="Batches of all services: jobs in steps.", rich_markup_mode=None)

Which = Annotated[str, typer.Argument(metavar="BATCH", help="A batch's id.")]


@app.command("list")
def list_(
    batch_state: Annotated[
        str | None, typer.Option("--batch-state", help="running, ending, succeeded, failed or cancelled.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Of one run.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """List batches, the newest first."""
    from clients.cli import batches

    batches.list_batches(folder(state), batch_state, run, limit, as_json=as_json)


@app.command()
def show(batch: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show one batch: which step is open, and how the jobs of each step stand."""
    from clients.cli import batches

    batches.show_batch(folder(state), batch, as_json=as_json)


@app.command()
def start(
    file: Annotated[
        Path, typer.Argument(help="JSON: steps, each a list of jobs (kind, args, …); name; on_failure. - for stdin.")
    ],
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Owe the jobs of a batch, all or none."""
    from clients.cli import batches

    batches.start_batch(folder(state), file, as_json=as_json)


@app.command()
def burst(
    definition: Annotated[str, typer.Argument(metavar="DEFINITION", help="A report definition's name or id.")],
    file: Annotated[
        Path, typer.Argument(help="JSON: a list of recipients (name, and only: their rows' columns). - for stdin.")
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Which one, of a definition that is made for every dataset.")
    ] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Render one report of a definition for each recipient, of their rows alone."""
    from clients.cli import batches

    batches.start_burst(folder(state), definition, file, dataset, as_json=as_json)


@app.command()
def cancel(batch: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Call all jobs of a batch off that have not ended."""
    from clients.cli import batches

    batches.cancel_batch(folder(state), batch, as_json=as_json)
