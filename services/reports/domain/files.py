"""Names and media types of rendered files."""

import re
import unicodedata

from services.reports.domain.definition import Format
from services.reports.domain.document import Context

MEDIA_TYPES = {
    Format.HTML: "text/html; charset=utf-8",
    Format.PDF: "application/pdf",
    Format.CSV: "text/csv; charset=utf-8; header=present",
}


def filename(definition: str, context: Context, format: Format) -> str:
    """`<definition>-<dataset>-v<version>.<format>`, in ASCII whatever the dataset is called."""
    plain = unicodedata.normalize("NFKD", context.dataset).encode("ascii", "ignore").decode().lower()
    dataset = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-") or "dataset"
    return f"{definition}-{dataset}-v{context.version}.{format.value}"
