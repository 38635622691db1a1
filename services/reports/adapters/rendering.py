"""A dataset and a definition become files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.reports.adapters.chart import draw
from services.reports.adapters.csv import write_csv
from services.reports.adapters.html import write_html
from services.reports.adapters.pdf import write_pdf
from services.reports.adapters.query import open_dataset
from services.reports.domain.columns import Column
from services.reports.domain.definition import Definition, Format
from services.reports.domain.document import Answers, Context, Document, Drawing, Printed, compose
from services.reports.domain.files import MEDIA_TYPES, filename
from services.reports.domain.planning import Plan, plan, profiled
from services.reports.errors import DatasetEmpty, shortened
from shared import telemetry


@dataclass(frozen=True)
class File:
    """A rendered file. `bytes` is its size, `filename` the name for those who download it."""

    format: Format
    path: Path
    bytes: int
    media_type: str
    filename: str


@dataclass(frozen=True)
class Rendered:
    """What a render made: its key figures as printed, and a file for each format, in the definition's order."""

    figures: tuple[Printed, ...]
    files: tuple[File, ...]


def render(
    parquet: Path,
    definition: Definition,
    context: Context,
    out: Path,
    begins: Callable[[str], None] = lambda step: None,
) -> Rendered:
    """Render the Parquet file by the definition into the directory `out`, which must exist. `begins` hears of each
    step: the query, and every format.

    The same Parquet, definition and context give the same bytes. Raises a ReportError: ColumnUnknown,
    ColumnUnsuitable, MeasureUnknown, DatasetEmpty, DatasetUnreadable, ReportTooLarge, QueryFailed or RenderFailed.
    """
    begins("querying the dataset")
    with telemetry.span("query dataset"), open_dataset(parquet, out, definition.only) as dataset:
        if definition.only and not dataset.rows:
            raise DatasetEmpty(f"No row has {' and '.join(map(shortened, definition.only.values()))[:1000]}.")
        columns = dataset.columns
        wanted = plan(definition, columns, dataset.profile(profiled(definition, columns)), dataset.rows)
        answers = dataset.answer(wanted)
    document = compose(definition.title, wanted, answers, columns, context)
    paths = _write(definition, document, wanted, answers, columns, out, begins)
    files = tuple(
        File(format, path, path.stat().st_size, MEDIA_TYPES[format], filename(definition, context, format))
        for format, path in paths.items()
    )
    return Rendered(document.figures, files)


def _write(
    definition: Definition,
    document: Document,
    wanted: Plan,
    answers: Answers,
    columns: tuple[Column, ...],
    out: Path,
    begins: Callable[[str], None],
) -> dict[Format, Path]:
    drawn = set(definition.formats) & {Format.HTML, Format.PDF} and document.drawing
    svg = _draw(drawn) if drawn else None
    paths = {format: out / f"report.{format.value}" for format in definition.formats}
    for format, path in paths.items():
        begins(f"writing {format.value}")
        with telemetry.span(f"write {format.value}"):
            match format:
                case Format.HTML:
                    write_html(document, svg, path)
                case Format.PDF:
                    write_pdf(document, svg, path)
                case Format.CSV:
                    write_csv(document.headings, answers.table[: wanted.table.limit], path)
    return paths


def _draw(drawing: Drawing) -> str:
    with telemetry.span("draw chart"):
        return draw(drawing)
