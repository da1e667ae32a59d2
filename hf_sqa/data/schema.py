"""One schema for every rated corpus, and how label rows become a `datasets.Dataset` in it.

A corpus reader yields the rows of its label files, with values as text. `examine` turns them into rows of the schema and notes
every problem; `build_dataset` makes the data set. Audio stays undecoded (`Audio(decode=False)`: the path, or the file's bytes), so
neither torchcodec nor torch is needed and nothing is opened.
"""

import math
import posixpath
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from hf_sqa.data.tables import read_number
from hf_sqa.extras import import_extra
from hf_sqa.folders import AudioFolders

#: Scores of the schema and the range a value must lie in. `mos` lies on its own scale until `examine` has brought it to 1-5.
SCORE_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("mos", "noisiness", "coloration", "discontinuity", "loudness", "s_mos", "n_mos", "g_mos"), (1.0, 5.0)),
    **{"intelligibility": (0.0, 10.0), "pesq": (-0.5, 4.65), "stoi": (-1.0, 1.0), "sdi": (0.0, math.inf)},
}
#: Text columns, null where unknown. `source_id` names the original recording or sentence and `talker_id` the voice: clips that
#: share one belong in the same fold.
TEXT_COLUMNS = (
    *("utterance_id", "system_id", "condition_id", "listener_id", "talker_id", "source_id"),
    *("corpus", "language", "split"),
)
#: Numbers about the ratings behind `mos`, on the scale of `mos`; `scale_min` and `scale_max` are the ends of the scale that the
#: listeners used.
RATING_COLUMNS = ("num_ratings", "mos_std", "mos_ci95", "scale_min", "scale_max")

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "eval", "evaluation"), "test"),
}
NUM_LISTED = 5

Row = dict[str, Any]
Ratings = Literal["mean", "each"]


@dataclass
class Examined:
    """Rows of the schema, and the problems found in them."""

    name: str  # name of the corpus, in messages and the description
    rows: list[Row]  # the rows, each with `where`, `missing` and `embedded`
    # items by kind: `text`, `scale`, `duplicate`, `repeated_rating`, `constant`, `missing`, `missing_reference`
    problems: dict[str, list[str]]
    num_label_rows: int  # rows of the label files
    unrated: int  # label rows without a score
    score_names: Sequence[str] = ()  # scores beyond those of the schema
    note: str = ""  # remark for the description

    @property
    def num_missing(self) -> int:
        """Number of missing recordings."""
        return len(self.problems.get("missing", ()))


def first_few(items: Sequence[str]) -> str:
    more = f", and {len(items) - NUM_LISTED:,} more" if len(items) > NUM_LISTED else ""
    return ", ".join(items[:NUM_LISTED]) + more


def rescale_mos(score: float, scale: tuple[float, float]) -> float:
    """Map a score linearly from the scale `(low, high)` to 1-5: `1 + 4 * (score - low) / (high - low)`; 1-5 is left as it is."""
    low, high = scale
    return score if (low, high) == (1, 5) else 1 + 4 * (score - low) / (high - low)


