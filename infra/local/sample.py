"""The sample: orders of a small shop as CSV, the same for the same seed, some rows bad in several ways."""

import csv
import datetime
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROWS: Final = 120_000
SEED: Final = 20_26
COLUMNS: Final = (
    "order_id",
    "order_date",
    "customer",
    "country",
    "product",
    "category",
    "quantity",
    "unit_price",
    "discount",
    "amount",
    "paid",
)
_BAD_SHARE: Final = 0.005
_FIRST_DAY: Final = datetime.date(2025, 1, 1)
_DAYS: Final = 540
_COUNTRIES: Final = {"DE": 30, "FR": 18, "IT": 12, "ES": 11, "NL": 9, "PL": 8, "AT": 6, "SE": 4, "DK": 2}
_PRODUCTS: Final = (
    ("Espresso beans, 1 kg", "Coffee", 1890, 30),
    ("Filter coffee, 500 g", "Coffee", 990, 26),
    ("Decaf, 250 g", "Coffee", 690, 8),
    ("Green tea, 100 g", "Tea", 740, 14),
    ("Earl Grey, 100 g", "Tea", 680, 15),
    ("Moka pot", "Equipment", 3450, 9),
    ("Burr grinder", "Equipment", 12900, 4),
    ("Pour-over set", "Equipment", 4200, 6),
    ('Mug "Millrace", blue', "Tableware", 1250, 12),
    ("Espresso cups, set of 4", "Tableware", 2400, 7),
)
_FIRST_NAMES: Final = ("Ada", "Björn", "Chloé", "Dario", "Elif", "Frida", "Giulia", "Hugo", "Ines", "Zoë")
_LAST_NAMES: Final = ("Almeida", "Berg", "Conti", "Dubois", "Fischer", "García", "Hofer", "Łukasik")

Row = list[str]


@dataclass(frozen=True)
class Sample:
    """What was written: data rows (without the header), how many of them are bad, and bytes."""

    path: Path
    rows: int
    bad: int
    bytes: int


def write(path: Path, rows: int = ROWS, seed: int = SEED) -> Sample:
    """Writes the sample, moved into place when it is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    bad = 0
    with open(draft, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, spoiled in orders(rows, seed):
            writer.writerow(row)
            bad += spoiled
    os.replace(draft, path)
    return Sample(path, rows, bad, path.stat().st_size)


def orders(rows: int, seed: int) -> Iterator[tuple[Row, bool]]:
    """The rows, each with whether it is bad."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    days = [(_FIRST_DAY + datetime.timedelta(day)).isoformat() for day in range(_DAYS)]
    customers = [f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]
    countries = chance.choices(list(_COUNTRIES), list(_COUNTRIES.values()), k=len(customers))
    products = chance.choices(_PRODUCTS, [weight for *_, weight in _PRODUCTS], k=rows)
    for number, (product, category, cents, _) in enumerate(products, start=1):
        customer = int(chance.random() * len(customers))
        quantity = 1 + int(chance.expovariate(0.7))
        discount = (0, 0, 0, 5, 10, 15)[int(chance.random() * 6)]
        # Whole cents, half up: the amount is exact to the reader who computes it again.
        amount = (quantity * cents * (100 - discount) + 50) // 100
        row = [
            str(100_000 + number),
            days[int(number / (rows + 1) * _DAYS)],
            customers[customer],
            countries[customer],
            product,
            category,
            str(quantity),
            _money(cents),
            f"0.{discount:02d}",
            _money(amount),
            "true" if chance.random() < 0.93 else "false",
        ]
        spoiled = chance.random() < _BAD_SHARE
        yield (chance.choice(_SPOILERS)(row) if spoiled else row), spoiled


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _replaced(column: str, value: str) -> Callable[[Row], Row]:
    index = COLUMNS.index(column)
    return lambda row: [*row[:index], value, *row[index + 1 :]]


_SPOILERS: Final[tuple[Callable[[Row], Row], ...]] = (
    _replaced("quantity", "three"),
    _replaced("unit_price", "18,90 EUR"),
    _replaced("amount", "12.3.4"),
    _replaced("order_date", "2025-02-30"),
    _replaced("order_date", "31/12/2025"),
    _replaced("paid", "perhaps"),
    lambda row: row[:-3],
    lambda row: [*row, "left over", "from another row"],
)
