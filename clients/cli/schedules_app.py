"""`millrace schedules …`: the commands and their options; the work is in `schedules`."""

from typing import Annotated

import typer

from clients.cli.options import JsonOption, StateOption, folder

app = typer.Typer(help="Schedules of all services.", rich_markup_mode=None)

Which = Annotated[str, typer.Argument(metavar="SCHEDULE", help="A schedule's name or id.")]
Cron = Annotated[str | None, typer.Option("--cron", help='5 fields, or 6 with the second first: "0 8 * * MON-FRI".')]
Every = Annotated[str | None, typer.Option("--every", help="An interval: 30s, 15m, 6h, 1d.")]
At = Annotated[str | None, typer.Option("--at", help="Once: 2026-12-24T18:00, by the zone's clock.")]
Zone = Annotated[str, typer.Option("--zone", help="IANA time zone, such as Europe/Berlin.")]
Start = Annotated[str | None, typer.Option("--start", help="No fire earlier than this.")]
End = Annotated[str | None, typer.Option("--end", help="No fire at this time or later.")]
Jitter = Annotated[str | None, typer.Option("--jitter", help="Each fire is late by a share of this: 30s, 5m.")]
Misfire = Annotated[str | None, typer.Option("--misfire", help="Of slots that were missed: skip, once or all.")]
Grace = Annotated[str | None, typer.Option("--grace", help="Late by no more than this is not missed.")]
Window = Annotated[str | None, typer.Option("--window", help="With --misfire all: how far back.")]
Overlap = Annotated[
    str | None, typer.Option("--overlap", help="While an earlier job is unfinished: allow, skip, queue or cancel.")
]
LaneOption = Annotated[str | None, typer.Option("--lane", help="Of its jobs: urgent, normal or bulk.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option("--kind", help="That fire jobs of this kind.")] = None,
    schedule_state: Annotated[
        str | None, typer.Option("--schedule-state", help="active, paused, ended or broken.")
    ] = None,
    limit: Limit = 50,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """List schedules, the newest first."""
    from clients.cli import schedules

    schedules.list_schedules(folder(state), kind, schedule_state, limit, as_json=as_json)


@app.command()
def show(schedule: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show one schedule: when it fires, what, and how it stands."""
    from clients.cli import schedules

    schedules.show_schedule(folder(state), schedule, as_json=as_json)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Its name, which is unique in the workspace and service.")],
    kind: Annotated[str, typer.Argument(help="The kind of job that it fires, such as reports.definition.render.")],
    args: Annotated[str, typer.Option("--args", help="The job's arguments, as JSON.")] = "{}",
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    zone: Zone = "UTC",
    start: Start = None,
    end: End = None,
    jitter: Jitter = "0s",
    misfire: Misfire = "once",
    grace: Grace = "60s",
    window: Window = "1h",
    overlap: Overlap = "allow",
    lane: LaneOption = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Make a schedule."""
    from clients.cli import schedules

    times = schedules.times(cron=cron, every=every, at=at, zone=zone, start=start, end=end, jitter=jitter)
    policies = schedules.policies(misfire=misfire, grace=grace, window=window, overlap=overlap, lane=lane)
    schedules.create_schedule(folder(state), name, kind, args, {**times, **policies}, as_json=as_json)


@app.command()
def edit(
    schedule: Which,
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    args: Annotated[str | None, typer.Option("--args", help="Other arguments of its jobs, as JSON.")] = None,
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    zone: Annotated[str | None, typer.Option("--zone", help="IANA time zone, such as Europe/Berlin.")] = None,
    start: Start = None,
    end: End = None,
    jitter: Jitter = None,
    misfire: Misfire = None,
    grace: Grace = None,
    window: Window = None,
    overlap: Overlap = None,
    lane: LaneOption = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Change what is given of a schedule, and nothing else."""
    from clients.cli import schedules
    from clients.cli.jobs import arguments

    changes = schedules.times(cron=cron, every=every, at=at, zone=zone, start=start, end=end, jitter=jitter)
    changes |= schedules.policies(misfire=misfire, grace=grace, window=window, overlap=overlap, lane=lane)
    changes |= {} if name is None else {"name": name}
    changes |= {} if args is None else {"args": arguments(args)}
    schedules.edit_schedule(folder(state), schedule, changes, as_json=as_json)


@app.command()
def pause(schedule: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Fire nothing until it is resumed."""
    from clients.cli import schedules

    schedules.act(folder(state), schedule, "pause", as_json=as_json)


@app.command()
def resume(schedule: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Go on with the next fire."""
    from clients.cli import schedules

    schedules.act(folder(state), schedule, "resume", as_json=as_json)


@app.command()
def run(schedule: Which, as_json: JsonOption = False, state: StateOption = None) -> None:
    """Fire once, now, besides its times."""
    from clients.cli import schedules

    schedules.run_schedule(folder(state), schedule, as_json=as_json)


@app.command()
def delete(schedule: Which, state: StateOption = None) -> None:
    """Delete a schedule. Jobs that it has fired go on."""
    from clients.cli import schedules

    schedules.delete_schedule(folder(state), schedule)


@app.command()
def preview(
    schedule: Annotated[
        str | None, typer.Argument(help="A schedule's name or id; without it, the times of the options.")
    ] = None,
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    zone: Zone = "UTC",
    start: Start = None,
    end: End = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="So many fires.")] = 10,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Show the next fires, and what changes of the clock do to them."""
    from clients.cli import schedules

    times = schedules.times(cron=cron, every=every, at=at, zone=zone, start=start, end=end)
    schedules.preview(folder(state), schedule, times, count, as_json=as_json)


@app.command()
def history(
    schedule: Which,
    outcome: Annotated[str | None, typer.Option("--outcome", help="fired, waiting or skipped.")] = None,
    limit: Limit = 20,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Show what became of each of its times: fired with the job, or skipped and why."""
    from clients.cli import schedules

    schedules.history(folder(state), schedule, outcome, limit, as_json=as_json)
