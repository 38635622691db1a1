"""Names and media types of rendered files."""

import re
import unicodedata

from services.reports.domain.definition import Definition, Format
from services.reports.domain.document import Context

MEDIA_TYPES = {
    Format.HTML: "text/html; charset=utf-8",
    Format.PDF: "application/pdf",
    Format.CSV: "text/csv; charset=utf-8; header=present",
}


def filename(definition: Definition, context: Context, format: Format) -> str:
    """`<definition>-<dataset>-v<version>.<format>`, in ASCII whatever the dataset is called; of a report that has only
    some rows, with the values that these have before the version."""
    only = _plain(" ".join(definition.only.values()))
    parts = [definition.name, _plain(context.dataset) or "dataset", *([only] if only else []), f"v{context.version}"]
    return f"{'-'.join(parts)}.{format.value}"


def _plain(text: str) -> str:
    """In lower case, with hyphens for what a file's name had better not hold; at most 60 characters."""
    ascii = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii).strip("-")[:60].strip("-")
