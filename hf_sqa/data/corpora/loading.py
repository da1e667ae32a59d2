"""`load_corpus`: a corpus on disk, a data set of the Hub, or your own table, in one schema."""

import contextlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hf_sqa.choices import did_you_mean
from hf_sqa.data.corpora.corpus import CORPORA, Corpus
from hf_sqa.data.corpora.hub_dataset import read_hub
from hf_sqa.data.corpora.own_table import SUFFIXES, USUAL_NAMES, read_table
from hf_sqa.data.schema import SCORE_RANGES, Examined, Ratings, Row, build_dataset, examine, import_datasets
from hf_sqa.data.tables import read_number
from hf_sqa.folders import AudioFolders


def load_corpus(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    ratings: Ratings | None = None,
    join: str | os.PathLike[str] | None = None,
    language: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    on_missing: Literal["raise", "drop"] = "raise",
) -> Any:
    """Load rated speech as a `datasets.Dataset` in the schema of `hf_sqa.data.schema`, audio undecoded.

    ```python
    >>> load_corpus("nisqa", "NISQA_Corpus")          # seven databases, distinguished by the column `corpus`
    >>> load_corpus("nisqa/TEST_FOR", "NISQA_Corpus")  # one of them
    >>> load_corpus("hub:urgent-challenge/urgent2024_mos")
    >>> load_corpus("my_test.csv", columns={"audio": "stimulus", "mos": "opinion"}, scale=(0, 100))
    ```

    `mos`, `mos_std` and `mos_ci95` are on 1-5 whatever the scale of the labels: `1 + 4 * (score - low) / (high - low)`. The columns
    `scale_min` and `scale_max` keep the scale the listeners used. Scores without a rating are NaN. `dataset.info.description` says
    what was loaded and how many rows were dropped.

    Args:
        name (`str`): A corpus of `CORPORA` or a part of one (`"tencent/with_reverberation"`), `"hub:<repository>"`, or a table
            (`.csv`, `.tsv`, `.txt`, `.jsonl`, `.xlsx`).
        root (path, *optional*): Folder of the corpus, as unpacked; for a table, the folder its paths are relative to, by default
            its own.
        columns (`dict`, *optional*): For a table or the Hub: columns by their name in the schema. Any other name with a column of
            numbers becomes an additional score.
        scale (`tuple[float, float]`, *optional*): Ends of the scale of `mos`, if not the corpus's own; 1-5 for tables.
        ratings (`str`, *optional*): `"mean"` averages several rows of a recording, which a table may have only if it names the
            listeners or this option is given; `"each"` keeps one row per rating, with `listener_id`. By default `"mean"`.
        join (path, *optional*): Table with further scores of the same recordings (such as `s_mos n_mos g_mos` of 3QUEST), joined by
            file name without folder and suffix. Recordings that it lacks keep NaN; the description counts them.
        language (`str`, *optional*): Language code of the rows that have none.
        split, revision (`str`, *optional*): For the Hub: one split, by its name there; branch, tag or commit.
        on_missing (`str`, *optional*, defaults to `"raise"`): Missing audio: `"raise"`, or `"drop"` its rows and count them.

    Raises:
        FileNotFoundError: If the folder holds no such corpus (the message says what was looked for and found), or audio is missing.
        ValueError: If the name is unknown, labels are of another corpus, text, or outside their scale, or recordings are repeated.
        ImportError: If `datasets` is not installed.
    """
    import_datasets()
    if ratings not in (None, "mean", "each"):
        raise ValueError(f"Expected ratings to be 'mean' or 'each', got {ratings!r}.")
    examined = read_corpus(
        name, root, columns=columns, scale=scale, ratings=ratings, join=join, language=language, split=split, revision=revision
    )
    return build_dataset(examined, on_missing)


