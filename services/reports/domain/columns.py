"""What is known of a dataset's columns: their kind, and figures of their values."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Kind(StrEnum):
    """What can be done with a column. `other` (blobs, lists, times …) is grouped by its text form."""

    NUMBER = "number"
    TEXT = "text"
    DATE = "date"
    BOOLEAN = "boolean"
    OTHER = "other"


_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


@dataclass(frozen=True)
class Column:
    """A column of the Parquet file, `type` as DuckDB names it."""

    name: str
    type: str

    @property
    def kind(self) -> Kind:
        base = self.type.upper().partition("(")[0].removeprefix("U")
        if base in _NUMBERS:
            return Kind.NUMBER
        if base == "VARCHAR" or self.type.upper().startswith("ENUM"):
            return Kind.TEXT
        if base == "DATE" or base.startswith("TIMESTAMP"):
            return Kind.DATE
        return Kind.BOOLEAN if base == "BOOLEAN" else Kind.OTHER

    @property
    def is_float(self) -> bool:
        return self.type.upper() in ("FLOAT", "DOUBLE")

    @property
    def is_integer(self) -> bool:
        return self.kind is Kind.NUMBER and not self.is_float and not self.type.upper().startswith("DECIMAL")


@dataclass(frozen=True)
class Profile:
    """Figures of one column: non-empty values, about how many differ, longest text in bytes, first and last
    day (date columns only)."""

    filled: int
    distinct: int
    longest: int = 0
    first: date | None = None
    last: date | None = None
