"""Writes reports' tables into the documentation: `python -m infra.chaos.document REPORT.json…`.

A report is what `millrace chaos --json` prints; which table it becomes is told by the system that it is of.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.chaos.report import markdown
from infra.local.stack import ROOT

PAGE: Final = ROOT / "docs" / "reliability.md"
FILES: Final = {"millrace": "chaos.json", "stock Celery": "chaos-stock.json"}
"""By the report's `system`: where the page's folder keeps it, below `measured`."""
MARKS: Final = {system: f"<!-- {file} -->" for system, file in FILES.items()}
"""A table stands between its mark and the next END."""
END: Final = "<!-- end -->"


def fill(page: str, table: str, mark: str) -> str:
    """The page with this table in place of what stood there. Raises ValueError when the page has not that mark."""
    before, mark, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError("the page has no place for it")
    return f"{before}{mark}\n{table}{end}{after}"


def document(page: Path, reports: Sequence[Path]) -> None:
    """All or nothing is written. Raises OSError, and ValueError with the name of a file that is no report."""
    text, kept = page.read_text(), {}
    for path in reports:
        try:
            report = json.loads(path.read_text())
            text = fill(text, markdown(report), MARKS[report["system"]])
            kept[FILES[report["system"]]] = json.dumps(report, indent=1) + "\n"
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is no report of a chaos run: {error!r}") from error
    page.write_text(text)
    folder = page.parent / "measured"
    folder.mkdir(exist_ok=True)
    for file, content in kept.items():
        (folder / file).write_text(content)


def main() -> int:
    if len(sys.argv) < 2:
        sys.stderr.write("give the files that `millrace chaos --json` printed\n")
        return 2
    try:
        document(PAGE, [Path(name) for name in sys.argv[1:]])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
