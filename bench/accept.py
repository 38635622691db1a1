"""How long a small upload waits for its 202 while the workers keep both cores busy."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.system import conditions, running_system
from infra.local import sample

BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=200)
    options.add_argument("--burners", type=int, default=os.cpu_count(), help="further processes that only burn CPU")
    given = options.parse_args()
    found = conditions()
    with running_system() as (_, client), tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder) / "big.csv", Path(folder) / "small.csv"
        sample.write(big, 400_000)
        small.write_text("id,name\n1,one\n2,two\n")
        burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(given.burners)]
        try:
            for number in range(4):
                client.upload(big, f"big-{number}")
            seconds = [_upload(client, small, number) for number in range(given.requests)]
            busy = sum(1 for job in client.jobs(state="running"))
        finally:
            for burner in burners:
                burner.send_signal(signal.SIGKILL)
                burner.wait()
    ordered = sorted(1000 * each for each in seconds)
    figures = {
        "requests": given.requests,
        "p50_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 1),
        "max_ms": round(ordered[-1], 1),
        "jobs_running_at_the_end": busy,
    }
    print(json.dumps({"figures": figures, "ratios": {}, "conditions": found | {"burners": given.burners}}))


def _upload(client, path: Path, number: int) -> float:
    began = time.perf_counter()
    client.upload(path, f"small-{number % 10}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
