"""One run on one machine: ours and each peer in turn, several rounds. PostgreSQL and Valkey come with each."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from bench.jobs import report
from bench.jobs.cases import KINDS, Figures, Run, accept, complete, idle, start
from bench.jobs.contenders import CONTENDERS, OURS, PEERS_PYTHON
from bench.jobs.full_ledger import full_ledger
from bench.jobs.stand import BenchError, Stand, standing
from bench.jobs.statements import statements
from infra.local.errors import StackError

CASES: Final[dict[str, Callable[[Stand, Run], Figures]]] = {
    case.__name__: case for case in (complete, idle, start, accept, statements, full_ledger)
}
ONCE: Final = ("statements", "full_ledger")
"""In the first round alone: the one counts, the other takes minutes."""


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 measured, 1 something could not be measured, 2 bad input, or the peers are not installed."""
    given = _options().parse_args(arguments)
    names, kinds = given.only.split(","), given.kinds.split(",")
    cases = given.cases.split(",") + (["full_ledger"] if given.full_ledger else [])
    if unknown := {*names} - {*CONTENDERS} | {*cases} - {*CASES} | {*kinds} - {*KINDS}:
        return _refuse(f"there is no {', '.join(sorted(unknown))}")
    if given.rounds < 1 or not 0 < given.scale <= 10:
        return _refuse("at least one round, and a scale above 0 and at most 10")
    if {*names} - {OURS} and not PEERS_PYTHON.exists():
        return _refuse("the peers are not installed: `make bench-jobs` installs them in .venv-bench")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = report.Report(names, rounds=given.rounds, scale=given.scale)
    for number in range(given.rounds):
        for name in names:
            _say(f"round {number + 1} of {given.rounds}: {CONTENDERS[name].label}")
            wanted = [case for case in cases if number == 0 or case not in ONCE]
            _measure(name, wanted, partial(Run, given.scale, tuple(kinds)), found)
    print(json.dumps(found.found()) if given.json else report.markdown(found.found()), end="\n" if given.json else "")
    return 1 if found.failed else 0


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(_refuse(message))


def _options() -> argparse.ArgumentParser:
    options = _Options(prog="millrace bench jobs", description=__doc__)
    options.add_argument("--only", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    options.add_argument("--cases", default="complete,idle,start,accept,statements", help=f"of {', '.join(CASES)}")
    options.add_argument("--kinds", default=",".join(KINDS), help=f"of ours, of {', '.join(KINDS)}")
    options.add_argument("--full-ledger", action="store_true", help="also with a million finished jobs; minutes")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--scale", type=float, default=1.0, help="of the number of jobs and of the seconds")
    options.add_argument("--json", action="store_true", help="one JSON object as the last line, in place of tables")
    return options


def _measure(name: str, cases: list[str], begin: Callable[[], Run], found: report.Report) -> None:
    """Whatever goes wrong with one contender, or in one case, the others are measured."""
    for alone in (False, True):  # an empty ledger is no longer empty after other cases
        chosen = [case for case in cases if (case == full_ledger.__name__) == alone]
        if not chosen or (alone and not CONTENDERS[name].ours):
            continue
        try:
            with standing(CONTENDERS[name]) as stand:
                for case in chosen:
                    _try(name, case, stand, begin(), found)
        except (BenchError, StackError) as error:
            _fail(name, error, found)


def _try(name: str, case: str, stand: Stand, run: Run, found: report.Report) -> None:
    try:
        figures = CASES[case](stand, run)
    except Exception as error:
        _fail(f"{name}: {case}", error, found)
    else:
        found.add(name, case, figures, run.windows)
        _say(f"  {case}: {report.line(figures)}")
    finally:
        stand.stop()


def _fail(what: str, error: Exception, found: report.Report) -> None:
    known = isinstance(error, BenchError | StackError)
    reason = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())[:500]
    found.fail(what, reason)
    _say(f"  {what}: {reason}")


def _refuse(message: str) -> int:
    print(f"bench jobs: {message}", file=sys.stderr)
    return 2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say("bench jobs: interrupted")
        sys.exit(130)
