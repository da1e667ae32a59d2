"""Read tables as people have them: delimited text from any program, Excel, JSON lines. All tables of labels or recordings go here.

Rows come one by one with their line numbers, as dicts by column. In place of a row that cannot be parsed stands a `ValueError`,
which the caller raises or turns into a row of its own. Cells are stripped; blank rows, columns without a name and cells outside the
table are left out.
"""

import contextlib
import csv
import datetime
import io
import itertools
import json
import re
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_sqa.extras import import_extra

DELIMITERS = ",;\t|"
#: The line that states the delimiter of a table for Excel.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
QUOTED = re.compile(r'"(?:[^"]|"")*"')
#: Most characters in a line, and most rows in a sheet (as in Excel): whatever follows is not held in memory, or waited for.
MAX_LINE, MAX_SHEET_ROWS = 1 << 24, 1 << 20
#: Most bytes of an unpacked Excel table; a few kilobytes of compressed XML can unpack to any size.
MAX_SHEET_BYTES = 1 << 30
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")

#: The cells of a row, or what is wrong with it, and its line number from 1.
Cells = tuple[list[str] | ValueError, int]
#: The same, with the cells as a dict by column.
Record = tuple[dict[str, Any] | ValueError, int]


def read_table(path: Path, sheet: str | None = None) -> tuple[list[str], Iterator[Record]]:
    """Return the names of the columns and the rows of an Excel table (`.xlsx`) or of delimited text."""
    if path.suffix.lower() == ".xlsx":
        return _by_column(sheet_cells(path, sheet), path.name)
    return _by_column(delimited_cells(lines_of(path)), path.name)


def read_delimited(binary: Any, name: str) -> tuple[list[str], Iterator[Record]]:
    """Like `read_table`, for a binary file that holds delimited text."""
    return _by_column(delimited_cells(text_lines(binary)), name)


def read_sheet(binary: Any, name: str) -> tuple[list[str], Iterator[Record]]:
    """Like `read_table`, for the first sheet of a binary file that holds an Excel table."""
    return _by_column(sheet_cells(Path(name), binary=binary), name)


def delimited_cells(lines: Iterable[str], has_header: bool = True) -> Iterator[Cells]:
    """Yield the rows of delimited text that are not blank, from lines that include their line ends.

    If the first row is a header, a row with more or fewer cells is a `ValueError`; empty cells at its end do not count.
    """
    source = iter(lines)
    number, first = next(((number, line) for number, line in enumerate(source, 1) if line.strip()), (0, ""))
    if not number:
        return
    waiting: deque[str] = deque()
    if separator := SEPARATOR_LINE.fullmatch(first):
        delimiter = separator[1]
    else:
        delimiter = max(DELIMITERS, key=QUOTED.sub("", first).count)
        waiting.append(first)
        number -= 1
    widths: tuple[int, int] | None = None

    def fed(taken: list[str]) -> Iterator[str]:
        """Yield lines as long as the row needs them, and append them to `taken`."""
        while line := waiting.popleft() if waiting else next(source, ""):
            taken.append(line)
            yield line

    while True:
        taken: list[str] = []
        cells: list[str] | ValueError
        try:
            cells = [cell.strip() for cell in next(csv.reader(fed(taken), delimiter=delimiter), [])]
        except csv.Error as error:
            cells = ValueError(str(error))
        if not taken:
            return
        if isinstance(cells, list) and any(cells) and has_header:
            named, most = widths = widths or (max(place for place, cell in enumerate(cells, 1) if cell), len(cells))
            fits = len(cells) >= named and not any(cells[most:])
            expected = f"expected {named} cells, got {len(cells)}; quote cells that hold a {delimiter!r}"
            cells = cells[:most] if fits else ValueError(expected)
        if isinstance(cells, ValueError) and len(taken) > 1:  # an unclosed quote must not swallow the rows that follow
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            cells = ValueError("a quote begins here that does not end; double a quote that belongs to a cell")
        if isinstance(cells, ValueError) or any(cells):
            yield cells, number + 1
        number += len(taken)


def text_lines(binary: Any) -> Iterator[str]:
    """Yield the lines of a binary file in UTF-8 or, after its mark, UTF-16; other bytes stay in their cells as lone surrogates."""
    peekable = binary if hasattr(binary, "peek") else io.BufferedReader(binary)
    wide = peekable.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    # newline="": a line end within quotes belongs to its cell.
    text = io.TextIOWrapper(peekable, "utf-16" if wide else "utf-8-sig", errors="surrogateescape", newline="")
    try:
        for line in bounded_lines(text):
            yield line.replace("\0", "\N{REPLACEMENT CHARACTER}")  # csv before Python 3.12 stops at NUL
    finally:
        with contextlib.suppress(ValueError):  # closed already by its owner
            text.detach()


