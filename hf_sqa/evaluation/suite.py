"""Evaluate a model on rated test sets: a row for each clip, agreement with listeners with intervals, and CPU time.

`hf-sqa evaluate` prints the result, the cells of a study keep it, and model cards quote it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_sqa.metrics import METRICS, bootstrap_agreement
from hf_sqa.metrics.agreement import rated_and_scored

LEVEL_COLUMNS = {"sys": "system_id", "con": "condition_id"}
#: Columns by which clips are drawn together for the intervals; the first that a test set has is used.
CLUSTER_COLUMNS = ("system_id", "condition_id", "source_id", "talker_id")
CLIP_COLUMNS = ("utterance_id", "system_id", "condition_id", "talker_id", "source_id", "corpus", "language")
DEFAULT_METRICS = ("lcc", "srcc", "mse", "rmse")
#: Marks and meanings of overlap, most serious first.
OVERLAP_MARKS = {
    "clips": ("†", "some of these recordings were trained on"),
    "sources": ("‡", "trained on other versions of the same originals"),
    "talkers": ("§", "trained on other speech of the same talkers"),
    "unknown": ("?", "training data not available, so overlap is unknown"),
}


@dataclass(frozen=True)
class SuiteResult:
    """The result of one model on one test set."""

    test_set: str  # Name of the test set
    # A row for each clip: `audio` (its path), `utterance_id`, `system_id`, ..., for each score `label_<score>` and
    # `predicted_<score>` (NaN if missing), `status`, `code` and `reason` (why it was not scored), `warnings`, `seconds`
    clips: list[dict[str, Any]]
    # A row for each score, level and metric: `test_set`, `score`, `level`, `metric`, `value`, `low`, `high`, `num_clips`,
    # `num_failed`, `num_unrated`, `num_units` and `unit` (what was drawn for the interval)
    rows: list[dict[str, Any]]
    identity: dict[str, Any]  # Identity of the model, see [`~hf_sqa.pipelines.model_identity`]
    num_parameters: int  # Number of weights of the model
    # CPU time of this process inside the model per second of audio, without decoding; NaN if nothing was scored
    cpu_seconds_per_second: float
    complete: bool = True  # Whether all clips were scored; an interrupted run has only some

    @property
    def num_failed(self) -> int:
        """Number of clips without a score, rated or not."""
        return sum(clip["status"] != "ok" for clip in self.clips)

    def value(self, metric: str, score: str | None = None) -> float:
        """Return one number of `rows`, such as `value("utt_srcc")`, for the first score unless another is named."""
        level, _, name = metric.partition("_")
        for row in self.rows:
            if (row["level"], row["metric"]) == (level, name) and score in (None, row["score"]):
                return float(row["value"])
        raise KeyError(f"No {metric!r} of {score or 'any score'} in {self.test_set!r}.")


@dataclass(frozen=True)
class SuiteOptions:
    """Options of an evaluation on test sets."""

    # Scores to compare; a dict maps a predicted score to a label of another name: `{"mos": "g_mos"}`. By default the scores that
    # model and test set share
    scores: Sequence[str] | Mapping[str, str] | None = None
    metrics: Sequence[str] = DEFAULT_METRICS  # Any of `lcc`, `srcc`, `ktau`, `mse`, `rmse`, `mae`, at every level
    # Column by which clips are drawn together for the intervals of the level `utt`; `"none"` for single clips. By default the first
    # of system, condition, source and talker that the test set has
    cluster: str | None = None
    num_draws: int = 10_000  # Bootstrap draws

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"Expected metrics out of {', '.join(METRICS)}, got {unknown[0]!r}.")


@dataclass(frozen=True)
class Point:
    """One metric of one model on one test set: the mean over seeds, the mean ends of their intervals, and each seed's value."""

    value: float
    low: float
    high: float
    seeds: dict[Any, float]
    overlap: str | None  # the most serious kind

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Point | None:
        """Summarise the rows of all seeds; `None` if no value is defined."""
        value, low, high = (
            float(np.nanmean(ends)) if np.isfinite(ends := np.array([row[name] for row in rows], np.float64)).any() else math.nan
            for name in ("value", "low", "high")
        )
        kinds = {row.get("overlap") for row in rows}
        overlap = next((kind for kind in OVERLAP_MARKS if kind in kinds), None)
        seeds = {row.get("seed"): float(row["value"]) for row in rows}
        return None if math.isnan(value) else cls(value, low, high, seeds, overlap)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, if there are several."""
        return float(np.nanstd(list(self.seeds.values()), ddof=1)) if len(self.seeds) > 1 else None

    @property
    def mark(self) -> str:
        """The mark of the overlap after a space; empty without overlap."""
        return f" {OVERLAP_MARKS[self.overlap][0]}" if self.overlap else ""

    def text(self, form: str = "{:.3f}", of_one_seed: str = "") -> str:
        """Return the value and its deviation over seeds; with one seed, the value and `of_one_seed`."""
        return form.format(self.value) + (of_one_seed if self.deviation is None else f" ± {self.deviation:.3f}")


def legend(points: Iterable[Point | None]) -> list[str]:
    """Return the meanings of the overlap marks, in the order in which they occur."""
    kinds = dict.fromkeys(point.overlap for point in points if point and point.overlap)
    return [" ".join(OVERLAP_MARKS[kind]) for kind in kinds]


Progress = Callable[[int, int], None]


def evaluate_checkpoint(
    model: Any,
    dataset: Any,
    *,
    test_set: str = "test",
    options: SuiteOptions | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    device: Any = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Score a rated data set and compare the scores with its listeners.

    ```python
    >>> from hf_sqa.data import load_corpus
    >>> result = evaluate_checkpoint("default", load_corpus("my_test.csv"))
    >>> result.value("utt_srcc")
    0.91
    ```

    Clips that cannot be scored become rows with a reason, and are counted. After Ctrl-C the result covers the clips scored so far,
    and `complete` is false.

    Args:
        model: An audio-quality pipeline, `"default"`, a folder, or a Hub id.
        dataset (`datasets.Dataset`): Rated clips in the schema of [`~hf_sqa.data.load_corpus`], audio undecoded.
        test_set (`str`, *optional*, defaults to `"test"`): Name of the test set.
        options ([`SuiteOptions`], *optional*): Scores, metrics and intervals.
        batch_size, num_workers: As for the pipeline; they never change a score.
        device (*optional*): Device of a model given by name.
        progress (callable, *optional*): Called with the number of clips done and their total.

    Raises:
        ValueError: If the data set has no rows, or model and test set share no score.
    """
    options = options or SuiteOptions()
    scorer = load_scorer(model, device)
    if not len(dataset):
        raise ValueError(f"Expected rated clips in the test set {test_set!r}, got none.")
    columns = dataset[:]  # all at once: datasets copies the description of all columns for each column read by name
    features = dataset.features
    numbers = [name for name in dataset.column_names if features[name].dtype == "float64"]
    ratings = {name: np.array(columns[name], dtype=np.float64) for name in numbers}
    scores = _scores_to_compare(options.scores, scorer.model.config.score_names, ratings, test_set)
    labels = {score: ratings[label] for score, label in scores.items()}
    texts = {name: columns[name] for name in CLIP_COLUMNS if name in columns}
    audio = columns["audio"]
    _clusters([{name: values[index] for name, values in texts.items()} for index in range(len(audio))], options.cluster)
    clips: list[dict[str, Any]] = []
    cpu_seconds = audio_seconds = 0.0
    complete = True
    try:
        for item, seconds in _scored(scorer, audio, batch_size, num_workers):
            index = len(clips)
            path = audio[index].get("path") or "" if isinstance(audio[index], Mapping) else audio[index]
            clip: dict[str, Any] = {"audio": str(path), **{name: values[index] for name, values in texts.items()}}
            for score in scores:
                clip[f"label_{score}"] = float(labels[score][index])
                clip[f"predicted_{score}"] = item[score]
            clip |= {name: item[name] for name in ("status", "code", "reason")}
            clip["warnings"] = ";".join(finding["code"] for finding in item["warnings"])
            clip["seconds"] = item["duration_seconds"]
            clips.append(clip)
            cpu_seconds += seconds
            audio_seconds += item["duration_seconds"] or 0.0
            if progress is not None:
                progress(len(clips), len(audio))
    except KeyboardInterrupt:
        complete = False
    return SuiteResult(
        test_set=test_set,
        clips=clips,
        rows=agreement_rows(clips, list(scores), test_set=test_set, options=options),
        identity=scorer.identity(scorer._forward_params.get("mode"), scorer._forward_params.get("hop_seconds")),
        num_parameters=scorer.model.num_parameters(),
        cpu_seconds_per_second=cpu_seconds / audio_seconds if audio_seconds else math.nan,
        complete=complete,
    )


