"""Pseudo-labels: a teacher's scores of recordings, stored with the teacher's identity, and joined to rated rows for training.

This is stage one of MTQ-Net's multi-task pseudo-label learning, and of any distillation. A finished row is written at once to a
journal beside the table, so a killed run continues where it stopped. The table itself appears whole or not at all.
"""

import contextlib
import csv
import hashlib
import json
import math
import operator
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.data.schema import first_few, undecoded
from hf_sqa.row_tables import import_parquet, write_table
from hf_sqa.runs import journal, locked, read_journal, whole_file

JOURNAL_VERSION = 1
SUFFIXES = (".csv", ".jsonl", ".parquet")
#: Words of the error if Parquet, the last suffix, cannot be written here.
PARQUET = ("A Parquet table", "take .csv or .jsonl")
#: Columns of the table in order; the scores come between the first and the last.
FIRST_COLUMNS = ("audio", "utterance_id", "corpus")
LAST_COLUMNS = ("status", "code", "reason", "duration_seconds", "content")
TEACHER_COLUMNS = ("teacher_id", "teacher_revision", "teacher_weights", "teacher_preprocessing")
#: Facts that identify a teacher. The same teacher may have another name or revision.
SAME_TEACHER = ("teacher_weights", "teacher_preprocessing")

Row = dict[str, Any]


@dataclass(frozen=True)
class PseudoLabels:
    """A table of pseudo-labels."""

    path: Path  # path of the table
    score_names: list[str]  # the teacher's scores
    teacher: dict[str, str | None]  # `teacher_id`, `teacher_revision`, `teacher_weights` and `teacher_preprocessing`
    # one row per recording: `audio` (relative to the table's folder, a URL, or `None`), `utterance_id`, `corpus`, the scores (NaN
    # if missing), `status` (`"ok"` or that of the error), `code`, `reason`, `duration_seconds` and `content` (SHA-256 of the file
    # or the samples, first 16 characters)
    rows: list[Row]
    num_reused: int = 0  # rows of an earlier run that were not scored again

    @property
    def reasons(self) -> Counter[str]:
        """Numbers of recordings without a score, by code."""
        return Counter(str(row["code"]) for row in self.rows if row["status"] != "ok")

    @property
    def num_failed(self) -> int:
        """Number of recordings without a score."""
        return self.reasons.total()


