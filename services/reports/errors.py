"""Named failures of the reports service.

A ReportError ends a render: the same Parquet and the same definition would fail in the same way again, so none
of them is retried. The others answer requests.
"""

from shared.errors import Conflict, MillraceError, NotFound


def shortened(name: str) -> str:
    """A name as quoted in a message: at most 60 characters, with control characters escaped."""
    return repr(name if len(name) <= 60 else name[:59] + "…")


def listed(names: tuple[str, ...], most: int = 12) -> str:
    """The first names and how many more there are."""
    shown = ", ".join(shortened(name) for name in names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class ReportError(MillraceError):
    """A report that cannot be made from this definition and this version of the dataset."""

    code, status, title = "report.failed", 422, "The report cannot be rendered"


class ColumnUnknown(ReportError):
    """A definition names a column that this version of the dataset does not have."""

    code = "report.column_unknown"

    def __init__(self, column: str, where: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"{where} names column {shortened(column)}, which the dataset does not have; its columns: {listed(known)}.",
            column=column[:200],
        )


class ColumnUnsuitable(ReportError):
    """A function or a time bucket is applied to a column of a type that it is not made for."""

    code = "report.column_unsuitable"

    def __init__(self, column: str, where: str, needs: str, found: str) -> None:
        super().__init__(
            f"{where} needs a {needs} column; {shortened(column)} is of type {found[:60]}.", column=column[:200]
        )


class MeasureUnknown(ReportError):
    """A chart's `y` is the label of no measure of the table and of no figure."""

    code = "report.measure_unknown"

    def __init__(self, label: str, known: tuple[str, ...]) -> None:
        super().__init__(f"chart.y names {shortened(label)}; the report's measures: {listed(known)}.", label=label)


class DatasetUnreadable(ReportError):
    """The Parquet file is missing, cut off, or not Parquet."""

    code = "report.dataset_unreadable"


class ReportTooLarge(ReportError):
    """The query needs more memory or scratch space than a render is given."""

    code = "report.too_large"


class QueryFailed(ReportError):
    """The data engine refused the query for a reason of the data, such as a sum past the type's range."""

    code = "report.query_failed"


class RenderFailed(ReportError):
    """The chart engine or the document engine failed."""

    code = "report.render_failed"


class DatasetEmpty(ReportError):
    """The version has no rows: there is nothing to report on."""

    code = "report.dataset_empty"


class DatasetUnnamed(ReportError):
    """It does not say which dataset, or another than the definition does."""

    code = "report.dataset_unnamed"


class DatasetUnknown(ReportError):
    """The workspace has no complete version of the dataset."""

    code = "report.dataset_unknown"


class RenderMissing(ReportError):
    """A job names a render that is not there (any more)."""

    code = "report.render_missing"


class DefinitionExists(Conflict):
    code, title = "definition.exists", "The definition exists"


class DefinitionNotFound(NotFound):
    code, title = "definition.not_found", "Unknown report definition"


class RenderNotFound(NotFound):
    code, title = "render.not_found", "Unknown render"


class ArtifactNotFound(NotFound):
    code, title = "artifact.not_found", "Unknown artifact"
