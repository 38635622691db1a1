"""A big CSV through the whole system: seconds a step, and the largest resident set of every process."""

import argparse
import json
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from bench.system import conditions, running_system
from infra.local import sample
from infra.local.sample import Sample
from infra.local.stack import Stack

SAMPLE_SECONDS = 0.1


class Watch:
    """Samples the resident sets of the stack's processes, with all their descendants.

    PostgreSQL's shared buffers count in each of its processes that has touched them.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stopped = threading.Event()
        self.peaks: dict[str, float] = {}
        """Name in the stack → megabytes of its largest process, or of that one's descendants."""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            for view in self._stack.views():
                if view.pid is not None:
                    self._look(view.name, view.pid)

    def _look(self, name: str, pid: int) -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):  # it ended between two looks: the others are still looked at
                    megabytes = process.memory_info().rss / 1e6
                    self.peaks[name] = max(self.peaks.get(name, 0.0), megabytes)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=1000)
    given = options.parse_args()
    found = conditions()
    with running_system() as (stack, client), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.csv"
        big = write(path, given.megabytes)
        with Watch(stack) as watch:
            began = time.perf_counter()
            accepted = client.upload(path, "big")
            uploaded = time.perf_counter() - began
            while (run := client.run(accepted["run"]["id"]))["state"] == "running":
                time.sleep(0.5)
            seconds = time.perf_counter() - began
        dataset = client.dataset(accepted["dataset"]["id"])
    figures = {
        "megabytes": round(big.bytes / 1e6),
        "state": run["state"],
        "rows_loaded": dataset["rows_loaded"],
        "rows_rejected": dataset["rows_rejected"],
        "upload_seconds": round(uploaded, 1),
        "seconds": round(seconds, 1),
        "peak_rss_mb": {name: round(peak) for name, peak in sorted(watch.peaks.items(), key=lambda each: -each[1])},
    }
    print(json.dumps({"figures": figures, "ratios": {}, "conditions": found}))


def write(path: Path, megabytes: int) -> Sample:
    """The sample's rows again and again, up to the size."""
    once = path.with_suffix(".once")
    part, times = sample.write(once), 0
    header, _, rows = once.read_bytes().partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        while file.tell() < megabytes * 1_000_000:
            file.write(rows)
            times += 1
        return Sample(path, part.rows * times, part.bad * times, file.tell())


if __name__ == "__main__":
    main()
