"""What `ingest` talks to outside: the CSV engine (files in, Parquet out)."""

from services.ingest.adapters.loader import LoadResult, load_csv
from services.ingest.adapters.profile import ColumnProfile
from services.ingest.adapters.reading import read_rejects

__all__ = ["ColumnProfile", "LoadResult", "load_csv", "read_rejects"]