def pseudo_label(
    data: Any,
    teacher: Any,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> PseudoLabels:
    """Score recordings with a teacher and write a table; continue where an earlier run stopped.

    Recordings that were scored before and have not changed are not scored again; failed ones are tried again. A recording that
    cannot be scored becomes a row with a reason. A repeated recording is scored once. Rows that the table already has for other
    recordings are kept, at its end.

    Args:
        data: `datasets.Dataset` with a column `audio` (from `load_corpus`, for example), a sequence of dicts with `audio` and, if
            known, `utterance_id` and `corpus`, or a sequence of paths.
        teacher ([`~hf_sqa.pipelines.AudioQualityPipeline`]): The scoring pipeline, such as `hf_sqa.pipeline("teacher/")`.
        output (path): Table to write, `.csv`, `.jsonl` or `.parquet`. Until it is complete, the journal `.<name>.journal` lies
            beside it.
        batch_size, num_workers (`int`, *optional*): Recordings scored together, and processes that decode; they change no score.
        overwrite (`bool`, *optional*, defaults to `False`): Start anew, whatever an earlier run left.
        progress (callable, *optional*): Called after every recording with the numbers of recordings done, failed, and in total.

    Raises:
        ValueError: If `output` is the table of another teacher or not a table of pseudo-labels, or a recording has neither a path
            nor an `utterance_id`.
        OSError: If `output` cannot be written.
        Locked: If another process is writing `output`.
    """
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected `output` to end in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    if path.suffix.lower() == ".parquet":
        import_parquet(*PARQUET)
    identity = {f"teacher_{name}": value for name, value in teacher.identity().items()}
    identity = {name: identity[name] for name in TEACHER_COLUMNS}
    names = list(teacher.model.config.score_names)
    if clash := sorted(set(names) & {*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS}):
        raise ValueError(f"Expected scores named unlike the columns of the table, got {', '.join(clash)} from the teacher.")
    rows_given = _rows_of(data)
    entries = _entries(rows_given, path.parent)
    refusal = f"Another process is writing {str(path)!r}; wait for it, or choose another `output`."
    with locked(path.with_name(f".{path.name}.lock"), refusal=refusal):
        known = {} if overwrite else _known_rows(path, identity, names)
        done: dict[str, Row] = {
            key: known[key] | {name: entry[name] for name in ("utterance_id", "corpus")}
            for key, entry in entries.items()
            if key in known and (known[key]["status"], known[key]["content"]) == ("ok", entry["content"])
        }
        waiting = {key: entry for key, entry in entries.items() if key not in done}
        num_reused, num_failed = len(done), 0
        show = progress or (lambda num_done, num_failed, total: None)
        show(num_reused, 0, len(entries))
        audio = (entry["place"] or rows_given[entry["number"]]["audio"] for entry in waiting.values())
        header = {"version": JOURNAL_VERSION, "teacher": identity, "scores": names}
        with journal(journal_of(path), [header, *known.values()]) as append:
            rows = teacher(audio, on_error="row", return_details=True, batch_size=batch_size, num_workers=num_workers)
            for (key, entry), scored in zip(waiting.items(), rows, strict=True):
                row = {name: entry[name] for name in (*FIRST_COLUMNS, "content")}
                row |= {name: math.nan if scored[name] is None else scored[name] for name in names}
                row |= {name: scored[name] for name in ("status", "code", "reason", "duration_seconds")}
                append(row)
                done[key] = row
                num_failed += row["status"] != "ok"
                show(len(done), num_failed, len(entries))
        others = [row for key, row in known.items() if key not in entries]
        table = PseudoLabels(path, names, identity, [*(done[key] for key in entries), *others], num_reused + len(others))
        write_pseudo_labels(table)
        journal_of(path).unlink()
    return table


def with_pseudo_labels(data: Any, table: str | os.PathLike[str] | PseudoLabels, *, score_names: Sequence[str] | None = None) -> Any:
    """Add the teacher's scores to rated rows as labels, in columns named like the scores. Existing columns are replaced.

    Rows are matched to recordings by the location of the audio, else by `corpus` and `utterance_id` if these are unique. A row
    without a pseudo-label gets NaN, which adds nothing to a loss. `data`, and what is returned, is a `datasets.Dataset`, whose
    `info.description` then says how many rows got a label from which teacher, or a list of dicts.

    Raises:
        FileNotFoundError, ValueError: As [`read_pseudo_labels`]; if a score is not in the table, or no row gets a label.
    """
    labels = table if isinstance(table, PseudoLabels) else read_pseudo_labels(table)
    names = list(labels.score_names if score_names is None else score_names)
    if missing := [name for name in names if name not in labels.score_names]:
        raise ValueError(
            f"Expected pseudo-labels {', '.join(missing)} in {str(labels.path)!r}, got {', '.join(labels.score_names)}; label with "
            "a teacher that has these scores."
        )
    rows = [_named(row) for row in _rows_of(data)]
    matches = _matches(rows, labels)
    num_labelled = sum(match is not None and match["status"] == "ok" for match in matches)
    if not num_labelled:
        examples = first_few([str(row["place"] or row["utterance_id"]) for row in rows])
        raise ValueError(
            f"None of the {len(rows):,} rows ({examples}) has a pseudo-label in {str(labels.path)!r} ({len(labels.rows):,} "
            f"recordings, {labels.num_failed:,} of them failed); label these recordings first."
        )
    columns = {name: [math.nan if match is None else float(match[name]) for match in matches] for name in names}
    if not hasattr(data, "add_column"):
        return [{**row, **{name: columns[name][index] for name in names}} for index, row in enumerate(data)]
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    description = (
        f"pseudo-labels {', '.join(names)} of {labels.teacher['teacher_id']} (weights {labels.teacher['teacher_weights']}) for "
        f"{num_labelled:,} of {len(rows):,} rows"
    )
    description = "; ".join(filter(None, (data.info.description, description)))
    with contextlib.ExitStack() as silent:  # `datasets` draws its bars even without a terminal
        if not are_progress_bars_disabled():
            disable_progress_bars()
            silent.callback(enable_progress_bars)
        data = data.remove_columns([name for name in names if name in data.column_names]).flatten_indices()
        for name in names:
            data = data.add_column(name, columns[name])
    data.info.description = description
    return data


def journal_of(path: Path) -> Path:
    """Return the path of the file that keeps the rows of a table until the table is complete."""
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
        FileNotFoundError: If there is no such table; the message says so if a run has not finished it.
        ValueError: If it is not a table of pseudo-labels, or holds scores of several teachers.
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


def _matches(rows: Sequence[Row], labels: PseudoLabels) -> list[Row | None]:
    """Return the matching table row of each row: by the location of the audio, else by a name that is unique on both sides."""
    by_place = {_place(row["audio"], labels.path.parent): row for row in labels.rows if row["audio"]}
    name_of = operator.itemgetter("corpus", "utterance_id")
    by_name = {name_of(row): row for row in labels.rows}
    counts, row_counts = Counter(map(name_of, labels.rows)), Counter(map(name_of, rows))
    matches = []
    for row in rows:
        match = by_place.get(row["place"]) if row["place"] else None
        name = name_of(row)
        if match is None and row["utterance_id"] is not None and row_counts[name] == counts[name] == 1:
            match = by_name[name]
        matches.append(match)
    return matches


def _rows_of(data: Any) -> Any:
    """Return rows of `audio`, `utterance_id` and `corpus`. Audio stays undecoded, so a data set's recordings are read later."""
    if not hasattr(data, "cast_column"):
        return [row if isinstance(row, Mapping) and "audio" in row else {"audio": row} for row in data]
    if "audio" not in data.column_names:
        raise ValueError(f"Expected a column 'audio' with the recordings, got {', '.join(data.column_names)}.")
    return undecoded(data).select_columns([name for name in FIRST_COLUMNS if name in data.column_names])


def _named(row: Mapping[str, Any]) -> Row:
    """Return the names of a row, the location of its audio (`place`), and the audio."""
    audio = row["audio"]
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    is_place = isinstance(path, str | os.PathLike) and not (isinstance(audio, Mapping) and (audio.get("bytes") or "array" in audio))
    text = {name: None if row.get(name) in (None, "") else str(row[name]) for name in ("utterance_id", "corpus")}
    return {**text, "audio": audio, "place": _place(os.fspath(path)) if is_place and path is not None else None}


def _place(path: Any, folder: str | os.PathLike[str] = "") -> str:
    text = os.fsdecode(path)
    return text if "://" in text else os.path.abspath(os.path.join(os.fspath(folder), text))


def _entries(rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Row]:
    """Return the recordings to score, in order, by a key that is the same in every run."""
    entries: dict[str, Row] = {}
    for number, row in enumerate(rows):
        named = _named(row)
        place = named["place"]
        if place is None and named["utterance_id"] is None:
            raise ValueError(f"Expected a path or an `utterance_id` for every recording, got neither in row {number}.")
        # The path is relative, so that the table can move with its corpus.
        audio = None if place is None else place if "://" in place else os.path.relpath(place, folder.absolute())
        key = _key({**named, "audio": audio})
        if key not in entries:
            entries[key] = {
                **{"audio": audio, "utterance_id": named["utterance_id"], "corpus": named["corpus"]},
                **{"number": number, "place": place, "content": content_digest(place if place is not None else named["audio"])},
            }
    return entries


def _key(row: Mapping[str, Any]) -> str:
    return str(row["audio"]) if row["audio"] is not None else f"{row['corpus']}\t{row['utterance_id']}"


def content_digest(audio: Any) -> str | None:
    """Return the first 16 characters of the SHA-256 of a file, or of samples and their rate; `None` if there is no file to read."""
    if isinstance(audio, Mapping) and audio.get("array") is not None:
        content = f"{audio.get('sampling_rate')} ".encode() + np.ascontiguousarray(audio["array"]).tobytes()
    elif isinstance(audio, Mapping) and audio.get("bytes"):
        content = audio["bytes"]
    elif isinstance(audio, bytes | bytearray | np.ndarray | Sequence) and not isinstance(audio, str):
        content = bytes(audio) if isinstance(audio, bytes | bytearray) else np.ascontiguousarray(audio).tobytes()
    else:
        try:
            content = Path(audio["path"] if isinstance(audio, Mapping) else audio).read_bytes()
        except (OSError, TypeError, ValueError):
            return None
    return hashlib.sha256(content).hexdigest()[:16]


def _known_rows(path: Path, teacher: Mapping[str, Any], names: Sequence[str]) -> dict[str, Row]:
    """Return rows of earlier runs by key; the journal overrides the table. Refuse rows of another teacher."""
    earlier: list[tuple[Mapping[str, Any], Sequence[str], list[Row]]] = []
    if path.is_file() and (table := read_pseudo_labels(path)).rows:
        earlier.append((table.teacher, table.score_names, table.rows))
    remedy = "remove the file, or pass `overwrite=True`"
    if records := read_journal(journal_of(path), remedy=remedy):
        header, *kept = records
        if header.get("version") != JOURNAL_VERSION:
            raise ValueError(f"{str(journal_of(path))!r} is no journal of pseudo-labels that this version reads; {remedy}.")
        earlier.append((header["teacher"], header["scores"], kept))
    known: dict[str, Row] = {}
    for was, names_then, rows in earlier:
        if list(names_then) != list(names) or any(was.get(name) != teacher[name] for name in SAME_TEACHER):
            raise ValueError(
                f"Expected the teacher that gave the {len(rows):,} rows of {str(path)!r}, {_described(was, names_then)}, got "
                f"{_described(teacher, names)}. Scores of two teachers do not belong in one table: choose another `output`, or "
                "start it again with `overwrite=True` (`--overwrite`)."
            )
        known |= {_key(row): row for row in rows}
    return known


def _described(teacher: Mapping[str, Any], names: Sequence[str]) -> str:
    weights, preprocessing = teacher.get("teacher_weights"), teacher.get("teacher_preprocessing")
    return f"{teacher.get('teacher_id')} ({', '.join(names)}; weights {weights}, preprocessing {preprocessing})"


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
