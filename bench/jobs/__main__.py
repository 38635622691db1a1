"""`python -m bench.jobs`: one run on one machine, ours and each peer in turn, several rounds."""

import argparse
import sys

from bench.jobs import report
from bench.jobs.cases import CASES, Run
from bench.jobs.contenders import CONTENDERS, OURS, PEERS_PYTHON
from bench.jobs.stand import BenchError, standing
from infra.local.errors import StackError


def main() -> int:
    """Exit codes: 0 measured, 1 ours could not be measured, 2 bad input or no peers installed."""
    options = argparse.ArgumentParser(prog="bench jobs", description=__doc__)
    options.add_argument("--only", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    options.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--scale", type=float, default=1.0, help="of the number of jobs and of the seconds")
    options.add_argument("--json", action="store_true", help="no table; the last line is one JSON object")
    given = options.parse_args()
    names, cases = given.only.split(","), given.cases.split(",")
    if unknown := [*(set(names) - set(CONTENDERS)), *(set(cases) - set(CASES))]:
        return _refuse(f"there is no {', '.join(unknown)}")
    if given.rounds < 1 or not 0 < given.scale <= 10:
        return _refuse("at least one round, and a scale above 0 and at most 10")
    if set(names) - {OURS} and not PEERS_PYTHON.exists():
        return _refuse("the peers are not installed: `make bench-jobs` installs them in .venv-bench")
    found = report.Report(names)
    for number in range(given.rounds):
        for name in names:
            _say(f"round {number + 1} of {given.rounds}: {CONTENDERS[name].label}")
            _measure(name, cases, given.scale, found)
    print(found.as_json() if given.json else found.as_text())
    return 1 if found.failed(OURS) else 0


def _measure(name: str, cases: list[str], scale: float, found: report.Report) -> None:
    try:
        with standing(CONTENDERS[name]) as stand:
            for case in cases:
                run = Run(scale)
                try:
                    figures = CASES[case](stand, run)
                finally:
                    stand.stop()
                found.add(name, case, figures, run.windows)
                _say(f"  {case}: {report.line(figures)}")
    except (BenchError, StackError) as error:
        found.fail(name, str(error))
        _say(f"  {error}")


def _refuse(message: str) -> int:
    print(f"bench jobs: {message}", file=sys.stderr)
    return 2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
