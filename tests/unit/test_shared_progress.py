"""Rate and remaining time of work, from report to report."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.ledger import progress

BEGAN = datetime(2026, 11, 25, 9, tzinfo=UTC)


def told(*reports: tuple[float, float], total: float | None = 100, unit: str = "rows") -> Any:
    """The last of the reports, each (seconds since the beginning, done)."""
    last = None
    for seconds, done in reports:
        last = progress.told(last, done, total, unit, "", BEGAN + timedelta(seconds=seconds))
    return progress.shown(last)


def test_one_report_has_no_rate_yet() -> None:
    report = told((0, 10))
    assert (report["rate"], report["remaining_seconds"]) == (None, None)
    assert report["began_at"] == report["at"] == BEGAN.isoformat()


def test_steady_work_has_its_rate_and_what_is_left() -> None:
    report = told((0, 0), (1, 5), (3, 15), (4, 20))
    assert report["rate"] == pytest.approx(5)
    assert report["remaining_seconds"] == pytest.approx(16)
    assert report["began_at"] == BEGAN.isoformat()


def test_the_rate_follows_a_change_of_pace_without_jumping() -> None:
    steady = [(second, 10.0 * second) for second in range(11)]
    slower = [(11 + second, 100.0 + second) for second in range(60)]
    first, later = told(*steady, *slower[:1], total=1000)["rate"], told(*steady, *slower, total=1000)["rate"]
    assert 8 < first < 10
    assert later == pytest.approx(1, abs=0.05)


def test_work_that_stands_still_is_never_done() -> None:
    report = told((0, 10), (5, 10))
    assert (report["rate"], report["remaining_seconds"]) == (0, None)


def test_without_a_total_nothing_is_left_to_tell() -> None:
    report = told((0, 0), (1, 5), total=None)
    assert (report["rate"], report["remaining_seconds"]) == (5, None)


def test_more_than_all_is_done_at_once() -> None:
    assert told((0, 0), (1, 200))["remaining_seconds"] == 0


@pytest.mark.parametrize(("seconds", "done", "unit"), [(2, 3, "rows"), (2, 20, "steps"), (-60, 20, "rows")])
def test_what_begins_anew_is_measured_anew(seconds: float, done: float, unit: str) -> None:
    """Less is done, it is counted otherwise, the clock was set back."""
    before = progress.told(None, 0, 100, "rows", "", BEGAN)
    before = progress.told(before, 10, 100, "rows", "", BEGAN + timedelta(seconds=1))
    now = BEGAN + timedelta(seconds=seconds)
    report = progress.told(before, done, 100, unit, "", now)
    assert (report["rate"], report["began_at"]) == (None, now.isoformat())


def test_a_report_of_older_code_is_shown_as_it_is() -> None:
    old = {"done": 1, "total": 2, "unit": "rows", "message": ""}
    unknown = {"rate": None, "at": None, "began_at": None, "remaining_seconds": None}
    assert progress.shown(old) == old | unknown
    assert progress.shown(None) is None
