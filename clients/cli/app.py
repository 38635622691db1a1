"""The commands and their options; the work is in the modules they call."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli import batches_app, bench_app, fleet_app, jobs_app, limits_app, schedules_app
from clients.cli.options import JsonOption, StateOption, folder

app = typer.Typer(
    name="millrace",
    help="Data in, reports out, people told.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(jobs_app.app, name="jobs")
app.add_typer(batches_app.app, name="batches")
app.add_typer(fleet_app.workers_app, name="workers")
app.command()(fleet_app.queues)
app.add_typer(schedules_app.app, name="schedules")
app.add_typer(limits_app.app, name="limits")
app.add_typer(bench_app.app, name="bench")


def _port(name: str, what: str) -> object:
    return typer.Option(f"--{name}-port", help=f"Port of {what}.", show_default=False)


@app.command()
def up(
    state: StateOption = None,
    port_base: Annotated[
        int | None,
        typer.Option("--port-base", help="First of the stack's ports.", show_default="the last start's, else 8700"),
    ] = None,
    api: Annotated[int | None, _port("api", "the gateway")] = None,
    ingest: Annotated[int | None, _port("ingest", "ingest's own API")] = None,
    reports: Annotated[int | None, _port("reports", "reports' own API")] = None,
    notifications: Annotated[int | None, _port("notifications", "notifications' own API")] = None,
    flower: Annotated[int | None, _port("flower", "Flower")] = None,
    mailbox: Annotated[int | None, _port("mailbox", "the mailbox's page")] = None,
    smtp: Annotated[int | None, _port("smtp", "the mailbox's SMTP")] = None,
    postgres: Annotated[int | None, _port("postgres", "PostgreSQL")] = None,
    valkey: Annotated[int | None, _port("valkey", "Valkey")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Send the sample.", show_default="until it once succeeded")
    ] = None,
) -> None:
    """Set up and start the whole system; Ctrl-C stops it."""
    from clients.cli.up import up as run

    given = {
        "api": api,
        "ingest": ingest,
        "reports": reports,
        "notifications": notifications,
        "flower": flower,
        "mailbox": mailbox,
        "smtp": smtp,
        "postgres": postgres,
        "valkey": valkey,
    }
    run(folder(state), port_base, {name: port for name, port in given.items() if port is not None}, demo)


@app.command()
def demo(
    file: Annotated[Path | None, typer.Argument(help="A CSV file.", show_default="a generated sample")] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="On a stack of its own, stopped afterwards.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the ephemeral stack's folder.")] = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Send a CSV through the system until its report is delivered."""
    from clients.cli import demo as command
    from clients.cli.errors import BadInput

    if ephemeral:
        command.ephemeral(file, as_json=as_json, keep=keep)
    elif keep:
        raise BadInput("--keep is for --ephemeral: a running stack keeps its folder anyway")
    else:
        command.demo(folder(state), file, as_json=as_json)


@app.command()
def status(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show the stack's processes and addresses."""
    from clients.cli.status import status as run

    run(folder(state), as_json=as_json)


@app.command()
def stop(state: StateOption = None) -> None:
    """Stop the stack and wait until nothing of it runs."""
    from clients.cli.status import stop as run

    run(folder(state))


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="A service, or one process such as ingest-worker.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last lines of each log.")] = 50,
    raw: Annotated[bool, typer.Option("--raw", help="As they are written, one JSON object a line.")] = False,
    state: StateOption = None,
) -> None:
    """Show what a service logged."""
    from clients.cli.logs import logs as run

    run(folder(state), service, lines=lines, follow=follow, raw=raw)


@app.command()
def trace(
    run: Annotated[str | None, typer.Argument(help="A run's id.", show_default="the last run")] = None,
    state: StateOption = None,
) -> None:
    """Draw a run's trace: every hop of every service, when and how long."""
    from clients.cli.jobs import id_of
    from clients.cli.tables import show_trace

    show_trace(folder(state), None if run is None else id_of(run, "run"))


@app.command()
def runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    state: StateOption = None,
) -> None:
    """List the latest runs."""
    from clients.cli.tables import list_runs

    list_runs(folder(state), limit)


Pausable = Annotated[
    str, typer.Argument(metavar="QUEUE_OR_KIND", help="Such as ingest.jobs (a queue) or ingest.dataset.load (a kind).")
]


@app.command()
def pause(what: Pausable, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Begin no jobs of a queue or kind until it is resumed; what runs goes on."""
    from clients.cli import limits

    limits.pause(folder(state), what, as_json=as_json)


@app.command()
def resume(what: Pausable, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Go on with a queue or kind that was paused."""
    from clients.cli import limits

    limits.resume(folder(state), what, as_json=as_json)


@app.command()
def chaos(
    faults: Annotated[
        str,
        typer.Option("--faults", help="Names or groups of faults, joined by commas; all; mixed, for a drawn plan."),
    ] = "mixed",
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=1,
            max=86400,
            help="How long a mixed plan goes on, and at most each fault alone.",
            show_default="120, and what each needs",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the plan and of what is chosen at random.")] = 1,
    stock: Annotated[bool, typer.Option("--stock", help="Break stock Celery instead: the control.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Break a system of its own on purpose, and count what became of what it had accepted."""
    from clients.cli.chaos import chaos as run

    run([name.strip() for name in faults.split(",") if name.strip()], seconds, seed, stock=stock, as_json=as_json)
