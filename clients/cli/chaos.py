"""`millrace chaos`: a system of its own is broken on purpose, and what it had accepted is counted."""

import json
import os
from collections.abc import Sequence

from clients.cli.errors import CommandError
from clients.cli.interrupts import Interrupts
from clients.cli.screen import make_screen
from infra.chaos import report
from infra.chaos.command import run_chaos


class PromiseBroken(CommandError):
    """What was accepted did not end as it was promised."""


def chaos(names: Sequence[str], seconds: float | None, seed: int, *, stock: bool, as_json: bool) -> None:
    """Raises PromiseBroken, for Millrace alone: of stock Celery the same is expected."""
    os.umask(0o077)
    with Interrupts(), make_screen(quiet=as_json) as screen:
        found = run_chaos(names, seconds, seed, screen.say, stock=stock)
    if as_json:
        print(json.dumps(found))
    else:
        print(report.markdown(found))
        for words in (*found["words"], *found["broken"]):
            print(words)
    if found["broken"] and not stock:
        raise PromiseBroken(f"{len(found['broken'])} promises were broken: {'; '.join(found['broken'])}")
