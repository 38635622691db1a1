"""What the toy's worker processes do: each body is a way of going on, or of going wrong."""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from shared.db import raw
from shared.ledger.attempts import Attempt
from shared.ledger.enqueue import publish
from shared.ledger.tasks import Tasks
from tests.integration.toy.jobs import Asked, Brief, Called, Do, NoteThing, ThingDone

tasks = Tasks()
BODIES: dict[str, Callable[[Attempt, Do], None]] = {}


@tasks.job(Do, time_limit=60)
def do(attempt: Attempt, args: Do) -> object:
    return BODIES[args.name](attempt, args)


@tasks.job(Brief, time_limit=1)
def be_brief(attempt: Attempt, args: Brief) -> None:
    until_open(attempt)


@tasks.job(Asked)
def be_asked(attempt: Attempt, args: Asked) -> int:
    return args.count


@tasks.job(Called)
def be_called(attempt: Attempt, args: Called) -> None:
    return None


@tasks.job(NoteThing)
def note_thing(attempt: Attempt, args: NoteThing) -> None:
    with attempt.finishing() as session:
        raw(session).execute(
            "INSERT INTO effect (key, job) VALUES (%s, %s)", (f"noted {args.envelope.id}", attempt.job.id)
        )


def body(function: Callable[[Attempt, Do], None]) -> Callable[[Attempt, Do], None]:
    BODIES[function.__name__] = function
    return function


@body
def answer(attempt: Attempt, args: Do) -> object:
    return args.value


@body
def tell(attempt: Attempt, args: Do) -> None:
    with attempt.finishing() as session:
        publish(session, ThingDone(name="told"), subject=attempt.job.id)


@body
def hold(attempt: Attempt, args: Do) -> None:
    """Say which process this is, wait until the test opens the gate, then have an effect."""
    say_who(attempt)
    until_open(attempt)
    with attempt.finishing({"attempt": attempt.job.attempt}) as session:
        raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(attempt.job.id), attempt.job.id))


@body
def defy(attempt: Attempt, args: Do) -> None:
    """Have an effect, and go on before it commits, whatever is said or raised."""
    say_who(attempt)
    with attempt.finishing() as session:
        raw(session).execute("INSERT INTO effect (key, job) VALUES (%s, %s)", (str(attempt.job.id), attempt.job.id))
        while True:
            with suppress(BaseException):
                raw(session).execute("SELECT pg_sleep(0.1)")  # PostgreSQL hears of it: it is not taken for frozen


@body
def clog(attempt: Attempt, args: Do) -> None:
    """Let no other thread of the process run: a search that takes years, in C."""
    say_who(attempt)
    re.match("(a+)+$", "a" * 60 + "b")


@body
def turn(attempt: Attempt, args: Do) -> None:
    """Go on in Python, without looking."""
    say_who(attempt)
    while True:
        time.sleep(0.01)


@body
def die(attempt: Attempt, args: Do) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_who(attempt: Attempt) -> None:
    with attempt.noting() as session:
        raw(session).execute(
            "INSERT INTO effect (key, job, result) VALUES (%s, %s, to_jsonb(%s::int))",
            (f"pid {attempt.job.id} {attempt.job.attempt}", attempt.job.id, os.getpid()),
        )


def until_open(attempt: Attempt) -> None:
    while True:
        with attempt.reading() as session:
            key = f"open {attempt.job.id}"
            if raw(session).execute("SELECT 1 FROM effect WHERE key = %s", (key,)).fetchone():
                return
        time.sleep(0.05)  # between two looks
