"""Named failures of `ingest`: files that cannot become a dataset. None of them is worth another attempt."""

from shared.errors import MillraceError


class FileRefused(MillraceError):
    """The file as a whole cannot be loaded. `detail` says what is wrong with it, and where."""

    code, status, title = "csv.refused", 422, "The file cannot be loaded"


class EmptyFile(FileRefused):
    """No bytes, or nothing but blank lines."""

    code, title = "csv.empty", "The file is empty"


class BinaryFile(FileRefused):
    """A known binary format, or bytes that no text holds (NUL)."""

    code, title = "csv.binary", "The file is not text"


class WrongEncoding(FileRefused):
    """Not UTF-8. Facts: `line`, and `offset` of the first bad byte (0-based, bytes), where known."""

    code, title = "csv.encoding", "The file is not UTF-8"


class WrongLineEndings(FileRefused):
    """Lines end in CR alone, as classic Mac OS wrote them."""

    code, title = "csv.line_endings", "The file's line endings are not supported"


class BadHeader(FileRefused):
    """The first row does not name the columns: missing, empty, repeated or unusable names."""

    code, title = "csv.header", "The header row is missing or unusable"


class NoValidRows(FileRefused):
    """Every data row was rejected. Facts: `rows_rejected`. The rejects file is written all the same."""

    code, title = "csv.no_valid_rows", "No row could be loaded"


class PartMissing(MillraceError):
    """A part of the upload was not read, and nobody reads it any more. Facts: `job`, the part's."""

    code, status, title = "dataset.part_missing", 422, "A part of the file was not read"


class TooMuchMemory(FileRefused):
    """Within the limits of cells, rows and columns, and still more than the engine can hold at once."""

    code, title = "csv.too_much_memory", "The file needs too much memory"
