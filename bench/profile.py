"""Where Millrace's own time goes while jobs are drained: samples of its processes' Python stacks, by py-spy.

Writes one flame graph a process tree into a folder, and prints CPU seconds of 1,000 jobs by process. py-spy comes
with `make bench-jobs`, in .venv-bench; to look into running processes it may have to be root.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.jobs.cases import KINDS, jobs_each, wait_for
from bench.jobs.contenders import CONTENDERS, OURS, PEERS_PYTHON
from bench.jobs.stand import BenchError, Stand, standing
from infra.local.errors import StackError

PY_SPY = PEERS_PYTHON.with_name("py-spy")
SAMPLES_A_SECOND = 200
WRITE_SECONDS = 60.0


def main() -> int:
    """Exit codes: 0 written, 1 it could not be, 2 bad input, or py-spy is not installed."""
    options = argparse.ArgumentParser(prog="bench.profile", description=__doc__)
    options.add_argument("folder", type=Path, help="where the flame graphs go")
    options.add_argument("--kind", choices=KINDS, default="noop")
    options.add_argument("--jobs", type=int, default=CONTENDERS[OURS].jobs)
    given = options.parse_args()
    if not PY_SPY.exists():
        print("bench.profile: py-spy is not installed: `make bench-jobs` installs it in .venv-bench", file=sys.stderr)
        return 2
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        with standing(CONTENDERS[OURS]) as stand:
            _drain(stand, KINDS[given.kind], given.jobs, given.folder)
    except (BenchError, StackError) as error:
        print(f"bench.profile: {error}", file=sys.stderr)
        return 1
    return 0


def _drain(stand: Stand, kind: str, count: int, folder: Path) -> None:
    stand.start_workers()
    stand.ready(BENCH_KIND=kind)
    before = stand.usage()
    with _sampled(stand, folder):
        produced = stand.produce(count, BENCH_KIND=kind)
        wait_for(stand, kind, count, produced["began_ns"])
    jobs = count * jobs_each(kind)
    for role, seconds in stand.usage().items():
        print(f"{role}: {(seconds - before[role]) * 1000 / jobs:.3f} CPU seconds of 1,000 jobs")


@contextmanager
def _sampled(stand: Stand, folder: Path) -> Iterator[None]:
    running = []
    for role in ("worker", "beat"):
        for pid in stand.pids()[role]:
            command = [str(PY_SPY), "record", "--subprocesses", "--nonblocking", "--rate", str(SAMPLES_A_SECOND)]
            running.append(subprocess.Popen([*command, "--pid", str(pid), "--output", str(folder / f"{role}.svg")]))
    try:
        yield
    finally:
        for each in running:
            each.send_signal(signal.SIGINT)  # then it writes what it has
        for each in running:
            each.wait(WRITE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
