"""What `ingest` talks to outside: the CSV engine (files in, Parquet out)."""

from services.ingest.adapters.loader import LoadResult, load_csv
from services.ingest.adapters.parts import REJECTS, PartRead, Plan, join_parts, plan_parts, read_part
from services.ingest.adapters.profile import ColumnProfile
from services.ingest.adapters.reading import read_rejects

__all__ = [
    "REJECTS",
    "ColumnProfile",
    "LoadResult",
    "PartRead",
    "Plan",
    "join_parts",
    "load_csv",
    "plan_parts",
    "read_part",
    "read_rejects",
]