def load_scorer(model: Any, device: Any = None) -> Any:
    """Return the given audio-quality pipeline, or load one from a checkpoint by name or folder."""
    if getattr(model, "task", None) == "audio-quality":
        return model
    import hf_sqa.pipelines

    return hf_sqa.pipelines.pipeline(model, device=device)


def agreement_rows(
    clips: Sequence[Mapping[str, Any]], scores: Sequence[str], *, test_set: str, options: SuiteOptions | None = None
) -> list[dict[str, Any]]:
    """Compute rows of agreement with intervals from rows of clips, as in [`SuiteResult`]; nothing is scored again.

    The level `utt` is always present. `sys` and `con` need at least two systems or conditions, and fewer of them than clips.
    """
    options = options or SuiteOptions()
    rows = []
    groups = {level: _groups(clips, column) for level, column in LEVEL_COLUMNS.items()}
    groups = {level: names for level, names in groups.items() if 1 < len({*names} - {None}) < len(clips)}
    cluster, unit = _clusters(clips, options.cluster)
    for score in scores:
        predicted = np.array([clip[f"predicted_{score}"] for clip in clips], dtype=np.float64)
        labels = np.array([clip[f"label_{score}"] for clip in clips], dtype=np.float64)
        counts = rated_and_scored(predicted, labels)[3]
        counts = {"num_clips": counts.pop("num_scored"), **counts}
        names = [f"{level}_{metric}" for level in ("utt", *groups) for metric in options.metrics]
        intervals = bootstrap_agreement(
            predicted,
            labels,
            metrics=names,
            systems=groups.get("sys"),
            conditions=groups.get("con"),
            clusters=cluster,
            num_draws=options.num_draws,
            rng=0,
        )
        for name, interval in intervals.items():
            level, _, metric = name.partition("_")
            row: dict[str, Any] = {"test_set": test_set, "score": score, "level": level, "metric": metric}
            row |= {"value": interval.value, "low": interval.low, "high": interval.high, **counts}
            row |= {"num_units": interval.num_units, "unit": unit if level == "utt" else LEVEL_COLUMNS[level]}
            rows.append(row)
    return rows