def examine(
    name: str,
    rows: Iterable[Row],
    *,
    scale: tuple[float, float] = (1.0, 5.0),
    ratings: Ratings = "mean",
    rows_are_ratings: bool = False,
    score_names: Sequence[str] = (),
    folders: AudioFolders | None = None,
    note: str = "",
) -> Examined:
    """Convert label rows to the schema and note their problems; nothing is raised.

    A row has `audio` (a path, or an audio dict), scores, text columns and `where` (label file and line). Scores may be text; an
    empty one is unrated. `mos`, `mos_std` and `mos_ci95` are rescaled from `scale`, or the row's own `scale_min` and `scale_max`,
    to 1-5, see [`rescale_mos`]. If rows are ratings, `ratings="mean"` averages those of each recording, and adds `num_ratings`,
    `mos_std` (with N - 1) and `mos_ci95` (Student's t); `"each"` keeps one row per rating.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    folders = folders or AudioFolders()
    names = (*SCORE_RANGES, *score_names)
    kept = [_converted(row, names, scale, problems, folders) for row in rows]
    num_label_rows = len(kept)
    unrated = sum(all(math.isnan(row[name]) for name in names) for row in kept)
    if rows_are_ratings:
        ratings_given = Counter((_key(row), row["listener_id"]) for row in kept if row["listener_id"] is not None)
        for (recording, listener), count in ratings_given.items():
            if count > 1:
                problems["repeated_rating"].append(f"{recording} by listener {listener} ({count} times)")
        kept = _averaged(kept, names) if ratings == "mean" else [{**row, "num_ratings": 1} for row in kept]
    else:
        counts = Counter(_key(row) for row in kept)
        problems["duplicate"] += [f"{recording} ({count} rows)" for recording, count in counts.items() if count > 1]
    for row in kept:
        _complete(row, problems, folders)
    for score in names:
        values = {row[score] for row in kept if not math.isnan(row[score])}
        if len(values) == 1 and len(kept) > 2:
            problems["constant"].append(f"{score} is {values.pop():g} in every row")
    met = {kind: items for kind, items in problems.items() if items}
    return Examined(name, kept, met, num_label_rows, unrated, score_names, note)


def _key(row: Row) -> str:
    return row["audio"] if isinstance(row["audio"], str) else str(row["audio"].get("path"))


def _converted(
    row: Row, names: Sequence[str], scale: tuple[float, float], problems: dict[str, list[str]], folders: AudioFolders
) -> Row:
    where = row.get("where", "")
    out: Row = {"audio": row["audio"], "reference_audio": row.get("reference_audio") or None, "where": where}
    out["embedded"] = row.get("embedded")
    for name in (*names, "mos_std", "mos_ci95", "num_ratings"):
        out[name] = _number(row.get(name), name, where, problems)
    low, high = float(row.get("scale_min", scale[0])), float(row.get("scale_max", scale[1]))
    for name in names:
        bottom, top = (low, high) if name == "mos" else SCORE_RANGES.get(name, (-math.inf, math.inf))
        if not math.isnan(out[name]) and not bottom - 1e-6 <= out[name] <= top + 1e-6:
            problems["scale"].append(f"{name} {out[name]:g} outside {bottom:g}-{top:g} ({where})")
    if (low, high) != (1, 5):
        out["mos"] = rescale_mos(out["mos"], (low, high))
        out["mos_std"] *= 4 / (high - low)
        out["mos_ci95"] *= 4 / (high - low)
    out["num_ratings"] = None if math.isnan(out["num_ratings"]) else round(out["num_ratings"])
    out["scale_min"], out["scale_max"] = low, high
    for name in TEXT_COLUMNS:
        value = row.get(name)
        out[name] = None if value is None or value == "" else str(value)
    out["missing"] = False
    if isinstance(out["audio"], str):
        if "://" not in out["audio"]:
            name = posixpath.normpath(out["audio"])
            place = folders.find(name)
            out["audio"], out["missing"] = place or name, place is None
        if out["utterance_id"] is None:
            out["utterance_id"] = posixpath.splitext(posixpath.basename(out["audio"]))[0]
    return out


def _number(value: Any, name: str, where: str, problems: dict[str, list[str]]) -> float:
    if value is None or value == "":
        return math.nan
    try:
        number = read_number(value)
    except ValueError:
        if isinstance(value, str) and value.strip().lower() in {"", "na", "n/a", "#n/a", "null", "none"}:
            return math.nan
        problems["text"].append(f"{name} {value!r} ({where})")
        return math.nan
    if math.isinf(number):
        problems["scale"].append(f"{name} {number:g} ({where})")
        return math.nan
    return number


def _averaged(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return one row per recording: scores are means over its ratings, text comes from the first, listeners are dropped."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    means = []
    for group in groups.values():
        mean = {**group[0], "listener_id": None}
        for name in names:
            rated = [row[name] for row in group if not math.isnan(row[name])]
            mean[name] = math.fsum(rated) / len(rated) if rated else math.nan
        rated = [row["mos"] for row in group if not math.isnan(row["mos"])]
        mean["num_ratings"] = len(rated)
        mean["mos_ci95"] = math.nan
        squares = math.fsum((rating - mean["mos"]) ** 2 for rating in rated)
        mean["mos_std"] = math.sqrt(squares / (len(rated) - 1)) if len(rated) > 1 else math.nan
        means.append(mean)
    return means


@cache
def _student(count: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975))


def _complete(row: Row, problems: dict[str, list[str]], folders: AudioFolders) -> None:
    """Add the half-width of the 95% interval where the corpus gives none, find the reference, and note what is missing."""
    count, reference = row["num_ratings"], row["reference_audio"]
    if math.isnan(row["mos_ci95"]) and not math.isnan(row["mos_std"]) and count is not None and count > 1:
        row["mos_ci95"] = _student(count) * row["mos_std"] / math.sqrt(count)
    if row["missing"]:
        problems["missing"].append(row["audio"])
    if isinstance(reference, str) and "://" not in reference:
        row["reference_audio"] = folders.find(posixpath.normpath(reference))
        if row["reference_audio"] is None:
            problems["missing_reference"].append(reference)


#: Messages for problems that stop a loader, with what to do about them. Other kinds do not stop it.
_STOPS = {
    "text": "Expected numbers in the score columns of {name}, got text: {items}. Name the column that holds the score with "
    "`columns={{'mos': '<column>'}}` (`--column mos=<column>`), or correct the label file.",
    "scale": "Scores of {name} lie outside their scale: {items}. Name the scale of the scores, such as `scale=(0, 100)` "
    "(`--scale 0 100`); nothing is clipped.",
    "duplicate": "Expected one row a recording in {name}, got several: {items}. If they are ratings, name the listeners with "
    "`columns={{'listener_id': '<column>'}}` (`--column listener_id=<column>`) or pass `ratings='mean'`; else remove the "
    "duplicates.",
}


def build_dataset(examined: Examined, on_missing: Literal["raise", "drop"] = "raise") -> Any:
    """Return a `datasets.Dataset` in the schema; `dataset.info.description` says how many clips were loaded and dropped.

    With `on_missing="drop"`, rows whose recording is missing are left out; otherwise the error names the first few.
    """
    if on_missing not in ("raise", "drop"):
        raise ValueError(f"Expected on_missing to be 'raise' or 'drop', got {on_missing!r}.")
    name, problems, num_missing = examined.name, examined.problems, examined.num_missing
    for kind, message in _STOPS.items():
        if kind in problems:
            raise ValueError(message.format(name=name, items=first_few(problems[kind])))
    if num_missing and on_missing == "raise":
        raise FileNotFoundError(
            f"{num_missing:,} of {len(examined.rows):,} recordings of {name} are missing: {first_few(problems['missing'])}. "
            "Name the folder that the label file's paths begin in, or pass `on_missing='drop'` (`hf-sqa finetune --drop-missing`) "
            "to go on without them."
        )
    rows = [row for row in examined.rows if not row["missing"]]
    if not rows:
        raise ValueError(f"{name} has no rows" + (": all its audio is missing." if num_missing else "."))
    if "constant" in problems:
        constant = first_few(problems["constant"])
        warnings.warn(f"{name}: {constant}; a correlation with a constant is undefined.", UserWarning, stacklevel=3)
    description = f"{name}: {len(rows):,} rows from {examined.num_label_rows:,} label rows"
    if references := problems.get("missing_reference"):
        description += f"; {len(references):,} references are missing and null"
    if examined.unrated:
        description += f"; {examined.unrated:,} label rows carry no score"
    if examined.note:
        description += f"; {examined.note}"
    description += f"; dropped {num_missing:,}, whose audio is missing"
    return _dataset(rows, description, examined.score_names)


def schema_features(score_names: Sequence[str] = ()) -> Any:
    """Return the columns of a loaded corpus and their types, as `datasets.Features`."""
    datasets = import_datasets()
    audio, text, number = datasets.Audio(decode=False), datasets.Value("string"), datasets.Value("float64")
    return datasets.Features(
        {
            "audio": audio,
            **dict.fromkeys((*SCORE_RANGES, *score_names), number),
            **dict.fromkeys(TEXT_COLUMNS, text),
            "num_ratings": datasets.Value("int64"),
            **dict.fromkeys(RATING_COLUMNS[1:], number),
            "reference_audio": audio,
        }
    )


def _dataset(rows: Sequence[Mapping[str, Any]], description: str, score_names: Sequence[str]) -> Any:
    import pyarrow

    datasets = import_datasets()
    features = schema_features(score_names)
    schema = features.arrow_schema
    columns = []
    for column in schema:
        values = [row[column.name] for row in rows]
        if column.name.endswith("audio"):
            values = [{"path": value, "bytes": None} if isinstance(value, str) else value for value in values]
        columns.append(pyarrow.array(values, type=column.type))
    table = pyarrow.table(columns, schema=schema)
    info = datasets.DatasetInfo(features=features, description=description)
    dataset = datasets.Dataset(table, info=info)
    if rows[0]["embedded"] is None:
        return dataset
    embedded, numbers = rows[0]["embedded"][0], [row["embedded"][1] for row in rows]
    if numbers != list(range(len(embedded))):
        embedded = embedded.select(numbers)
    merged = datasets.concatenate_datasets([embedded, dataset.remove_columns("audio")], axis=1)
    merged.info.description = description
    return merged


def undecoded(data: Any) -> Any:
    """Return a data set whose recordings stay encoded, as bytes and paths: hf_sqa decodes them, without torchcodec."""
    datasets = import_datasets()
    for name, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Audio) and feature.decode:
            data = data.cast_column(name, datasets.Audio(decode=False))
    return data


def import_datasets() -> Any:
    """Import the package `datasets`, or raise an error that says how to install it."""
    return import_extra("datasets", "Loading a corpus", "train")