def read_corpus(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    ratings: Ratings | None = None,
    join: str | os.PathLike[str] | None = None,
    language: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    folders: AudioFolders | None = None,
    need_scores: bool = True,
) -> Examined:
    """Read rows of the schema, with their problems; options are those of [`load_corpus`].

    With `need_scores=False`, a table may list recordings without scores.
    """
    name, columns = os.fspath(name), columns or {}
    corpus, part = find_corpus(name)
    if scale is not None and not scale[0] < scale[1]:
        raise ValueError(f"Expected the lower end of the scale first, got {scale!r}.")
    score_names: tuple[str, ...] = ()
    note = ""
    if corpus is not None:
        for option, value in (("columns", columns), ("split", split), ("revision", revision)):
            if value:
                raise ValueError(f"`{option}` is for tables and the Hub; the corpus {corpus.name} is read as published.")
        rows_are_ratings = corpus.rows_are_ratings
        if root is None and corpus.hub_id is None:
            raise ValueError(f"Expected the folder of {corpus.title} as `root`; get it from {corpus.source}.")
        place = Path(corpus.hub_id or "") if root is None else Path(root).absolute()
        known = {"corpus": corpus.name, "language": None if " " in corpus.language else corpus.language}
        rows: Iterable[Row] = (known | row for row in corpus.read(place, corpus.parts(part)))
        if scale is None and corpus.detect_scale is not None:
            rows = list(rows)
            scores: list[float] = []
            for row in rows:
                with contextlib.suppress(ValueError):
                    scores += filter(math.isfinite, [read_number(row["mos"])])
            scale = corpus.detect_scale(scores) if scores else corpus.scale
        scale = scale or corpus.scale
    else:
        score_names = tuple(name for name in columns if name not in {*SCORE_RANGES, *USUAL_NAMES})
        if name.startswith("hub:"):
            repo_id = name.removeprefix("hub:")
            rows, found = read_hub(repo_id, split, revision, columns, score_names)
            default_corpus = repo_id
        else:
            if split or revision:
                raise ValueError("`split` and `revision` are for the Hub; a table has its own column `split`.")
            rows, found = read_table(Path(name), None if root is None else Path(root), columns, score_names, need_scores)
            default_corpus = Path(name).stem
        rows = [{**row, "corpus": row.get("corpus") or default_corpus} for row in rows]
        rows_are_ratings = ratings is not None or "listener_id" in found
        note = "columns " + ", ".join(f"{name}={column}" for name, column in found.items())
        scale = scale or (1.0, 5.0)
    if ratings == "each" and not rows_are_ratings:
        raise ValueError(f"Expected ratings='mean' for {name}, whose labels are means already, got 'each'.")
    if language is not None:
        rows = ({**row, "language": row.get("language") or language} for row in rows)
    if join is not None:
        rows = list(rows)
        joined = _join(rows, Path(join))
        note = "; ".join(filter(None, (note, joined)))
    return examine(
        name,
        rows,
        scale=scale,
        ratings=ratings or "mean",
        rows_are_ratings=rows_are_ratings,
        score_names=score_names,
        folders=folders,
        note=note,
    )


def find_corpus(name: str) -> tuple[Corpus | None, str | None]:
    """Return the corpus and the part that a name means; `(None, None)` for the Hub and for tables."""
    if name.startswith("hub:") or Path(name).suffix.lower() in SUFFIXES:
        return None, None
    bare, _, part = name.partition("/")
    if bare.lower() not in CORPORA:
        raise ValueError(
            f"Expected a corpus ({', '.join(CORPORA)}), 'hub:<repository>' or a table ending in {', '.join(SUFFIXES)}, got "
            f"{name!r}{did_you_mean(bare.lower(), CORPORA)}"
        )
    return CORPORA[bare.lower()], part or None


def _join(rows: Sequence[Row], path: Path) -> str:
    """Add the scores of a table to rows of the same recordings, and return how many matched, in words."""
    further, found = read_table(path, None, {}, ())
    scores = [name for name in SCORE_RANGES if name in found]
    by_stem: dict[str, Row] = {}
    for row in further:
        if by_stem.setdefault(_stem(row["audio"]), row) is not row:
            raise ValueError(f"Expected one row a recording in {str(path)!r}, got {_stem(row['audio'])!r} again in {row['where']}.")
    stems = [_stem(row["audio"] if isinstance(row["audio"], str) else row["audio"]["path"]) for row in rows]
    for row, stem in zip(rows, stems, strict=True):
        if stem in by_stem:
            row.update({name: by_stem[stem][name] for name in scores})
    wanted = set(stems)
    matched = len(wanted & set(by_stem))
    if not matched:
        raise ValueError(
            f"None of the {len(by_stem):,} recordings in {str(path)!r} ({', '.join(list(by_stem)[:3])}, ...) is of this corpus "
            f"({', '.join(sorted(wanted)[:3])}, ...); they are matched by file name without folder and suffix."
        )
    return f"{', '.join(scores)} joined for {matched:,} of {len(wanted):,} recordings"


def _stem(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in {".wav", ".flac", ".mp3", ".ogg", ".opus"} else name
