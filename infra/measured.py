"""Tables in the documentation that tools print from reports, which are kept beside the page, in `measured`."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

Report = dict[str, Any]
Place = Callable[[Report], tuple[str, str]]
"""The file that a report is kept in, and its table in Markdown. Raises LookupError or TypeError for what is none."""
END: Final = "<!-- end -->"
"""A table stands between the mark with its file's name and the next END."""


def mark(file: str) -> str:
    return f"<!-- {file} -->"


def fill(page: str, table: str, file: str) -> str:
    """The page with this table in place of what stood there. Raises ValueError when the page has no such mark."""
    before, found, rest = page.partition(mark(file))
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError("the page has no place for it")
    return f"{before}{found}\n{table}{end}{after}"


def document(page: Path, reports: Sequence[Path], place: Place) -> None:
    """All or nothing is written. Raises OSError, and ValueError with the name of a file that holds no report."""
    text, kept = page.read_text(), {}
    for path in reports:
        try:
            report = json.loads(path.read_text())
            file, table = place(report)
            text = fill(text, table, file)
            kept[file] = json.dumps(report, indent=1) + "\n"
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} holds no report for {page.name}: {error!r}") from error
    page.write_text(text)
    folder = page.parent / "measured"
    folder.mkdir(exist_ok=True)
    for file, content in kept.items():
        (folder / file).write_text(content)


def main(page: Path, place: Place, command: str) -> int:
    """Documents the files named on the command line. Exit codes: 0 written, 2 bad input."""
    if len(sys.argv) < 2:
        sys.stderr.write(f"give the files that `{command}` printed\n")
        return 2
    try:
        document(page, [Path(name) for name in sys.argv[1:]], place)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
