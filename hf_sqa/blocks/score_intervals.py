"""Certainty of a score: an interval in which the mean opinion of listeners lies, calibrated on rated clips.

Split conformal prediction with residuals normalised by the predicted level: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman,
"Distribution-Free Predictive Inference for Regression", JASA 2018. A calibration travels in the configuration of a checkpoint,
`score_intervals={"mos": {...}}`. It says how large the errors on its clips were, and nothing about recordings unlike them. NumPy
only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Smallest number of clips for an interval.
MIN_CLIPS = 20
#: Clips per level at which the size of errors is measured, most levels, and weight in clips of the mean over all levels.
CLIPS_A_LEVEL, MOST_LEVELS, PRIOR_CLIPS = 50, 5, 20
#: Clips without groups are divided into this many parts, which are left out in turn; so are groups if there are more than this.
NUM_PARTS = 10
#: Coverages for which a calibration has a quantile, as far as its clips suffice.
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
SMALLEST_SCALE = 1e-3
DECIMALS = 4
#: Decimals of scores in results.
SCORE_DECIMALS = 6
NUMBERS = ("coverages", "quantiles", "levels", "scales")


def fit_score_interval(scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """Fit the calibration of one score.

    If there are enough clips, the size of errors depends on the predicted level: mean absolute errors at levels with equally many
    clips, drawn towards their common mean and joined by lines. Every residual is divided by a size that was measured without its
    own group, and the quantiles of the quotients give the interval.

    `scores` are those of the pipeline, `labels` the mean opinion scores of the same clips, which the model was not trained on, each
    `(num_clips,)` with NaN where there is none; 20 clips must have both. `groups` say what clips have in common, such as the
    talker. Returns `coverages` with `quantiles`, `levels` with `scales`, `num_clips`, and `num_groups` if groups are given.
    """
    scores, labels, parts, num_groups = _known(scores, labels, groups)
    residuals = np.abs(labels - scores)
    normalised = np.empty(len(scores))
    for part in np.unique(parts):
        inside = parts == part
        levels, scales = _sizes(scores[~inside], residuals[~inside])
        normalised[inside] = residuals[inside] / np.interp(scores[inside], levels, scales)
    normalised.sort()
    ranks = [math.ceil((len(scores) + 1) * coverage) for coverage in COVERAGES]
    reached = [(coverage, rank) for coverage, rank in zip(COVERAGES, ranks, strict=True) if rank <= len(scores)]
    levels, scales = _sizes(scores, residuals)
    calibration = {
        "coverages": [coverage for coverage, _ in reached],
        "quantiles": [round(float(normalised[rank - 1]), DECIMALS) for _, rank in reached],
        "levels": [round(level, DECIMALS) for level in levels.tolist()],
        "scales": [round(scale, DECIMALS) for scale in scales.tolist()],
        "num_clips": len(scores),
    }
    return calibration if num_groups is None else calibration | {"num_groups": num_groups}


def half_widths(scores: ArrayLike, calibration: Mapping[str, Any], coverage: float) -> np.ndarray:
    """Return half the width of every score's interval, in the shape of `scores`, by a calibration of [`fit_score_interval`].

    `coverage` is the share of recordings whose rating should lie inside; a share that the calibration does not reach is refused.
    """
    check_coverage(calibration, coverage)
    quantile = np.interp(coverage, calibration["coverages"], calibration["quantiles"])
    return quantile * np.interp(np.asarray(scores, np.float64), calibration["levels"], calibration["scales"])


def check_coverage(calibration: Mapping[str, Any], coverage: float) -> None:
    """Refuse a coverage for which a calibration has no quantiles."""
    low, high = calibration["coverages"][0], calibration["coverages"][-1]
    if not low <= coverage <= high:
        raise ValueError(
            f"Expected `interval` from {low:g} to {high:g}, got {coverage:g}: the calibration's {calibration['num_clips']} "
            "clips are too few for other intervals."
        )


def check_intervals(calibrations: Mapping[str, Mapping[str, Any]] | None, coverage: float) -> None:
    """Refuse an interval if a configuration has no `score_intervals`, or if one of them does not reach the coverage."""
    if not calibrations:
        raise ValueError(
            f"Expected a checkpoint with calibrated intervals for `interval={coverage:g}`, but this one has none: `hf-sqa "
            "calibrate <model> <table of rated clips> --output <folder>` makes one from 20 rated clips or more, and `hf-sqa "
            "finetune` writes one too."
        )
    for calibration in calibrations.values():
        check_coverage(calibration, coverage)


def with_intervals(
    row: Mapping[str, Any], calibrations: Mapping[str, Mapping[str, Any]], coverage: float, lowest: float, highest: float
) -> dict[str, Any]:
    """Return scores by name (`None`: no score), each followed by the ends of its interval, which stay within the scale."""
    widened: dict[str, Any] = {}
    for name, score in row.items():
        widened[name] = score
        if name in calibrations:
            low = high = None
            if score is not None:
                half = float(half_widths(score, calibrations[name], coverage))
                low, high = min(score, max(score - half, lowest)), max(score, min(score + half, highest))
                low, high = round(low, SCORE_DECIMALS), round(high, SCORE_DECIMALS)
            widened |= {f"{name}_low": low, f"{name}_high": high}
    return widened


def score_columns(names: Sequence[str], calibrations: Mapping[str, Any] | None, coverage: float | None) -> list[str]:
    """Return the names of the scores in a row, each followed by the names for the ends of its interval, if it has one."""
    columns = []
    for name in names:
        columns.append(name)
        if coverage is not None and name in (calibrations or {}):
            columns += [f"{name}_low", f"{name}_high"]
    return columns


def measured_coverage(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | None = None, coverage: float = 0.9
) -> dict[str, Any]:
    """Measure the coverage on clips that the calibration has not seen: each group in turn is left out, the others calibrate.

    The first arguments are those of [`fit_score_interval`], and 20 clips must be left to calibrate; `coverage` is the share asked
    for. Returns `asked`, `coverage`, `lowest` (of any group or part), `half_width` (the mean), `num_clips`, and `num_groups` if
    groups are given.
    """
    scores, labels, parts, num_groups = _known(scores, labels, groups)
    inside, widths = np.zeros(len(scores), bool), np.empty(len(scores))
    for part in np.unique(parts):
        out = parts == part
        others = parts[~out].tolist() if len(np.unique(parts[~out])) > 1 else None
        calibration = fit_score_interval(scores[~out], labels[~out], others)
        widths[out] = half_widths(scores[out], calibration, coverage)
        inside[out] = np.abs(labels[out] - scores[out]) <= widths[out]
    measured = {
        "asked": coverage,
        "coverage": round(float(inside.mean()), DECIMALS),
        "lowest": round(min(float(inside[parts == part].mean()) for part in np.unique(parts)), DECIMALS),
        "half_width": round(float(widths.mean()), DECIMALS),
        "num_clips": len(scores),
    }
    return measured if num_groups is None else measured | {"num_groups": num_groups}


def check_score_interval(name: str, calibration: Mapping[str, Any]) -> None:
    """Refuse a calibration whose tables are missing, of different lengths, not finite, or do not rise."""
    tables = [calibration.get(table) for table in NUMBERS]
    try:
        coverages, quantiles, levels, scales = (np.asarray(table, np.float64) for table in tables)
        good = (
            all(table.ndim == 1 and len(table) and np.isfinite(table).all() for table in (coverages, quantiles, levels, scales))
            and len(coverages) == len(quantiles)
            and len(levels) == len(scales)
            and (np.diff(coverages) > 0).all()
            and (np.diff(quantiles) >= 0).all()
            and (np.diff(levels) >= 0).all()
            and min(coverages[0], 1 - coverages[-1], quantiles[0] + SMALLEST_SCALE, scales.min()) > 0
            and int(calibration["num_clips"]) >= MIN_CLIPS
        )
    except (TypeError, ValueError, KeyError):
        good = False
    if not good:
        raise ValueError(
            f"Expected the interval calibration of {name!r} to have rising {NUMBERS[0]} with {NUMBERS[1]}, {NUMBERS[2]} with "
            f"{NUMBERS[3]}, and num_clips of {MIN_CLIPS} or more, got {dict(calibration)}. `hf-sqa calibrate` makes one."
        )


def _known(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int | None]:
    """Return rated and scored clips, the part with which each is left out, and the number of groups."""
    predicted, rated = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if predicted.ndim != 1 or predicted.shape != rated.shape or (groups is not None and len(groups) != len(predicted)):
        raise ValueError(f"Expected a score and a label for every clip, got shapes {predicted.shape} and {rated.shape}.")
    known = np.isfinite(predicted) & np.isfinite(rated)
    if known.sum() < MIN_CLIPS:
        raise ValueError(
            f"Expected {MIN_CLIPS} rated and scored clips or more to calibrate an interval, got {int(known.sum())}; rate some more."
        )
    predicted, rated = predicted[known], rated[known]
    if groups is None:
        order = np.argsort(np.argsort(predicted, kind="stable"), kind="stable")
        return predicted, rated, order % NUM_PARTS, None
    numbers: dict[Hashable, int] = {}
    own = [numbers.setdefault(group, len(numbers)) for group, is_known in zip(groups, known, strict=True) if is_known]
    if len(numbers) < 2:
        raise ValueError(f"Expected clips of two groups or more, got {len(numbers)}: leave the groups out, or rate others too.")
    return predicted, rated, np.array(own) % max(2, min(len(numbers), NUM_PARTS)), len(numbers)


def _sizes(scores: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending predicted levels and the size of errors at each."""
    num_levels = min(MOST_LEVELS, max(1, len(scores) // CLIPS_A_LEVEL))
    overall = float(residuals.mean())
    parts = np.array_split(np.argsort(scores, kind="stable"), num_levels)
    levels = np.array([np.median(scores[part]) for part in parts])
    scales = np.array([(residuals[part].sum() + PRIOR_CLIPS * overall) / (len(part) + PRIOR_CLIPS) for part in parts])
    return levels, np.maximum(scales, SMALLEST_SCALE)