def lines_of(path: Path) -> Iterator[str]:
    """Like `text_lines`, for the file at a path."""
    with path.open("rb") as file:
        yield from text_lines(file)


def bounded_lines(file: Any) -> Iterator[Any]:
    """Yield the lines of a text or binary file, cut to `MAX_LINE`; a line that was cut is not a whole row."""
    if not isinstance(file, (io.TextIOBase, io.BufferedIOBase)):
        file = io.BufferedReader(file)  # the `readline` of files of fsspec takes no limit
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and line[-1:] not in ("\n", "\r", b"\n"):
            line = file.readline(MAX_LINE)


def sheet_cells(path: Path, sheet: str | None = None, binary: Any = None) -> Iterator[Cells]:
    """Yield the rows of a sheet of an Excel table that are not blank, as Excel shows them; dates as ISO 8601.

    A formula gives its last saved value; if none was saved, as in tables that programs write, its row is a `ValueError`. If there
    is no sheet named `sheet`, the first is read; if `binary`, a seekable file, is given, it is read and not the file at `path`. A
    file that is not an Excel table, or has more rows or bytes than a table can have, is a `ValueError`.
    """
    openpyxl = import_extra("openpyxl", f"The Excel table {str(path)!r}", "xlsx", "save it as CSV")
    try:
        # Once with the values that formulas had, once with the formulas.
        source = path if binary is None else binary
        with zipfile.ZipFile(source) as archive:
            if (num_bytes := sum(member.file_size for member in archive.infolist())) > MAX_SHEET_BYTES:
                raise ValueError(f"it unpacks to {num_bytes:,} bytes, more than {MAX_SHEET_BYTES:,}")
        books = [openpyxl.load_workbook(source, read_only=True, data_only=values) for values in (True, False)]
        sheets = [book[sheet] if sheet in book.sheetnames else book.worksheets[0] for book in books]
        for each in sheets:
            each.reset_dimensions()  # those stated in the file may be wrong by a million cells
        for line, rows in enumerate(zip(*(each.iter_rows(values_only=True) for each in sheets), strict=True), 1):
            shown, written = rows
            if line > MAX_SHEET_ROWS:
                raise ValueError(f"it names rows beyond the {MAX_SHEET_ROWS:,} of a sheet")
            if any(value is not None for value in written):
                unsaved = next((formula for value, formula in zip(shown, written, strict=True) if value is None and formula), None)
                if unsaved is not None:
                    yield ValueError(f"the formula {unsaved} has no saved value; open the table in Excel and save it"), line
                elif any(cells := [_shown(value) for value in shown]):
                    yield cells, line
        for each in books:
            each.close()
    except OSError:
        raise
    except Exception as error:  # a damaged archive or XML raises a dozen kinds of error
        raise ValueError(f"Expected an Excel table (.xlsx), got {str(path)!r}: {error}. Save it as CSV.") from None


def json_records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield the objects of JSON lines; blank lines are left out."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_json(line), number


def parse_json(text: str | bytes) -> dict[str, Any] | ValueError:
    """Parse one JSON object, or return what is wrong with it."""
    try:
        record = json.loads(text)
    except ValueError as error:
        return ValueError(str(error))
    except RecursionError:
        return ValueError("it is nested too deeply")
    return record if isinstance(record, dict) else ValueError(f"expected a JSON object, got {type(record).__name__}")


def read_number(value: Any) -> float:
    """Read a number as people write it: `3.5`, `"3,5"` (a decimal comma), `" 3.5 "`.

    Text, `"1,234.5"`, `"1_0"`, and true and false, which Python takes for 1 and 0, are no numbers (`ValueError`).
    """
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, bool) or (isinstance(text, str) and "_" in text):
        raise ValueError(f"expected a number, got {value!r}")
    if isinstance(text, str) and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected a number, got {value!r}") from None


def _by_column(rows: Iterator[Cells], name: str) -> tuple[list[str], Iterator[Record]]:
    header, _ = next(rows, ([], 0))
    if isinstance(header, ValueError):
        raise ValueError(f"Expected a header in {name}, got a row that cannot be read: {header}.")
    names = [column for column in header if column]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected columns of different names in {name}, got {', '.join(names)}.")

    def records() -> Iterator[Record]:
        for cells, line in rows:
            if isinstance(cells, ValueError):
                yield cells, line
                continue
            record = {column: cell for column, cell in itertools.zip_longest(header, cells[: len(header)], fillvalue="") if column}
            if any(record.values()):
                yield record, line

    return names, records()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return str(value).strip()
