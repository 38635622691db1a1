"""Writes benchmarks' tables into the documentation: `python -m bench.document REPORT.json…`.

A report is what a benchmark prints as its last line; which table it becomes is told by its `conditions.bench`.
"""

import sys
from collections.abc import Callable
from typing import Final

from bench import tables
from bench.jobs.report import markdown
from infra.local.stack import ROOT
from infra.measured import Report, main

PAGE: Final = ROOT / "docs" / "benchmarks.md"
TABLES: Final[dict[str, Callable[[Report], str]]] = {
    "jobs": markdown,
    "limits": tables.markdown,
    "schedules": tables.markdown,
}
"""By `conditions.bench`."""


def place(report: Report) -> tuple[str, str]:
    bench = report["conditions"]["bench"]
    return f"bench-{bench}.json", TABLES[bench](report)


if __name__ == "__main__":
    sys.exit(main(PAGE, place, "make bench-jobs ARGS=--json"))
