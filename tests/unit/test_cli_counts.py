"""Jobs over time as bars."""

from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.counts import WIDTH, bars, over_time

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("counts", "drawn"),
    [
        ([0, 1, 2, 4, 8], " ▁▂▄█"),
        ([8, 8], "██"),
        ([1, 1_000_000], "▁█"),
        ([0], " "),
    ],
)
def test_the_highest_bar_is_the_most(counts: list[int], drawn: str) -> None:
    assert bars(counts) == drawn


def test_a_long_time_is_drawn_in_fewer_bars() -> None:
    assert bars([1] * 500) == "█" * 55 + "▅"
    assert len(bars([1] * WIDTH)) == WIDTH


def test_buckets_without_jobs_have_their_place() -> None:
    counted = [{"kind": kind, "start": (NOON + hours * timedelta(hours=1)).isoformat(), "jobs": jobs}
               for kind, hours, jobs in (("a", 0, 1), ("b", 1, 9), ("a", 3, 2))]  # fmt: skip
    found = {
        "bucket": "hour",
        "since": NOON.isoformat(),
        "until": (NOON + timedelta(hours=4, minutes=30)).isoformat(),
        "buckets": counted,
    }
    assert over_time(found, "a") == [1, 0, 0, 2, 0]
