"""Which of several systems is better: from folders, tables and scored runs to means, differences and a verdict for every model."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hf_sqa.cells import finite
from hf_sqa.folders import AUDIO_SUFFIXES
from hf_sqa.metrics import SystemComparison, compare_systems
from hf_sqa.metrics.systems import pair_in_words
from hf_sqa.scoring.items import Item, Refusal
from hf_sqa.scoring.scorer import CorpusScorer, Settings
from hf_sqa.scoring.shards import RUN_FILE, ShardFolder, iterate_rows, kept_name, read_run
from hf_sqa.scoring.sinks import columns_of
from hf_sqa.scoring.sources import open_source

#: Columns of a table that identify the sentence of a clip.
SENTENCE_COLUMNS = ("sentence", "sentence_id", "source_id")
#: The model's name for tables of scores that do not name their model.
GIVEN = "given scores"
#: Fields in the row of a recording that has a score.
SCORED = {"status": "ok", "code": None, "reason": None}

#: Called with the number of clips done, the number of all clips, and the model.
OnProgress = Callable[[int, int, str], None]


@dataclass
class ComparedSystems:
    """Systems compared by one model or several."""

    score: str  # The score compared
    by_model: dict[str, SystemComparison]  # Comparison by each model
    #: One row per recording and model: `model`, `system`, `item` (the pairing key), `cluster`, `file`, the score, `status`,
    #: `code`, `reason`
    rows: list[dict[str, Any]]
    paired_by: str  # How clips are paired, in words

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of recordings without a score, each recording once."""
        seen = {(row["system"], row["file"]): row for row in reversed(self.rows) if row["status"] != "ok"}
        return list(reversed(seen.values()))

    @property
    def verdict(self) -> str:
        """The result in words: for the only model, or for each model and whether they agree."""
        if len(self.by_model) == 1:
            return next(iter(self.by_model.values())).verdict
        lines = [f"By {model}: {compared.verdict}" for model, compared in self.by_model.items()]
        return "\n".join([*lines, self.agreement])

    @property
    def agreement(self) -> str:
        """Whether the models agree, in words; empty if there is only one."""
        if len(self.by_model) < 2:
            return ""
        first_pairs, *others = ([(pair.first, pair.second) for pair in compared.pairs] for compared in self.by_model.values())
        agreed = 0
        partly: list[str] = []
        contradicted: list[str] = []
        for first, second in (pair for pair in first_pairs if all(pair in pairs for pairs in others)):
            by_choice: dict[str | None, list[str]] = {}
            for model, compared in self.by_model.items():
                by_choice.setdefault(compared.pair(first, second).better, []).append(model)
            if len(by_choice) == 1:
                agreed += 1
                continue
            words = "; ".join(
                f"{' and '.join(models)}: {'no difference' if chosen is None else f'{chosen} is better'}"
                for chosen, models in by_choice.items()
            )
            (contradicted if len(set(by_choice) - {None}) > 1 else partly).append(f"{first} and {second} ({words})")
        total = agreed + len(partly) + len(contradicted)
        if agreed == total:
            return "The models agree."
        parts = [f"The models agree on {agreed} of {total} pairs." if total > 1 else ""]
        for found, words in ((contradicted, "They contradict each other on"), (partly, "Shown by some of them only:")):
            if found:
                parts.append(f"{words} {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}.")
        return " ".join(part for part in parts if part)

    def worse_than_first(self, tolerance: float = 0.0) -> list[str]:
        """Systems shown to be worse than the first by more than `tolerance`, and recordings that are lost; in words.

        A system is worse if a model shows it to be worse and the whole interval of the difference lies below `-tolerance`. A
        recording of another system is lost if it has no score while the first system has a score for the same sentence.
        """
        faults = [
            words
            for pair, words in self._against_first()
            if pair is not None and pair.better == pair.first and pair.difference.high < -tolerance
        ]
        first = self.rows[0]["system"] if self.rows else ""
        scored = {(row["model"], row["item"]) for row in self.rows if row["system"] == first and row["status"] == "ok"}
        lost = dict.fromkeys(
            (row["system"], row["file"], row["code"])
            for row in self.rows
            if row["system"] != first and row["status"] != "ok" and (row["model"], row["item"]) in scored
        )
        return faults + [f"{file} of {system} has no score ({code}), and {first} has one" for system, file, code in lost]

    def not_better_than_first(self) -> list[str]:
        """Systems not shown to be better than the first, for every model; in words."""
        return [
            words
            for pair, words in self._against_first()
            if pair is not None and not math.isnan(pair.p_value) and pair.better != pair.second
        ]

    def undecided_against_first(self) -> list[str]:
        """Systems with too few recordings to be compared with the first, in words."""
        return [words for pair, words in self._against_first() if pair is None or math.isnan(pair.p_value)]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the rows as plain values for JSON, which has no NaN."""
        models = {model: asdict(compared) for model, compared in self.by_model.items()}
        failed = [{name: row[name] for name in ("system", "file", "status", "code", "reason")} for row in self.failed]
        plain = {"score": self.score, "paired_by": self.paired_by, "models": models, "agreement": self.agreement, "failed": failed}
        return finite(plain)

    def _against_first(self) -> Iterator[tuple[Any, str]]:
        """Yield, for every model, each pair with the first system, also in words; `None` for the pair if a system has no scores."""
        for model, compared in self.by_model.items():
            first, *others = compared.systems
            means = {system.name: system for system in compared.systems}
            pairs = {pair.second: pair for pair in compared.pairs if pair.first == first.name}
            for system in others:
                pair = pairs.get(system.name)
                words = f"{system.name} or {first.name} has no scores" if pair is None else pair_in_words(pair, means, self.score)
                yield pair, f"by {model}: {words}"


@dataclass
class _Clip:
    """A recording of a system, with its score if the source has one."""

    system: str
    item: str | None
    cluster: str | None
    recording: Item
    score: float | None = None


def compare(
    *sources: str | os.PathLike[str],
    model: str | Sequence[str] | None = None,
    systems: str | None = None,
    pair_by: str | Sequence[str] | None = None,
    cluster: str | None = None,
    paired: bool | None = None,
    score: str | None = None,
    confidence_level: float = 0.95,
    num_draws: int = 10_000,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> ComparedSystems:
    """Score the recordings of several systems, compare the means, and say which system is better.

    ```python
    >>> import hf_sqa
    >>> compared = hf_sqa.compare("build_a/", "build_b/")
    >>> print(compared.verdict)
    build_b is better than build_a: mean mos 3.412 (build_b) and 3.201 (build_a), difference +0.211 [+0.120, +0.302], ...
    ```

    Args:
        *sources (`str` or path): One source per system: a folder of recordings, a table or manifest, a table that `hf-sqa score`
            wrote, or the folder of a finished run. `name=path` names it. With `systems`, one table or run holds several systems.
        model (`str` or sequence of `str`, *optional*): As in `hf_sqa.pipeline`; each of several models gives a verdict, and the
            result says whether they agree. If not given, existing scores are used: those of runs, of tables that `hf-sqa score`
            wrote, and in other tables the numbers in the column `score`, or `mos`, such as ratings; recordings without a score
            are scored by `"default"`.
        systems (`str`, *optional*): Column that names the system of a recording.
        pair_by (`str` or sequence of `str`, *optional*): Columns that identify the sentence of a recording, or a regular
            expression whose groups identify it in file names. By default a column called `sentence`, `sentence_id` or
            `source_id`, else the names of the files within their folder, without suffix.
        cluster (`str`, *optional*): Column that groups recordings, for instance by talker, or a regular expression as above. The
            bootstrap draws whole groups for the intervals. By default each sentence is a group.
        paired (`bool`, *optional*): Whether to compare sentence by sentence; by default `True` if at least half of the sentences
            of the smaller system have a partner.
        score (`str`, *optional*): Score to compare; the first of the model, or table, if not given.
        confidence_level (`float`, *optional*, defaults to 0.95): Confidence level of every interval.
        num_draws (`int`, *optional*, defaults to 10000): Bootstrap draws.
        on_progress (callable, *optional*): Called with the recordings done, all recordings, and the model's name.
        **settings: Fields of [`Settings`]: `device`, `mode`, `dtype`, ...

    Raises:
        ValueError: If there are fewer than two systems, columns are missing, scores do not compare, a model cannot be loaded, or
            `model` or `mode` is given for a run or a table that `hf-sqa score` wrote.
        OSError: If a source does not exist.
    """
    asked = {name: value for name, value in (("model", model), ("mode", settings.get("mode"))) if value is not None}
    clips, scored_by, paired_by, score_name = _read(_named(sources), systems, pair_by, cluster, score, asked)
    if len({clip.system for clip in clips}) < 2:
        raise ValueError(
            f"Expected two systems or more, got {', '.join({clip.system for clip in clips}) or 'none'}: name a folder, table or "
            "run for each, or the column that says which system a recording is of (`--systems`)."
        )
    if scored_by is not None:
        outcomes = [(clip, SCORED if clip.recording.refusal is None else asdict(clip.recording.refusal)) for clip in clips]
        rows = {scored_by: [_row(scored_by, clip, score_name, clip.score, outcome) for clip, outcome in outcomes]}
    else:
        models = ["default"] if model is None else [model] if isinstance(model, str) else list(model)
        if len(set(models)) < len(models) or not models:
            raise ValueError(f"Expected one model or several different ones, got {', '.join(models) or 'none'}.")
        rows, score_name = _score(clips, models, score, settings, on_progress)
    by_model = {
        name: compare_systems(
            [math.nan if row[score_name] is None else row[score_name] for row in each],
            [row["system"] for row in each],
            items=[row["item"] for row in each],
            clusters=None if cluster is None else [row["cluster"] for row in each],
            paired=paired,
            score_name=score_name,
            confidence_level=confidence_level,
            num_draws=num_draws,
        )
        for name, each in rows.items()
    }
    return ComparedSystems(score_name, by_model, [row for each in rows.values() for row in each], paired_by)


def _named(sources: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """Map names to sources: the text before `=`, else the end of the path, as long as it must be to tell the sources apart."""
    given: list[tuple[str | None, str]] = []
    for source in [str(os.fspath(source)) for source in sources]:
        name, equals, path = source.partition("=")
        is_named = bool(equals and name and path) and not os.path.exists(source) and "/" not in name
        given.append((name, path) if is_named else (None, source))
    parts = [tuple(part for part in Path(os.path.abspath(path)).parts if part != os.sep) for _, path in given]
    for depth in itertools.count(1):
        ends = ["/".join(each[-depth:]) for each in parts]
        names = [name or (Path(end).stem if depth == 1 and Path(path).suffix and not os.path.isdir(path) else end)
                 for (name, path), end in zip(given, ends, strict=True)]  # fmt: skip
        if len(set(names)) == len(names):
            return dict(zip(names, (path for _, path in given), strict=True))
        if depth > max(map(len, parts)):
            break
    raise ValueError(f"Expected sources with different names, got {', '.join(path for _, path in given)}; write name=path.")


def _read(
    sources: Mapping[str, str],
    systems: str | None,
    pair_by: str | Sequence[str] | None,
    cluster: str | None,
    score: str | None,
    asked: Mapping[str, Any],
) -> tuple[list[_Clip], str | None, str, str]:
    """Return the clips of all sources, who scored them (`None` for nobody), how they are paired, and the name of the score."""
    given = [pair_by] if isinstance(pair_by, str) else list(pair_by or ())
    clips: list[_Clip] = []
    scored_by: dict[str, Any] = {}
    words, score_name = "file name", score or "score"
    for name, path in sources.items():
        is_run = (Path(path) / RUN_FILE).is_file()
        found, by, score_name = _scored_run(path, score) if is_run else _scored_table(path, score, rated=not asked)
        scored_by[name] = by
        if asked and by is not None:
            option, value = next(iter(asked.items()))
            raise ValueError(
                f"Expected no `{option}` for {path!r}, which is scored already, got {value!r}: leave it out to compare these "
                "scores, or name the recordings to score them again."
            )
        if not found:
            raise ValueError(f"Expected recordings in {path!r}, got none.")
        recordings = [recording for recording, _ in found]
        named = _names_within([recording.name or recording.key for recording in recordings], path)
        of_system: list[str | None] = [name] * len(found) if systems is None else _texts(systems, recordings, named, path)
        if None in of_system:
            without = named[of_system.index(None)]
            raise ValueError(f"Expected a system in the column {systems!r} of every row of {path!r}, got none for {without!r}.")
        of_cluster: list[str | None] = [None] * len(found) if cluster is None else _texts(cluster, recordings, named, path)
        columns = given or [column for column in SENTENCE_COLUMNS if column in recordings[0].columns][:1]
        of_sentence = list(zip(*(_texts(column, recordings, named, path) for column in columns), strict=True))
        words = " and ".join(columns) or words
        by_system: dict[str, list[int]] = {}
        for row, system in enumerate(of_system):
            by_system.setdefault(str(system), []).append(row)
        for system, rows in by_system.items():
            names = [named[row] for row in rows]
            for row, own in zip(rows, names if systems is None else _names_within(names, None), strict=True):
                item = None if columns and None in of_sentence[row] else "/".join(map(str, of_sentence[row])) if columns else own
                clips.append(_Clip(system, item, of_cluster[row], *found[row]))
    kinds = list(scored_by.values())
    if any(kind != kinds[0] for kind in kinds):
        by_runs = {name: f"by {kind['id']}, mode {kind['mode']}" for name, kind in scored_by.items() if isinstance(kind, dict)}
        raise ValueError(
            "Expected sources scored by one model in one mode, or none that is scored, got "
            + ", ".join(f"{name} ({by_runs.get(name, kind or 'recordings')})" for name, kind in scored_by.items())
            + ": such scores do not compare. Score them again, or name the recordings, and `--model` if tables rate some of them."
        )
    by = kinds[0]["id"] if kinds and isinstance(kinds[0], dict) else kinds[0] if kinds else None
    return clips, by, words, score_name


def _scored_run(path: str, score: str | None) -> tuple[list[tuple[Item, float | None]], dict[str, Any], str]:
    """Return the rows of a finished run, the identity of its scores, and the name of the score."""
    run = read_run(path)
    columns = list(run["columns"].values())
    shards = ShardFolder(path, run)
    if "rows" not in run or len(shards.indices()) < math.ceil(run["rows"] / run["rows_per_shard"]):
        raise ValueError(f"Expected a finished run in {path!r}; run the same `hf-sqa score` again to finish it.")
    score = score or next(iter(run["columns"]))
    column = columns_of(run, [score])[score]
    kept = {name: kept_name(name, columns) for name in run["kept_columns"]}
    found = []
    for row in iterate_rows(path, run):
        refusal = None if row["status"] == "ok" else Refusal(row["status"], row["code"], row["reason"])
        own = {name: row[kept_column] for name, kept_column in kept.items()}
        found.append((Item(row["row"], row["key"], row["audio"] or row["key"], None, own, refusal), row[column]))
    return found, {**run["identity"], "interval": None}, score


def _scored_table(path: str, score: str | None, rated: bool) -> tuple[list[tuple[Item, float | None]], str | None, str]:
    """Return the recordings of a table or folder, `GIVEN` if they are scored, and the name of the score.

    `hf-sqa score` writes a `status` after the scores; in other tables, if `rated`, the numbers of one column are the scores.
    """
    recordings = list(open_source(path).items())
    columns = list(recordings[0].columns) if recordings else []
    by_us = "status" in columns
    names = columns[: columns.index("status")] if by_us else columns
    name = score or (names[0] if by_us and names else "mos")
    if not by_us and not (rated and name in names and any(_number(item.columns.get(name)) is not None for item in recordings)):
        return [(recording, None) for recording in recordings], None, score or "score"
    if name not in names:
        raise ValueError(f"Expected a score among {', '.join(names) or '(none)'} in {path!r}, got {name!r}.")
    found: list[tuple[Item, float | None]] = []
    for recording in recordings:
        cells = recording.columns
        if by_us and recording.refusal is None and cells.get("status") != "ok":
            status, code, reason = (str(cells.get(column) or "") for column in ("status", "code", "reason"))
            recording.refusal = Refusal(status or "failed", code or "bad_row", reason or "the table has no score in this row")
        value = None
        if recording.refusal is None:
            value = _number(cells.get(name))
            if value is None:
                recording.refusal = Refusal("failed", "bad_row", f"expected a number under {name!r}, got {cells.get(name)!r}")
        found.append((recording, value))
    return found, GIVEN, name


def _number(cell: Any) -> float | None:
    """The number in a cell; `None` if it holds no finite number."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _names_within(names: Sequence[str], folder: str | None) -> list[str]:
    """Names relative to the folder that contains them all, with `/`, without the suffix of a recording."""
    if folder is None or not os.path.isdir(folder) or not all(name.startswith(os.fspath(folder)) for name in names):
        folders = {os.path.dirname(name) for name in names}
        folder = os.path.commonpath(folders) if len(folders) == 1 or all(map(os.path.isabs, folders)) or "" not in folders else ""
    short = []
    for name in names:
        within = os.path.relpath(name, folder) if folder and not name.startswith(("http://", "https://")) else name
        stem, suffix = os.path.splitext(within)
        short.append((stem if suffix.lower() in AUDIO_SUFFIXES else within).replace(os.sep, "/"))
    return short


