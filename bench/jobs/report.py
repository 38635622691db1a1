"""Figures of several rounds as medians and ranges; ratios of ours to each peer; the issue's targets beside them."""

import json
import statistics
from collections import defaultdict
from typing import Any

from bench.jobs.conditions import conditions


class Report:
    """What was measured so far, by contender, case and measure."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._conditions = conditions()
        self._found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
        self._windows: list[dict[str, float]] = []
        self._failures: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, case: str, figures: dict[str, float], windows: list[dict[str, float]]) -> None:
        for measure, value in figures.items():
            self._found[name][f"{case}.{measure}"].append(value)
        self._windows += windows

    def fail(self, name: str, reason: str) -> None:
        self._failures[name].append(reason)

    def failed(self, name: str) -> bool:
        return name in self._failures

    def figures(self) -> dict[str, dict[str, Any]]:
        return {
            name: {measure: summary(values) for measure, values in found.items()} for name, found in self._found.items()
        }

    def as_json(self) -> str:
        return json.dumps({"figures": self.figures(), "ratios": {}, "conditions": self._conditions})

    def as_text(self) -> str:
        return json.dumps(self.figures(), indent=1)


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def line(figures: dict[str, float]) -> str:
    return ", ".join(f"{measure} {short(value)}" for measure, value in figures.items())


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
