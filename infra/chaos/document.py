"""Writes reports' tables into the documentation: `python -m infra.chaos.document REPORT.json…`.

A report is what `millrace chaos --json` prints; which table it becomes is told by the system that it is of, and by its
faults.
"""

import sys
from typing import Final

from infra.chaos.report import markdown
from infra.local.stack import ROOT
from infra.measured import Report, main

PAGE: Final = ROOT / "docs" / "reliability.md"
FILES: Final = {"millrace": "chaos.json", "stock Celery": "chaos-stock.json"}
"""By the report's `system`."""
MIXED: Final = "chaos-mixed.json"
"""Of several faults at once, and nothing else."""


def place(report: Report) -> tuple[str, str]:
    is_mixed = [fault["fault"] for fault in report["faults"]] == ["mixed"]
    return MIXED if is_mixed else FILES[report["system"]], markdown(report)


if __name__ == "__main__":
    sys.exit(main(PAGE, place, "millrace chaos --json"))
