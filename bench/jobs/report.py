"""Figures of several rounds as medians and ranges; ratios of ours to each peer; the targets beside what was found."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from bench.jobs.conditions import conditions
from bench.jobs.contenders import CONTENDERS, OURS
from bench.jobs.targets import RATIOS, TARGETS
from bench.tables import conditions_list, short, table

Summary = dict[str, float]


class Report:
    """What was measured so far: by contender and measure (`case.kind.figure`) one value a round."""

    def __init__(self, names: list[str], **options: Any) -> None:
        about = {name: f"{CONTENDERS[name].label}; {CONTENDERS[name].jobs:,} jobs a run" for name in names}
        self._conditions = {"bench": "jobs", **conditions(), **options, "systems": about}
        self._found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
        self._windows: list[dict[str, float]] = []
        self._failures: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, case: str, figures: dict[str, float], windows: list[dict[str, float]]) -> None:
        for measure, value in figures.items():
            self._found[name][f"{case}.{measure}"].append(value)
        self._windows += windows

    def fail(self, what: str, reason: str) -> None:
        self._failures[what].append(reason)

    @property
    def failed(self) -> bool:
        return bool(self._failures)

    def figures(self) -> dict[str, dict[str, Summary]]:
        return {
            name: {measure: _summary(values) for measure, values in found.items()}
            for name, found in self._found.items()
        }

    def ratios(self) -> dict[str, Any]:
        """Ours divided by theirs, by peer and measure; and `targets`, the ones that could be looked at."""
        found: dict[str, Any] = {}
        for peer in self._found.keys() - {OURS}:
            pairs = {name: (self._median(OURS, mine), self._median(peer, theirs)) for name, mine, theirs in RATIOS}
            found[f"vs_{peer}"] = {
                name: round(mine / theirs, 3) for name, (mine, theirs) in pairs.items() if mine is not None and theirs
            }
        return {**dict(sorted(found.items())), "targets": self._targets(found)}

    def _targets(self, ratios: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
        made = []
        for target in TARGETS:
            value = (
                ratios.get(target.peer, {}).get(target.measure) if target.peer else self._median(OURS, target.measure)
            )
            if value is not None:
                made.append(target.judged(value))
        return made

    def conditions(self) -> dict[str, Any]:
        """The machine, and how quiet and how fast it was in the phases that were measured."""
        seen = {
            name: _summary([window[name] for window in self._windows])
            for name in ("foreign_cores", "loop_ms")
            if self._windows
        }
        return {**self._conditions, **seen, "failures": dict(self._failures)}

    def found(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"figures": self.figures(), "ratios": self.ratios(), "conditions": self.conditions()}

    def _median(self, name: str, measure: str) -> float | None:
        values = self._found.get(name, {}).get(measure)
        return statistics.median(values) if values else None


def _summary(values: list[float]) -> Summary:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: round(value, 4) for name, value in found.items()}, "runs": len(values)}


def markdown(found: dict[str, Any]) -> str:
    """The tables of a report as `--json` printed it."""
    tables = [_target_table(found["ratios"]), _ratio_table(found["ratios"]), *_tables(found["figures"])]
    return "\n\n".join([*filter(None, tables), conditions_list(found["conditions"])]) + "\n"


def _target_table(ratios: dict[str, Any]) -> str:
    rows = (
        [each["target"], each["wanted"], short(each["found"]), "reached" if each["reached"] else "**not reached**"]
        for each in ratios["targets"]
    )
    return table(["target", "wanted", "found", ""], rows)


def _ratio_table(ratios: dict[str, Any]) -> str:
    peers = {name: found for name, found in ratios.items() if name != "targets"}
    rows = ([name, *(short(found[name]) if name in found else "" for found in peers.values())] for name, _, _ in RATIOS)
    return table(["ours ÷ theirs", *peers], (row for row in rows if any(row[1:])))


def _tables(figures: dict[str, dict[str, Summary]]) -> Iterator[str]:
    """One a case: a line a system, or a kind of job of one."""
    for case in {measure.partition(".")[0]: None for found in figures.values() for measure in found}:
        rows: dict[str, dict[str, str]] = {}
        for name, found in figures.items():
            for measure, summary in found.items():
                if measure.startswith(f"{case}."):
                    kind, _, figure = measure.removeprefix(f"{case}.").rpartition(".")
                    rows.setdefault(f"{name} {kind}".strip(), {})[figure] = _spread(summary)
        columns = list({column: None for row in rows.values() for column in row})
        yield table(
            [f"`{case}`", *columns],
            ([name, *(row.get(column, "") for column in columns)] for name, row in rows.items()),
        )


def _spread(summary: Summary) -> str:
    if summary["runs"] == 1:
        return short(summary["median"])
    return f"{short(summary['median'])} ({short(summary['min'])}-{short(summary['max'])})"


def line(figures: dict[str, float]) -> str:
    return ", ".join(f"{measure} {short(value)}" for measure, value in figures.items())
