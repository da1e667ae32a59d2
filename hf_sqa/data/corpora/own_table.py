"""Read your own listening test: a table with a column of recordings and one of scores, found by their usual names.

The table is delimited text, Excel or JSON lines, as `hf_sqa.data.tables` reads them. Tables of SHEET
(`wav_path,system_id,sample_id,score,listener_id`) and of the URGENT 2026 challenge (JSON lines with scores in `metrics`) are read
as they are; SHEET's `sample_id` is a sentence that several systems speak, so the file name identifies a recording.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.data import tables
from hf_sqa.data.schema import SPLITS, TEXT_COLUMNS, Row

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".xlsx")
#: Usual names of each column, the most specific first; case does not matter, and `_`, `-`, `.` and spaces are the same.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        *("audio", "audio_path", "filepath_deg", "deg_wav", "wav_path", "filepath", "file_path", "path", "audio_file", "wav"),
        *("Test_Wave", "filename_deg", "file_name", "filename", "wavname", "file"),
    ),
    "mos": (
        *("mos", "sampleMOS", "sample MOS", "score", "avg_score", "mean_score", "quality_score", "choice", "Overall quality"),
        *("ovr", "ovrl", "overall", "value", "rating", "mean"),
    ),
    "noisiness": ("noisiness", "noi"),
    "coloration": ("coloration", "col"),
    "discontinuity": ("discontinuity", "dis"),
    "loudness": ("loudness", "loud"),
    "s_mos": ("s_mos", "smos", "sig"),
    "n_mos": ("n_mos", "nmos", "bak"),
    "g_mos": ("g_mos", "gmos"),
    "intelligibility": ("intelligibility", "intelligibility_score"),
    "pesq": ("pesq",),
    "stoi": ("stoi",),
    "sdi": ("sdi",),
    "mos_std": ("mos_std", "std", "sampleSTD"),
    "mos_ci95": ("mos_ci95", "95%CI", "ci95", "ci"),
    "num_ratings": ("num_ratings", "votes", "num_votes"),
    "utterance_id": ("utterance_id", "utt_id", "utteranceId", "id"),
    "system_id": ("system_id", "system", "systemId", "method"),
    "condition_id": ("condition_id", "condition", "conditionID", "con"),
    "listener_id": ("listener_id", "listener", "listenerId", "listener_name", "annotator", "judge"),
    "talker_id": ("talker_id", "talker", "speaker_id", "speaker"),
    "source_id": ("source_id", "source"),
    "corpus": ("corpus", "db", "dataset"),
    "language": ("language", "lang"),
    "split": ("split",),
    "reference_audio": ("reference_audio", "filepath_ref", "ref_wav", "reference_path", "Ref_Wave", "reference"),
}


def read_table(
    path: Path, root: Path | None, columns: Mapping[str, str], score_names: Sequence[str], need_scores: bool = True
) -> tuple[list[Row], dict[str, str]]:
    """Return rows for `hf_sqa.data.schema.examine`, and the column taken for each name of the schema.

    Relative paths begin in `root`, or in the table's own folder. `columns` names columns without a usual name, and scores beyond
    those of the schema (`score_names`). A file without a column of recordings or, unless `need_scores=False`, of scores is refused
    (`ValueError`).
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a table of recordings and scores, but there is no file {str(path)!r}.")
    base = (root if root is not None else path.parent).absolute()
    if not base.is_dir():
        raise FileNotFoundError(f"Expected the folder of the recordings, but {str(base)!r} is not a folder.")
    header, records = _records(path)
    found = find_columns(header, columns, str(path), score_names, need_scores)
    rows = []
    for record, where in records:
        row: Row = {name: record.get(column) for name, column in found.items()}
        if not row["audio"] or not isinstance(row["audio"], str):
            got = "none" if row["audio"] in (None, "") else repr(row["audio"])
            raise ValueError(f"Expected a recording in the column {found['audio']!r} of every row, got {got} in {where}.")
        for name in ("audio", "reference_audio"):
            if row.get(name) and "://" not in row[name]:
                row[name] = os.path.join(base, row[name])
        if row.get("split"):
            row["split"] = SPLITS.get(str(row["split"]).lower(), row["split"])
        row["where"] = where
        rows.append(row)
    return rows, found


def find_columns(
    header: Sequence[str], named: Mapping[str, str], source: str, score_names: Sequence[str] = (), need_scores: bool = True
) -> dict[str, str]:
    """Return the column of `header` for each name of the schema: the one in `named`, else the first usual name that exists."""
    names = {*USUAL_NAMES, *score_names}
    column: str | None
    for name, column in named.items():
        if name not in names:
            raise ValueError(f"Expected `columns` to name columns of the schema ({', '.join(sorted(names))}), got {name!r}.")
        if column not in header:
            raise ValueError(f"Expected a column {column!r} for {name} in {source}, got the columns {', '.join(header)}.")
    by_name = {_plain(column): column for column in reversed(header)}
    found = dict(named)
    for name, usual in USUAL_NAMES.items():
        for alias in usual:
            column = by_name.get(_plain(alias))
            if name not in found and column is not None and column not in found.values():
                found[name] = column
    scores = [name for name in found if name in names and name not in _NOT_SCORES]
    for name, have in (("audio", "audio" in found), ("mos", bool(scores) or not need_scores)):
        if not have:
            what = "recordings" if name == "audio" else "scores"
            raise ValueError(
                f"Expected a column of {what} in {source} under a usual name ({', '.join(USUAL_NAMES[name])}), got the columns "
                f"{', '.join(header) or '(none)'}. Name it with `columns={{{name!r}: '<column>'}}` (`--column {name}=<column>`)."
            )
    return found


_NOT_SCORES = {"audio", "reference_audio", "mos_std", "mos_ci95", "num_ratings", *TEXT_COLUMNS}


def _plain(name: str) -> str:
    return name.strip().lower().translate({ord(mark): "_" for mark in "-. "})


def _records(path: Path) -> tuple[list[str], Iterator[tuple[dict[str, Any], str]]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected a table ending in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    if suffix == ".jsonl":
        with path.open("rb") as file:
            rows = [
                (_flat(record), where) for record, where in _understood(tables.json_records(tables.text_lines(file)), path.name)
            ]
        return list(dict.fromkeys(name for record, _ in rows for name in record)), iter(rows)
    header, records = tables.read_table(path)
    return header, _understood(records, path.name)


def _understood(records: Iterable[tables.Record], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    for record, line in records:
        if isinstance(record, ValueError):
            raise ValueError(f"Expected a row of the table in {name} line {line}, got something else: {record}.")
        try:
            "".join(value for value in record.values() if isinstance(value, str)).encode()
        except UnicodeEncodeError:
            raise ValueError(f"Expected a table in UTF-8, got other bytes in {name} line {line}. Save it as UTF-8.") from None
        yield record, f"{name} line {line}"


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Flatten a JSON object, whose scores may be in nested objects."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and "path" in value and name in ("audio", "reference_audio"):
            flat[name] = value["path"]
        else:
            flat.update(value if isinstance(value, dict) else {name: value})
    return flat
