"""`millrace jobs …`: the commands and their options; the work is in `jobs`."""

from typing import Annotated

import typer

from clients.cli.options import JsonOption, StateOption, folder

app = typer.Typer(help="Jobs of all services.", rich_markup_mode=None)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs.", show_default=False)]
Run = Annotated[str | None, typer.Option("--run", help="Of one run.")]
Batch = Annotated[str | None, typer.Option("--batch", help="Of one batch.")]
JobState = Annotated[str | None, typer.Option("--job-state", help="queued, running, succeeded, failed or cancelled.")]
Kind = Annotated[str | None, typer.Option("--kind", help="Of one kind, such as reports.report.render.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Of one queue, such as reports.jobs.")]
InLane = Annotated[str | None, typer.Option("--lane", help="Of one lane: urgent, normal or bulk.")]
Workspace = Annotated[str | None, typer.Option("--workspace", help="Of this workspace: with the operator's key.")]
Error = Annotated[str | None, typer.Option("--error", help="With this in their reason.")]
Since = Annotated[str | None, typer.Option("--since", help="Created since: a date, a time, or 30m, 12h, 7d ago.")]
Until = Annotated[str | None, typer.Option("--until", help="Created before.")]
All = Annotated[bool, typer.Option("--all", help="All of the workspace, without another filter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count only.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    run: Run = None,
    batch: Batch = None,
    job_state: JobState = None,
    kind: Kind = None,
    queue: Queue = None,
    lane: InLane = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    workspace: Workspace = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """List jobs, the newest first."""
    from clients.cli import jobs

    wanted = jobs.Filter.of(
        run=run, batch=batch, state=job_state, kind=kind, queue=queue, lane=lane, error=error, since=since, until=until
    )
    jobs.list_jobs(folder(state), wanted, limit, workspace, as_json=as_json)


@app.command()
def create(
    kind: Annotated[str, typer.Argument(help="A public kind, such as api.canary.run.")],
    args: Annotated[str, typer.Option("--args", help="Its arguments, as JSON.")] = "{}",
    lane: Annotated[
        str | None, typer.Option("--lane", help="urgent, normal or bulk.", show_default="the kind's")
    ] = None,
    not_before: Annotated[
        str | None, typer.Option("--not-before", help="Not earlier: a time, or 30m, 12h ahead.")
    ] = None,
    start_by: Annotated[
        str | None,
        typer.Option("--start-by", help="Given up when not begun by then: a time, or 30m, 12h ahead."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="Given up when not done by then: a time, or 30m, 12h ahead.")
    ] = None,
    limit_key: Annotated[
        str | None, typer.Option("--limit-key", help="What limits may count it by: host:example.org.")
    ] = None,
    unique: Annotated[str | None, typer.Option("--unique", help="A key: one job at a time under it.")] = None,
    unique_while: Annotated[
        str | None, typer.Option("--unique-while", help="queued or unfinished.", show_default="unfinished")
    ] = None,
    unique_for: Annotated[str | None, typer.Option("--unique-for", help="Instead: for 30s, 15m, 6h.")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Owe a job of a public kind; with --unique, or be told the one that is there."""
    from clients.cli import create as command

    command.create_job(
        folder(state),
        kind,
        args=args,
        lane=lane,
        not_before=not_before,
        start_by=start_by,
        deadline=deadline,
        limit_key=limit_key,
        unique=unique,
        unique_while=unique_while,
        unique_for=unique_for,
        as_json=as_json,
    )


@app.command()
def show(
    job: Annotated[str, typer.Argument(help="A job's id.")],
    workspace: Workspace = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Show one job: what it is, how it stands, why, every attempt, and what was done to it."""
    from clients.cli import jobs

    jobs.show_job(folder(state), job, workspace, as_json=as_json)


@app.command()
def watch(
    job: Annotated[str, typer.Argument(help="A job's id.")], as_json: JsonOption = False, state: StateOption = None
) -> None:
    """Follow one job to its end: exit code 0 when it succeeded, 1 when it failed or was cancelled."""
    from clients.cli import watch

    watch.watch_job(folder(state), job, as_json=as_json)


@app.command()
def why(
    job: Annotated[str, typer.Argument(help="A job's id.")],
    workspace: Workspace = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Say what a job waits for, or why it ended as it did."""
    from clients.cli import jobs

    jobs.why(folder(state), job, workspace, as_json=as_json)


@app.command()
def retry(
    ids: Ids = None,
    run: Run = None,
    batch: Batch = None,
    job_state: JobState = None,
    kind: Kind = None,
    queue: Queue = None,
    lane: InLane = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    args: Annotated[str | None, typer.Option("--args", help="Other arguments for one job, as JSON.")] = None,
    per_second: Annotated[
        float | None,
        typer.Option("--per-second", help="Of what a filter matches, so many become due a second.", show_default="50"),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Drive failed and cancelled jobs again: those named, or all that the options match."""
    from clients.cli import jobs

    wanted = jobs.Filter.of(
        run=run, batch=batch, state=job_state, kind=kind, queue=queue, lane=lane, error=error, since=since, until=until
    )
    moving = jobs.Moving(folder(state), "retry", dry_run=dry_run, yes=yes, as_json=as_json)
    moving.move(ids or [], wanted, everything=all_, args=args, per_second=per_second)


@app.command()
def cancel(
    ids: Ids = None,
    run: Run = None,
    batch: Batch = None,
    job_state: JobState = None,
    kind: Kind = None,
    queue: Queue = None,
    lane: InLane = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Call waiting and running jobs off: those named, or all that the options match."""
    from clients.cli import jobs

    wanted = jobs.Filter.of(
        run=run, batch=batch, state=job_state, kind=kind, queue=queue, lane=lane, error=error, since=since, until=until
    )
    moving = jobs.Moving(folder(state), "cancel", dry_run=dry_run, yes=yes, as_json=as_json)
    moving.move(ids or [], wanted, everything=all_)


@app.command()
def prioritise(
    ids: Ids = None,
    lane: Annotated[str, typer.Option("--lane", help="urgent, normal or bulk.", show_default=False)] = "",
    run: Run = None,
    batch: Batch = None,
    kind: Kind = None,
    queue: Queue = None,
    in_lane: Annotated[str | None, typer.Option("--in-lane", help="Of one lane.")] = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Put waiting jobs into another lane: those named, or all that the options match."""
    from clients.cli import jobs

    jobs.check_lane(lane)
    wanted = jobs.Filter.of(
        run=run, batch=batch, state=None, kind=kind, queue=queue, lane=in_lane, error=error, since=since, until=until
    )
    moving = jobs.Moving(folder(state), "prioritise", dry_run=dry_run, yes=yes, as_json=as_json, lane=lane)
    moving.move(ids or [], wanted, everything=all_)


@app.command()
def counts(
    bucket: Annotated[str, typer.Option("--bucket", help="minute, hour or day.")] = "hour",
    kind: Kind = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Created since: a time, or 12h ago.", show_default="24 buckets ago")
    ] = None,
    until: Until = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Draw how many jobs there were over time by kind, how they stand, how long they waited and took."""
    from clients.cli import counts as command

    command.count_jobs(folder(state), bucket, kind, since, until, as_json=as_json)