def _texts(column: str, recordings: Sequence[Item], named: Sequence[str], path: str) -> list[str | None]:
    """The cell of a column for every recording, or the groups of a regular expression in the recordings' names."""
    known = dict.fromkeys(name for recording in recordings for name in recording.columns)
    if column in known:
        values = [recording.columns.get(column) for recording in recordings]
        return [None if value is None or value == "" else str(value) for value in values]
    if "(" not in column:
        raise ValueError(
            f"Expected a column of {path!r} ({', '.join(known) or 'it has none'}) or a regular expression with a group, such as "
            f"'_(p[0-9]+)_', got {column!r}."
        )
    try:
        matches = [re.search(column, name) for name in named]
    except re.error as error:
        raise ValueError(f"Expected a column or a regular expression with a group, got {column!r}: {error}.") from None
    return ["/".join(group or "" for group in match.groups()) if match else None for match in matches]


def _score(
    clips: Sequence[_Clip], models: Sequence[str], score: str | None, settings: Mapping[str, Any], on_progress: OnProgress | None
) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Return the rows of each model, in the order of the clips, and the name of the score."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    name = score
    for model in models:
        scorer = CorpusScorer(Settings(**{**settings, "model": model, "suffix": ""}))
        name = name or scorer.model.config.score_names[0]
        if name not in scorer.columns:
            raise ValueError(f"Expected a score that every model gives, got {name!r}; {model} gives {', '.join(scorer.columns)}.")
        label = str(scorer.identity["id"])
        label = label if label not in by_model else model
        items = [replace(clip.recording, position=place) for place, clip in enumerate(clips)]
        rows: dict[int, dict[str, Any]] = {}
        with scorer.decoder(len(items)) as decoder:
            for row in scorer.rows(decoder.decode(items)):
                if isinstance(row, dict):
                    rows[row["row"]] = row
                if on_progress is not None:
                    on_progress(len(rows), len(clips), label)
        by_model[label] = [_row(label, clip, name, rows[place][name], rows[place]) for place, clip in enumerate(clips)]
    assert name is not None
    return by_model, name


def _row(model: str, clip: _Clip, score: str, value: float | None, outcome: Mapping[str, Any]) -> dict[str, Any]:
    file = clip.recording.name or clip.recording.key
    row = {"model": model, "system": clip.system, "item": clip.item, "cluster": clip.cluster, "file": file, score: value}
    return row | {name: outcome[name] for name in ("status", "code", "reason")}
