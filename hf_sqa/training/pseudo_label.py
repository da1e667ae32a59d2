"""Pseudo-labels: a teacher's scores of recordings, stored with the teacher's identity, and joined to rated rows for training.

Stage one of MTQ-Net's multi-task pseudo-label learning, and of any distillation. A row that is done is in a journal beside the
table at once, so a run that was killed goes on where it stopped; the table itself appears whole or not at all.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.data.schema import first_few
from hf_sqa.runs import whole_file

SUFFIXES = (".csv", ".jsonl", ".parquet")
#: Columns of the table, in order, around those of the scores.
FIRST_COLUMNS = ("audio", "utterance_id", "corpus")
LAST_COLUMNS = ("status", "code", "reason", "duration_seconds", "content")
TEACHER_COLUMNS = ("teacher_id", "teacher_revision", "teacher_weights", "teacher_preprocessing")
#: What makes a teacher another one; its name and its revision may change without.
SAME_TEACHER = ("teacher_weights", "teacher_preprocessing")
JOURNAL_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class PseudoLabels:
    """A table of pseudo-labels.

    Args:
        path (`Path`): Where it is.
        score_names (`list[str]`): The teacher's scores.
        teacher (`dict`): `teacher_id`, `teacher_revision`, `teacher_weights` and `teacher_preprocessing`, as by
            `hf_sqa.pipelines.model_identity`.
        rows (`list[dict]`): A row a recording: `audio` (relative to the table's folder, a URL, or `None`), `utterance_id`,
            `corpus`, the scores (NaN where there is none), `status` (`"ok"` or that of the error), `code`, `reason`,
            `duration_seconds` and `content` (SHA-256 of the file or the samples, first 16 characters).
        num_reused (`int`): Rows of an earlier run that were not scored again.
    """

    path: Path
    score_names: list[str]
    teacher: dict[str, str | None]
    rows: list[Row]
    num_reused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reasons.update(str(row["code"]) for row in self.rows if row["status"] != "ok")

    @property
    def num_failed(self) -> int:
        """Recordings without a score; `reasons` counts them by code."""
        return sum(self.reasons.values())


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
    """Score recordings with a teacher and write a table; go on where an earlier run stopped.

    Recordings done already, whose content is the same, are not scored again; failed ones are tried again. A recording that cannot
    be scored is a row with a reason. A repeated recording is scored once. Rows of other recordings stay in the table, last.

    Args:
        data: `datasets.Dataset` with a column `audio` (from `load_corpus`, say), or a sequence of dicts with `audio` and, as far as
            known, `utterance_id` and `corpus`, or of paths.
        teacher ([`~hf_sqa.pipelines.AudioQualityPipeline`]): What scores, `hf_sqa.pipeline("teacher/")`.
        output (path): Table to write, `.csv`, `.jsonl` or `.parquet`. Until it is complete the journal lies beside it, named
            `.<name>.journal`.
        batch_size, num_workers (`int`, *optional*): Recordings scored together, and processes that decode; they change no score.
        overwrite (`bool`, *optional*, defaults to `False`): Leave an earlier table and journal out of account.
        progress (callable, *optional*): Called with the numbers done, failed, and in all, after every recording.

    Returns:
        [`PseudoLabels`]: The table as written.

    Raises:
        ValueError: If `output` is a table of another teacher or of something else, or a recording has neither path nor
            `utterance_id`.
        OSError: If it cannot be written.
        RuntimeError: If another process is writing it.
    """
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected `output` to end in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()
    identity = _teacher_columns(teacher.identity())
    names = list(teacher.model.config.score_names)
    if clash := sorted(set(names) & {*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS}):
        raise ValueError(f"Expected scores named unlike the columns of the table, got {', '.join(clash)} from the teacher.")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_given = _Rows(data)
    entries = _entries(rows_given, path.parent)
    journal = path.with_name(f".{path.name}.journal")
    with _alone(journal) as file:
        known = {} if overwrite else _known(path, journal, identity, names)
        done: dict[str, Row] = {}
        waiting = []
        for key, entry in entries.items():
            row = known.get(key)
            if row is not None and row["status"] == "ok" and row["content"] == entry["content"]:
                done[key] = {**row, "utterance_id": entry["utterance_id"], "corpus": entry["corpus"]}
            else:
                waiting.append(key)
        _begin_journal(file, identity, names, known)
        num_reused, num_failed = len(done), 0
        if progress is not None:
            progress(len(done), 0, len(entries))
        audio = _Recordings(rows_given, [entries[key] for key in waiting])
        rows = teacher(audio, on_error="row", return_details=True, batch_size=batch_size, num_workers=num_workers)
        for key, scored in zip(waiting, rows, strict=True):
            row = {name: entries[key][name] for name in (*FIRST_COLUMNS, "content")}
            row |= {name: scored[name] for name in (*names, "status", "code", "reason", "duration_seconds")}
            done[key] = row
            file.write(_line(row))
            file.flush()
            num_failed += row["status"] != "ok"
            if progress is not None:
                progress(len(done), num_failed, len(entries))
        others = [row for key, row in known.items() if key not in entries]
        table = PseudoLabels(path, names, identity, [*(done[key] for key in entries), *others], num_reused + len(others))
        _write(table)
        journal.unlink()
    return table


def read_pseudo_labels(path: str | os.PathLike[str]) -> PseudoLabels:
    """Read a table that [`pseudo_label`] wrote.

    Raises:
        FileNotFoundError: If there is none; says so if a run has not finished it.
        ValueError: If it is another table, or holds scores of several teachers.
    """
    path = Path(path)
    if not path.is_file():
        if path.with_name(f".{path.name}.journal").is_file():
            raise FileNotFoundError(
                f"{str(path)!r} is not finished: run `hf-sqa pseudo-label` with its options again to complete it."
            )
        raise FileNotFoundError(f"Expected pseudo-labels at {str(path)!r}, found none; `hf-sqa pseudo-label` makes them.")
    header, rows = _table(path)
    wanted = (*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS)
    if missing := [name for name in wanted if name not in header]:
        raise ValueError(
            f"Expected a table of pseudo-labels in {str(path)!r}, got one without {', '.join(missing)}; "
            "`hf-sqa pseudo-label` makes it."
        )
    names = [name for name in header if name not in wanted]
    teachers = {tuple(row[name] for name in TEACHER_COLUMNS) for row in rows}
    if len({tuple(one[TEACHER_COLUMNS.index(name)] for name in SAME_TEACHER) for one in teachers}) > 1:
        raise ValueError(f"Expected scores of one teacher in {str(path)!r}, got several; label again into another file.")
    teacher = dict(zip(TEACHER_COLUMNS, next(iter(teachers), (None,) * len(TEACHER_COLUMNS)), strict=True))
    kept = [{name: row[name] for name in (*FIRST_COLUMNS, *names, *LAST_COLUMNS)} for row in rows]
    return PseudoLabels(path, names, teacher, kept)


def with_pseudo_labels(data: Any, table: str | os.PathLike[str] | PseudoLabels, *, score_names: Sequence[str] | None = None) -> Any:
    """Rated rows with the teacher's scores as further labels, in columns of the scores' names; labels that were there are replaced.

    Rows and recordings are matched by the place of the audio, else by `corpus` and `utterance_id` where these are unique. A row
    without a pseudo-label gets NaN, which adds nothing to a loss.

    Args:
        data: `datasets.Dataset` or a list of dicts.
        table (path or [`PseudoLabels`]): The teacher's scores.
        score_names (sequence of `str`, *optional*): Which of them; all if not given.

    Returns:
        The same kind as `data`. A data set says in `info.description` how many rows found theirs, and whose they are.

    Raises:
        FileNotFoundError, ValueError: As [`read_pseudo_labels`]; if a score is not in the table, or no row finds a label.
    """
    labels = table if isinstance(table, PseudoLabels) else read_pseudo_labels(table)
    names = list(labels.score_names if score_names is None else score_names)
    if missing := [name for name in names if name not in labels.score_names]:
        raise ValueError(
            f"Expected pseudo-labels {', '.join(missing)} in {str(labels.path)!r}, got {', '.join(labels.score_names)}; label with "
            "a teacher that has these scores."
        )
    folder = labels.path.parent
    by_place = {_place(row["audio"], folder): row for row in labels.rows if row["audio"]}
    by_name = _unique([((row["corpus"], row["utterance_id"]), row) for row in labels.rows])
    own = [_named(row) for row in _Rows(data)]
    own_names = Counter((row["corpus"], row["utterance_id"]) for row in own)
    found: list[Row | None] = []
    for row in own:
        match = by_place.get(row["place"]) if row["place"] else None
        called = (row["corpus"], row["utterance_id"])
        if match is None and row["utterance_id"] is not None and own_names[called] == 1:
            match = by_name.get(called)
        found.append(match)
    num_labelled = sum(row is not None and row["status"] == "ok" for row in found)
    if not num_labelled:
        examples = first_few([str(row["place"] or row["utterance_id"]) for row in own])
        raise ValueError(
            f"None of the {len(own):,} rows ({examples}) has a pseudo-label in {str(labels.path)!r} ({len(labels.rows):,} "
            f"recordings, {labels.num_failed:,} of them failed); label these recordings first."
        )
    columns = {name: [math.nan if row is None else float(row[name]) for row in found] for name in names}
    told = (
        f"pseudo-labels {', '.join(names)} of {labels.teacher['teacher_id']} (weights {labels.teacher['teacher_weights']}) for "
        f"{num_labelled:,} of {len(own):,} rows"
    )
    if not hasattr(data, "add_column"):
        return [{**row, **{name: columns[name][index] for name in names}} for index, row in enumerate(data)]
    description = data.info.description
    with _without_bars():
        data = data.remove_columns([name for name in names if name in data.column_names]).flatten_indices()
        for name in names:
            data = data.add_column(name, columns[name])
    data.info.description = "; ".join(filter(None, (description, told)))
    return data


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, which know no terminal."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


class _Rows:
    """Rows of `audio`, `utterance_id` and `corpus`, audio undecoded, by number: recordings inside a data set stay there."""

    def __init__(self, data: Any):
        if hasattr(data, "cast_column"):
            if "audio" not in data.column_names:
                raise ValueError(f"Expected a column 'audio' with the recordings, got {', '.join(data.column_names)}.")
            import datasets

            if isinstance(data.features["audio"], datasets.Audio) and data.features["audio"].decode:
                data = data.cast_column("audio", datasets.Audio(decode=False))
            data = data.select_columns([name for name in FIRST_COLUMNS if name in data.column_names])
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row = self._data[number]
        return row if isinstance(row, Mapping) and "audio" in row else {"audio": row}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(len(self)))


class _Recordings:
    """Recordings that the pipeline goes through one by one; a list it would score to the end first."""

    def __init__(self, rows: _Rows, entries: Sequence[Row]):
        self._rows, self._entries = rows, entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        entry = self._entries[index]
        return self._rows[entry["number"]]["audio"] if entry["place"] is None else entry["place"]


def _named(row: Mapping[str, Any], folder: str | os.PathLike[str] = "") -> Row:
    """What a row is called, where its audio is (`place`), and the audio."""
    audio = row["audio"]
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    is_place = isinstance(path, str | os.PathLike) and not (isinstance(audio, Mapping) and (audio.get("bytes") or "array" in audio))
    text = {name: None if row.get(name) in (None, "") else str(row[name]) for name in ("utterance_id", "corpus")}
    return {**text, "audio": audio, "place": _place(os.fspath(path), folder) if is_place and path is not None else None}


def _place(path: Any, folder: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    return text if "://" in text else os.path.abspath(os.path.join(os.fspath(folder), text))


def _unique(pairs: Sequence[tuple[tuple[Any, Any], Row]]) -> dict[tuple[Any, Any], Row]:
    counts = Counter(name for name, _ in pairs)
    return {name: row for name, row in pairs if counts[name] == 1 and name[1] is not None}


def _entries(rows: _Rows, folder: Path) -> dict[str, Row]:
    """What to score, by a key that stays the same from run to run, in order."""
    entries: dict[str, Row] = {}
    for number, row in enumerate(rows):
        named = _named(row)
        place = named["place"]
        if place is None and named["utterance_id"] is None:
            raise ValueError(f"Expected a path or an `utterance_id` for every recording, got neither in row {number}.")
        # Relative, so that the table can move with its corpus.
        audio = None if place is None else place if "://" in place else os.path.relpath(place, folder.absolute())
        key = _key({**named, "audio": audio})
        if key not in entries:
            entries[key] = {
                **{"audio": audio, "utterance_id": named["utterance_id"], "corpus": named["corpus"]},
                **{"number": number, "place": place, "content": _content(place if place is not None else named["audio"])},
            }
    return entries


def _key(row: Mapping[str, Any]) -> str:
    return str(row["audio"]) if row["audio"] is not None else f"{row['corpus']}\t{row['utterance_id']}"


def _content(recording: Any) -> str | None:
    """SHA-256 of a file's bytes, or of samples and their rate, first 16 characters; `None` where it cannot be read or is remote."""
    digest = hashlib.sha256()
    if isinstance(recording, str):
        if "://" in recording:
            return None
        try:
            with open(recording, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError:
            return None
    if isinstance(recording, Mapping) and recording.get("bytes"):
        digest.update(recording["bytes"])
    elif isinstance(recording, Mapping):
        digest.update(f"{recording.get('sampling_rate')} ".encode())
        digest.update(np.ascontiguousarray(recording.get("array")).tobytes())
    else:
        digest.update(bytes(recording) if isinstance(recording, bytes | bytearray) else np.ascontiguousarray(recording).tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(journal: Path) -> Iterator[Any]:
    """The journal, open and locked: two processes would score the same recordings and mix their rows."""
    with journal.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(f"Another process is writing {str(journal)!r}; wait for it, or choose another `output`.") from None
        try:
            yield file
        finally:
            # Nothing was kept in it: a run that was refused leaves no trace.
            if journal.exists() and not journal.stat().st_size:
                journal.unlink()


def _known(path: Path, journal: Path, teacher: Mapping[str, Any], names: Sequence[str]) -> dict[str, Row]:
    """Rows of earlier runs by key; those of the journal win."""
    rows: dict[str, Row] = {}
    if path.is_file():
        table = read_pseudo_labels(path)
        if table.rows:
            _check_teacher(path, len(table.rows), table.teacher, table.score_names, teacher, names)
        rows = {_key(row): row for row in table.rows}
    lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) - 1:
                break  # cut short by a kill
            raise ValueError(
                f"Line {number + 1} of {str(journal)!r} is damaged; remove the file, or pass `overwrite=True`."
            ) from None
        if number == 0:
            if not isinstance(content, dict) or content.get("version") != JOURNAL_VERSION:
                raise ValueError(f"{str(journal)!r} is no journal of pseudo-labels that this version reads; remove the file.")
            _check_teacher(path, len(lines) - 1, content["teacher"], content["scores"], teacher, names)
        else:
            row = {name: math.nan if name in names and value is None else value for name, value in content.items()}
            rows[_key(row)] = row
    return rows


def _check_teacher(
    path: Path,
    num_rows: int,
    earlier: Mapping[str, Any],
    earlier_names: Sequence[str],
    teacher: Mapping[str, Any],
    names: Sequence[str],
) -> None:
    if list(earlier_names) == list(names) and all(earlier.get(name) == teacher[name] for name in SAME_TEACHER):
        return
    was, now = (
        f"{one.get('teacher_id')} ({', '.join(scores)}; weights {one.get('teacher_weights')}, preprocessing "
        f"{one.get('teacher_preprocessing')})"
        for one, scores in ((earlier, earlier_names), (teacher, names))
    )
    raise ValueError(
        f"Expected the teacher that gave the {num_rows:,} rows of {str(path)!r}, {was}, got {now}. Scores of two teachers do not "
        "belong in one table: choose another `output`, or begin it anew with `overwrite=True` (`--overwrite`)."
    )


def _teacher_columns(identity: Mapping[str, Any]) -> dict[str, str | None]:
    return {f"teacher_{name}": identity[name] for name in ("id", "revision", "weights", "preprocessing")}


def _begin_journal(file: Any, teacher: Mapping[str, Any], names: Sequence[str], known: Mapping[str, Row]) -> None:
    """Write header and known rows anew: the last line may be cut short. In place, since the lock hangs on the file."""
    if os.fstat(file.fileno()).st_size and known:
        _repair(file)
        return
    file.truncate(0)
    file.write(json.dumps({"version": JOURNAL_VERSION, "teacher": dict(teacher), "scores": list(names)}) + "\n")
    file.flush()


def _repair(file: Any) -> None:
    """Cut off a last line without an end."""
    file.seek(0)
    text = file.read()
    if not text.endswith("\n"):
        file.truncate(len((text[: text.rfind("\n") + 1]).encode("utf-8")))
    file.seek(0, os.SEEK_END)


def _line(row: Mapping[str, Any]) -> str:
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    return json.dumps(plain, ensure_ascii=True) + "\n"


def _write(table: PseudoLabels) -> None:
    header = [*FIRST_COLUMNS, *table.score_names, *LAST_COLUMNS, *TEACHER_COLUMNS]
    rows = [row | table.teacher for row in table.rows]
    with whole_file(table.path) as unfinished:
        if table.path.suffix.lower() == ".parquet":
            pyarrow = _pyarrow()
            numbers = {*table.score_names, "duration_seconds"}
            types = [(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in header]
            content = pyarrow.Table.from_pylist([{name: row[name] for name in header} for row in rows], pyarrow.schema(types))
            pyarrow.parquet.write_table(content, unfinished)
        else:
            text = io.StringIO(newline="")
            if table.path.suffix.lower() == ".jsonl":
                text.writelines(_line({name: row[name] for name in header}) for row in rows)
            else:
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(header)
                writer.writerows([[_cell(row[name]) for name in header] for row in rows])
            unfinished.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape", newline="")
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _table(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of a table of any kind; scores and durations as numbers."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected pseudo-labels in a file ending in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    try:
        if suffix == ".parquet":
            records = _pyarrow().parquet.read_table(path).to_pylist()
        elif suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                records = [{name: cell or None for name, cell in row.items() if name} for row in csv.DictReader(file)]
    except (ValueError, OSError, AttributeError) as error:
        raise ValueError(f"Expected a table of pseudo-labels in {str(path)!r}, got something else ({error}).") from None
    if not records:
        if suffix == ".csv":
            return next(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))), []), []
        return [*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS], []
    header = list(records[0])
    text = {*FIRST_COLUMNS, *LAST_COLUMNS, *TEACHER_COLUMNS} - {"duration_seconds"}
    for number, record in enumerate(records, start=1):
        for name in header:
            if name not in text:
                try:
                    record[name] = math.nan if record.get(name) is None else float(record[name])
                except (TypeError, ValueError):
                    raise ValueError(
                        f"Expected numbers in the column {name!r} of {str(path)!r}, got {record[name]!r} in row {number}."
                    ) from None
        if math.isnan(record.get("duration_seconds", 0.0)):
            record["duration_seconds"] = None
    return header, records


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("A Parquet table needs pyarrow: `pip install pyarrow`, or take .csv or .jsonl.") from None
    return pyarrow
