"""Writes tables of rows: JSON lines, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from hf_sqa.cells import csv_cell, finite
from hf_sqa.extras import import_extra

#: Rows of Parquet that are held at a time if the file is written in pieces.
ROWS_AT_A_TIME = 10_000


class RowWriter:
    """Writes rows as they come, so that an interrupted run keeps finished rows; Parquet is written on `close`.

    `kind` is `.jsonl`, `.csv`, `.tsv` or `.parquet`, by default the suffix of `path`. A `stream` gets the rows instead of `path`,
    and stays open. With `in_pieces`, for a file that only appears when it is whole, rows may be held back until there are many;
    Parquet is then written in pieces. `columns` of CSV and Parquet are by default those of the first row; if `numbers` names those
    that hold numbers in Parquet, all others hold text. For `as_text`, see [`~hf_sqa.cells.csv_cell`]; `errors` is how names that
    are not UTF-8 are written.
    """

    def __init__(
        self,
        path: Path,
        kind: str = "",
        stream: IO[str] | None = None,
        *,
        in_pieces: bool = False,
        columns: Sequence[str] | None = None,
        numbers: Collection[str] | None = None,
        as_text: bool = True,
        errors: str = "backslashreplace",
    ):
        self._path, self._kind, self._file = path, kind or path.suffix.lower(), stream
        self._is_ours, self._in_pieces, self._numbers, self._as_text = stream is None, in_pieces, numbers, as_text
        self._columns = columns
        self._waiting: list[dict[str, Any]] = []
        self._parquet: Any = None
        self._schema: Any = None  # Types of the values so far; a column without any value has the type null
        if self._kind == ".parquet":
            import_parquet("Writing Parquet", "write .csv or .jsonl")
            path.open("ab").close()  # fails now if the file cannot be written
        elif stream is None:
            self._file = path.open("w", encoding="utf-8", errors=errors, newline="")
        if self._kind in (".csv", ".tsv"):
            self._csv = csv.writer(self._file, delimiter="\t" if self._kind == ".tsv" else ",")  # type: ignore[arg-type]
            if columns is not None:
                self._write_header(columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._file is not None and self._is_ours:
            self._file.close()

    def write(self, row: dict[str, Any]) -> None:
        if self._kind == ".parquet":
            self._waiting.append(row)
            if self._in_pieces and len(self._waiting) == ROWS_AT_A_TIME:
                self._write_piece()
            return
        assert self._file is not None
        if self._kind == ".jsonl":
            self._file.write(json.dumps(finite(row), ensure_ascii=False, allow_nan=False, default=str) + "\n")
        else:
            if self._columns is None:
                self._columns = list(row)
                self._write_header(self._columns)
            # A row that could not be read has fewer columns than the others, never more.
            self._csv.writerow([csv_cell(row.get(name), self._as_text) for name in self._columns])
        if not self._in_pieces:
            self._file.flush()

    def close(self) -> None:
        """
        Raises:
            OSError: If the file does not hold all rows: the disk is full, or the file was removed meanwhile.
        """
        if self._kind == ".parquet":
            self._write_piece()
            self._parquet.close()
        elif self._file is not None and self._is_ours:
            self._file.close()
            if not self._path.exists():
                raise FileNotFoundError(errno.ENOENT, "it was removed while it was written", str(self._path))

    def _write_header(self, columns: Sequence[str]) -> None:
        self._csv.writerow([csv_cell(name, self._as_text) for name in columns])

    def _write_piece(self) -> None:
        import pyarrow

        try:
            table = self._waiting_as_table()
            schema = table.schema
            if self._schema is not None:
                schema = pyarrow.unify_schemas([self._schema, schema], promote_options="permissive")
            if schema != self._schema:
                self._begin_parquet(schema)
            if self._waiting:
                self._parquet.write_table(_fitted(table, self._parquet.schema))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"A column holds values of several kinds ({reason}), and a column of Parquet cannot; write .csv or .jsonl."
            ) from error
        self._waiting = []

    def _waiting_as_table(self) -> Any:
        import pyarrow

        if self._numbers is not None:
            types = {True: pyarrow.float64(), False: pyarrow.string()}
            schema = pyarrow.schema([(name, types[name in self._numbers]) for name in self._columns or ()])
            return pyarrow.Table.from_pylist(self._waiting, schema)
        names = self._columns or dict.fromkeys(name for row in self._waiting for name in row)
        return pyarrow.table({name: pyarrow.array([row.get(name) for row in self._waiting]) for name in names})

    def _begin_parquet(self, schema: Any) -> None:
        """Begin the file, or begin it again with wider types, as a column that was empty or held integers now holds numbers."""
        import pyarrow
        import pyarrow.parquet

        written = None
        if self._parquet is not None:
            self._parquet.close()
            written = pyarrow.parquet.read_table(self._path)
        # A column that is empty so far becomes text, and one with only empty lists becomes lists of text.
        text = {pyarrow.null(): pyarrow.string(), pyarrow.list_(pyarrow.null()): pyarrow.list_(pyarrow.string())}
        fields = [field.with_type(text.get(field.type, field.type)) for field in schema]
        self._schema = schema
        self._parquet = pyarrow.parquet.ParquetWriter(self._path, pyarrow.schema(fields), compression="zstd")
        if written is not None:
            self._parquet.write_table(_fitted(written, self._parquet.schema))


def write_table(path: Path, rows: Iterable[dict[str, Any]], kind: str = "", **options: Any) -> None:
    """Write all rows; see [`RowWriter`]."""
    with RowWriter(path, kind, in_pieces=True, **options) as writer:
        for row in rows:
            writer.write(row)


def _fitted(table: Any, schema: Any) -> Any:
    """Return a table with the columns and types of a schema; columns that it lacks are empty."""
    import pyarrow

    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pyarrow.nulls(len(table), field.type)
        for field in schema
    ]
    return pyarrow.table(columns, schema=schema)


def import_parquet(what: str, instead: str = "") -> Any:
    """Import `pyarrow.parquet`, or raise a `ValueError` that says how to install it."""
    return import_extra("pyarrow.parquet", what, "corpus", instead, ValueError)
