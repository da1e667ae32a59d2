"""The table of pseudo-labels: a teacher's scores of recordings with the teacher's identity, as CSV, JSON lines or Parquet."""

import csv
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_sqa.row_tables import import_parquet, write_table
from hf_sqa.runs import whole_file

SUFFIXES = (".csv", ".jsonl", ".parquet")
#: What an error says of the last where it cannot be had.
PARQUET = ("A Parquet table", "take .csv or .jsonl")
#: Columns of the table, in order, around those of the scores.
FIRST_COLUMNS = ("audio", "utterance_id", "corpus")
LAST_COLUMNS = ("status", "code", "reason", "duration_seconds", "content")
TEACHER_COLUMNS = ("teacher_id", "teacher_revision", "teacher_weights", "teacher_preprocessing")
#: What makes a teacher another one; its name and its revision may change without.
SAME_TEACHER = ("teacher_weights", "teacher_preprocessing")

Row = dict[str, Any]


@dataclass(frozen=True)
class PseudoLabels:
    """A table of pseudo-labels."""

    path: Path  # where it is
    score_names: list[str]  # the teacher's scores
    teacher: dict[str, str | None]  # `teacher_id`, `teacher_revision`, `teacher_weights` and `teacher_preprocessing`
    # a row a recording: `audio` (relative to the table's folder, a URL, or `None`), `utterance_id`, `corpus`, the scores (NaN where
    # there is none), `status` (`"ok"` or that of the error), `code`, `reason`, `duration_seconds` and `content` (SHA-256 of the
    # file or the samples, first 16 characters)
    rows: list[Row]
    num_reused: int = 0  # rows of an earlier run that were not scored again
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reasons.update(str(row["code"]) for row in self.rows if row["status"] != "ok")

    @property
    def num_failed(self) -> int:
        """Recordings without a score; `reasons` counts them by code."""
        return sum(self.reasons.values())


def journal_of(path: Path) -> Path:
    """File that keeps the rows of a table until it is complete."""
    return path.with_name(f".{path.name}.journal")


def write_pseudo_labels(table: PseudoLabels) -> None:
    """Write a table, whole or not at all."""
    header = [*FIRST_COLUMNS, *table.score_names, *LAST_COLUMNS, *TEACHER_COLUMNS]
    rows = [{name: (row | table.teacher)[name] for name in header} for row in table.rows]
    with whole_file(table.path, durable=True) as unfinished:
        how: dict[str, Any] = {"columns": header, "numbers": {*table.score_names, "duration_seconds"}, "as_text": False}
        write_table(unfinished, rows, table.path.suffix.lower(), **how, errors="surrogateescape")


def read_pseudo_labels(path: str | os.PathLike[str]) -> PseudoLabels:
    """Read a table of pseudo-labels.

    Raises:
        FileNotFoundError: If there is none; says so if a run has not finished it.
        ValueError: If it is another table, or holds scores of several teachers.
    """
    path = Path(path)
    if not path.is_file():
        if journal_of(path).is_file():
            raise FileNotFoundError(
                f"{str(path)!r} is not finished: run `hf-sqa pseudo-label` with its options again to complete it."
            )
        raise FileNotFoundError(f"Expected pseudo-labels at {str(path)!r}, got no file; `hf-sqa pseudo-label` makes them.")
    header, rows = _records(path)
    known = (*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS)
    if missing := [name for name in known if name not in header]:
        raise ValueError(
            f"Expected a table of pseudo-labels in {str(path)!r}, got one without {', '.join(missing)}; "
            "`hf-sqa pseudo-label` makes it."
        )
    names = [name for name in header if name not in known]
    for number, row in enumerate(rows, start=1):
        for name in (*names, "duration_seconds"):
            row[name] = _number(row.get(name), name, f"{str(path)!r}, row {number}")
        if math.isnan(row["duration_seconds"]):
            row["duration_seconds"] = None
    if len({tuple(row[name] for name in SAME_TEACHER) for row in rows}) > 1:
        raise ValueError(f"Expected scores of one teacher in {str(path)!r}, got several; label again into another file.")
    teacher = {name: rows[0][name] if rows else None for name in TEACHER_COLUMNS}
    kept = [{name: row[name] for name in (*FIRST_COLUMNS, *names, *LAST_COLUMNS)} for row in rows]
    return PseudoLabels(path, names, teacher, kept)


def _records(path: Path) -> tuple[list[str], list[Row]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected pseudo-labels in a file ending in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    try:
        if suffix == ".parquet":
            table = import_parquet(*PARQUET).read_table(path)
            return table.column_names, table.to_pylist()
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            return list(rows[0]) if rows else [*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS], rows
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), [{name: cell or None for name, cell in row.items() if name} for row in reader]
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(f"Expected a table of pseudo-labels in {str(path)!r}, got something else ({error}).") from None


def _number(cell: Any, column: str, place: str) -> float:
    try:
        return math.nan if cell is None else float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"Expected numbers in the column {column!r} of {place}, got {cell!r}.") from None
