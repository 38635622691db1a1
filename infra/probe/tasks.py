"""What the probe's jobs do."""

import time
from functools import cache

from infra.probe import mischief
from infra.probe.jobs import (
    Gather,
    Gathered,
    Hang,
    Hold,
    Keyed,
    Misbehave,
    Noop,
    NoteThing,
    Numbered,
    Part,
    Say,
    Share,
    Take,
    Tell,
    ThingDone,
    ThingSaid,
    Tick,
    Write,
)
from infra.probe.record import ENTERED, FINISHED, HEARD, LEFT, RAN, STARTED, Writer
from infra.probe.settings import ProbeSettings
from shared.db import Statements, raw
from shared.errors import MillraceError
from shared.ledger.attempts import Attempt
from shared.ledger.batches import enqueue_batch, results_of
from shared.ledger.tasks import Tasks

HANG_SECONDS = 2.0
"""The time limit of the kind that does not end by itself; the hard one is Celery's, some seconds later."""

tasks = Tasks()


class TooSoon(MillraceError):
    """It goes on, and not all of its parts have ended."""

    code, title = "probe.too_soon", "Too soon"


@tasks.job(Noop)
def do_nothing(attempt: Attempt, args: Noop) -> int:
    _mark(RAN, args)
    return args.number


@tasks.job(Keyed)
def do_nothing_by_key(attempt: Attempt, args: Keyed) -> None:
    _mark(RAN, args)


@tasks.job(Write)
def write(attempt: Attempt, args: Write) -> None:
    with attempt.finishing() as session:
        _have_effect(raw(session), attempt, args.number)
    _mark(RAN, args)


@tasks.job(Tick)
def tick(attempt: Attempt, args: Tick) -> None:
    with attempt.finishing() as session:
        _have_effect(raw(session), attempt, args.number)


@tasks.job(Tell)
def tell(attempt: Attempt, args: Tell) -> None:
    attempt.publish(
        ThingDone(number=args.number, sent_ns=args.sent_ns, effect=args.effect),
        subject=attempt.job.id,
    )
    _mark(RAN, args)


@tasks.job(Say)
def say(attempt: Attempt, args: Say) -> None:
    attempt.publish(ThingSaid(number=args.number), subject=attempt.job.id)
    _mark(RAN, args)


@tasks.job(NoteThing)
def note(attempt: Attempt, args: NoteThing) -> None:
    told = args.envelope.read(ThingDone)
    if told.effect:
        with attempt.finishing() as session:
            _have_effect(raw(session), attempt, told.number)
    _record(HEARD, told.number, told.sent_ns)


@tasks.job(Take)
def take(attempt: Attempt, args: Take) -> None:
    _mark(STARTED, args)
    time.sleep(args.seconds)
    with attempt.finishing() as session:
        _have_effect(raw(session), attempt, args.number)
    _mark(FINISHED, args)


@tasks.job(Hold)
def hold(attempt: Attempt, args: Hold) -> None:
    with attempt.noting():
        _mark(STARTED, args)
        time.sleep(args.seconds)
    with attempt.finishing() as session:
        _have_effect(raw(session), attempt, args.number)
    _mark(FINISHED, args)


@tasks.job(Share)
def share(attempt: Attempt, args: Share) -> None:
    _mark(ENTERED, args)
    try:
        time.sleep(args.seconds)
    finally:
        _mark(LEFT, args)
    with attempt.finishing() as session:
        _have_effect(raw(session), attempt, args.number)


@tasks.job(Gather)
def gather(attempt: Attempt, args: Gather) -> None:
    with attempt.finishing() as session:
        batch = enqueue_batch(session, [[Part()] * args.parts])
        attempt.continue_as(Gathered(number=args.number, sent_ns=args.sent_ns, batch=batch.id), after=batch.id)


@tasks.job(Part)
def do_part(attempt: Attempt, args: Part) -> None:
    pass


@tasks.job(Gathered)
def conclude(attempt: Attempt, args: Gathered) -> None:
    """Fails when a part has not ended by now."""
    with attempt.finishing() as session:
        states = {row["state"] for row in results_of(session, args.batch, 1)}
        if states & {"queued", "running"}:
            raise TooSoon("Not all of its parts have ended.")
        _have_effect(raw(session), attempt, args.number)
    _mark(RAN, args)


@tasks.job(Misbehave)
def misbehave(attempt: Attempt, args: Misbehave) -> object:
    _mark(STARTED, args)
    return mischief.BODIES[args.how]()


@tasks.job(Hang, time_limit=HANG_SECONDS)
def hang(attempt: Attempt, args: Hang) -> None:
    _mark(STARTED, args)
    mischief.hang()


def _have_effect(connection: Statements, attempt: Attempt, number: int) -> None:
    connection.execute(
        "INSERT INTO effect_row (number, job, attempt) VALUES (%s, %s, %s)",
        (number, attempt.job.id, attempt.job.attempt),
    )


def _mark(deed: bytes, args: Numbered) -> None:
    _record(deed, args.number, args.sent_ns)


def _record(deed: bytes, number: int, sent_ns: int) -> None:
    writer = _writer()
    if writer is not None:
        writer.write(deed, number, sent_ns)


@cache
def _writer() -> Writer | None:
    path = ProbeSettings().record_file
    return Writer(path) if path is not None else None
