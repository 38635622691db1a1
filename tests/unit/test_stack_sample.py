"""The sample data."""

import csv
from collections import Counter
from datetime import date
from pathlib import Path

from infra.local import sample


def read(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def is_good(row: list[str]) -> bool:
    try:
        _, day, _, _, _, _, quantity, price, discount, amount, paid = row
        date.fromisoformat(day)
        error = int(quantity) * float(price) * (1 - float(discount)) - float(amount)
    except ValueError:
        return False
    return abs(error) < 0.006 and paid in ("true", "false")


def test_it_is_large_enough_and_says_how_many_rows_are_bad(tmp_path: Path) -> None:
    written = sample.write(tmp_path / "orders.csv")
    header, *rows = read(written.path)
    bad = [row for row in rows if not is_good(row)]
    assert header == list(sample.COLUMNS)
    assert len(rows) == written.rows >= 100_000
    assert len(bad) == written.bad
    assert 0.004 < len(bad) / len(rows) < 0.006
    assert written.bytes == written.path.stat().st_size


def test_it_is_bad_in_every_way(tmp_path: Path) -> None:
    header, *rows = read(sample.write(tmp_path / "orders.csv", rows=20_000).path)
    widths = Counter(len(row) for row in rows)
    whole = [row for row in rows if len(row) == len(header)]
    assert set(widths) == {len(header) - 3, len(header), len(header) + 2}
    assert {"three", "2"} <= {row[header.index("quantity")] for row in whole}
    assert {"2025-02-30", "31/12/2025"} <= {row[header.index("order_date")] for row in whole}
    assert {row[header.index("paid")] for row in whole} == {"true", "false", "perhaps"}
    assert {"12.3.4"} <= {row[header.index("amount")] for row in whole}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = sample.write(tmp_path / "1.csv", rows=500, seed=7).path.read_bytes()
    assert sample.write(tmp_path / "2.csv", rows=500, seed=7).path.read_bytes() == first
    assert sample.write(tmp_path / "3.csv", rows=500, seed=8).path.read_bytes() != first


def test_order_ids_are_unique_and_days_ascend() -> None:
    rows = [row for row, bad in sample.orders(2_000, seed=1) if not bad]
    assert len({row[0] for row in rows}) == len(rows)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