def markdown_table(
    rows: Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[str] = ("utt_lcc", "utt_srcc", "utt_rmse"),
    score: str | None = None,
    columns: str = "metric",
) -> str:
    """Return a Markdown table of rows of agreement, with the marks of overlap and their legend.

    Args:
        rows (iterable of `dict`): Rows of [`SuiteResult`], or of a study with `model`, `seed` and `overlap`; seeds are averaged.
        metrics (sequence of `str`, *optional*): Metrics with their level.
        score (`str`, *optional*): Score to show; the first by default.
        columns (`str`, *optional*, defaults to `"metric"`): `"metric"`: a line for each model and test set, a column for each
            metric, with intervals. `"test_set"`: a line for each model, a column for each test set, for the first metric.

    With several seeds, values are mean and standard deviation; with a single run, they have their interval.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        score = score or row["score"]
        name = f"{row['level']}_{row['metric']}"
        if row["score"] == score and name in metrics:
            groups.setdefault((str(row.get("model", "")), row["test_set"], name), []).append(row)
    points = {key: Point.of(found) for key, found in groups.items()}
    models, test_sets = (list(dict.fromkeys(key[at] for key in groups)) for at in (0, 1))
    if columns == "test_set":
        header, body = ["model", *test_sets], []
        for model in models:
            found = [points.get((model, test_set, metrics[0])) for test_set in test_sets]
            body.append([model, *(point.text() + point.mark if point else "-" for point in found)])
    else:
        lead = ["model"] if models != [""] else []
        header, body = [*lead, "test set", "clips", *metrics], []
        for model, test_set in itertools.product(models, test_sets):
            if there := next((rows for key, rows in groups.items() if key[:2] == (model, test_set)), None):
                found = [points.get((model, test_set, name)) for name in metrics]
                cells = [point.text(of_one_seed=f" [{point.low:.3f}, {point.high:.3f}]") if point else "-" for point in found]
                mark = next((point.mark for point in found if point), "")
                body.append([*[model] * len(lead), test_set + mark, f"{there[0]['num_clips']:,}", *cells])
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]
    signs = legend(points.values())
    return "\n".join(lines) + ("\n\n" + "; ".join(signs) + "." if signs else "") + "\n"


def _scores_to_compare(wanted: Any, predicted: Sequence[str], ratings: Mapping[str, np.ndarray], test_set: str) -> dict[str, str]:
    rated = [name for name, values in ratings.items() if not np.isnan(values).all()]
    if wanted is None:
        pairs = {name: name for name in predicted if name in rated}
    else:
        pairs = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    wrong = [score for score, label in pairs.items() if score not in predicted or label not in rated]
    if wrong or not pairs:
        given = f"{wrong[0]!r}, compared with {pairs[wrong[0]]!r}" if wrong else "none in common"
        labels = [name for name in rated if name not in ("mos_std", "mos_ci95", "scale_min", "scale_max")]
        raise ValueError(
            f"Expected a score of the model ({', '.join(predicted)}) that {test_set!r} has labels for "
            f"({', '.join(labels) or 'none'}), got {given}. Name the label of a score where it is another: "
            "scores={'mos': 'g_mos'}."
        )
    return pairs


def _scored(scorer: Any, audio: list[Any], batch_size: int, num_workers: int) -> Iterable[tuple[dict[str, Any], float]]:
    """Yield results in order with all details, each with its share of the CPU time inside the model."""
    items = scorer.preprocessed((audio[index] for index in range(len(audio))), num_workers, scorer._preprocess_params)
    while batch := list(itertools.islice(items, batch_size)):
        began = time.process_time()
        done = scorer.forward(batch, **scorer._forward_params)
        seconds = (time.process_time() - began) / len(done)
        for item in done:
            yield scorer.postprocess(item, on_error="row", return_details=True), seconds


def _groups(clips: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [clip.get(column) or None for clip in clips]


def _clusters(clips: Sequence[Mapping[str, Any]], wanted: str | None) -> tuple[list[Any], str]:
    if wanted not in (None, "none"):
        groups = _groups(clips, wanted)
        if clips and not any(group is not None for group in groups):
            known = [name for name in CLIP_COLUMNS if any(clip.get(name) for clip in clips)]
            raise ValueError(f"Expected a column that the clips know ({', '.join(known)}, or none) as cluster, got {wanted!r}.")
        return groups, str(wanted)
    for column in CLUSTER_COLUMNS if wanted is None else ():
        groups = _groups(clips, column)
        if 1 < len({*groups} - {None}) < len(clips):
            return groups, column
    return list(range(len(clips))), "clip"
