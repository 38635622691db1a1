"""Reports of benchmarks in Markdown."""

from collections.abc import Iterable
from typing import Any, Final

LONG: Final = 40


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Empty without rows. Numbers stand to the right."""
    lines = list(rows)
    if not lines:
        return ""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def conditions_list(conditions: dict[str, Any]) -> str:
    return "\n".join(f"- {name}:{_said(value)}" for name, value in conditions.items())


def _said(value: Any) -> str:
    """A list of its own where the words are long."""
    if not isinstance(value, dict):
        return f" {short(value)}" if isinstance(value, float) else f" {value}"
    words = [f"{name}{_said(each)}" for name, each in value.items()]
    if any(len(each) > LONG for each in words):
        return "".join(f"\n  - {each}" for each in words)
    return f" {', '.join(words)}" if words else " none"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(found: dict[str, Any]) -> str:
    """A report whose figures are numbers by case, as `--json` printed it: a line a case, a table for those that have
    the same measures."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for name, case in found["figures"].items():
        alike.setdefault(tuple(case), []).append([name, *map(short, case.values())])
    ratios = ([name, short(value)] for name, value in found["ratios"].items())
    tables = [*(table(["", *columns], rows) for columns, rows in alike.items()), table(["ratio", ""], ratios)]
    return "\n\n".join([*filter(None, tables), conditions_list(found["conditions"])]) + "\n"
