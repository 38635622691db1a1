"""Which definitions get a render when a version of a dataset is complete."""

from collections.abc import Mapping, Sequence

from services.reports.domain.columns import Column
from services.reports.domain.definition import ANY_DATASET, Definition
from services.reports.domain.planning import plan
from services.reports.errors import DatasetEmpty, MeasureUnknown, ReportError

_ENGINE_TYPES: Mapping[str, str] = {"text": "VARCHAR"}
"""Type names of ingest's events that differ from the data engine's."""


def column(name: str, type: str) -> Column:
    """A column as `ingest` announces it (bigint, decimal, double, boolean, date, timestamp or text)."""
    return Column(name, _ENGINE_TYPES.get(type, type.upper()))


def why_not(definition: Definition, columns: Sequence[Column], rows: int) -> ReportError | None:
    """Why the definition is skipped for a version with these columns and rows; None when it is to be rendered.

    A definition for every dataset that names columns is skipped where they are missing: it was not made for
    that dataset. One that names its dataset is rendered, and fails where its columns are gone: somebody
    relies on it.
    """
    if rows == 0:
        return DatasetEmpty("This version of the dataset has no rows to report on.")
    if definition.dataset != ANY_DATASET:
        return None
    try:
        plan(definition, columns, {}, rows)
    except MeasureUnknown:
        return None  # it may be a measure that is derived from the data, which nobody has looked at yet
    except ReportError as error:
        return error
    return None
