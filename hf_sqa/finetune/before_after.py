"""Before and after: agreement with listeners on held-out clips, with intervals, and what follows from it. NumPy and SciPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from hf_sqa.metrics import Comparison, Interval, bootstrap_agreement, compare_models

METRICS = ("utt_lcc", "utt_srcc", "utt_rmse")
NUM_DRAWS = 10_000
#: The field's shape for a rank and an error: what `utt_srcc` is called where people read it.
TITLES = {"utt_lcc": "LCC", "utt_srcc": "SRCC", "utt_rmse": "RMSE"}
#: An interval from fewer units is itself a guess; from fewer than the second number it shows nothing.
FEW_UNITS, MIN_UNITS = 10, 5


def compare_before_after(
    predictions: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    calibration: str | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """Everything a report says of one score.

    Args:
        predictions (`dict`): `"before"` and `"after"`, of shape `(num_clips,)`, NaN where a clip was not scored or not held out;
            optionally `"calibrated"`, the original behind a first-order mapping: what a model gains without being trained.
        labels (`np.ndarray` of shape `(num_clips,)`): NaN where unrated.
        groups (sequence of `str`, *optional*): Drawn as one, because their clips resemble each other.
        calibration (`str`, *optional*): Order of the mapping if `after` is no more than that.
        seed (`int`, *optional*, defaults to 0): Of the draws.
        num_draws (`int`, *optional*, defaults to 10000): Bootstrap draws.

    Returns:
        `dict`: `agreement` (by model and metric: `value`, `low`, `high`; no ends of fewer than five units), `comparisons` (after
            against before, by metric, and after against calibrated), `recommendation` (`"use"` or `"keep"`), `verdict` (in words),
            `num_clips`, `num_units`, `remarks`.
    """
    judged = ~np.isnan(labels) & np.all([~np.isnan(values) for values in predictions.values()], axis=0)
    truth = labels[judged]
    given = {name: values[judged] for name, values in predictions.items()}
    clusters = None if groups is None else [group for group, kept in zip(groups, judged, strict=True) if kept]
    agreement = {
        name: {
            metric: _told_interval(one)
            for metric, one in bootstrap_agreement(
                values, truth, metrics=METRICS, clusters=clusters, num_draws=num_draws, rng=seed
            ).items()
        }
        for name, values in given.items()
    }

    def compared(metric: str, against: str) -> Comparison:
        names = ("after", against)
        found = compare_models(
            given["after"], given[against], truth, metric=metric, names=names, clusters=clusters, num_draws=num_draws, rng=seed
        )
        # Draws of few units are few: their interval ends at the last draw, short of what the p-value says.
        shown = found.p_value < 1 - found.difference.confidence_level and found.difference.num_units >= MIN_UNITS
        return found if shown else replace(found, better=None)

    against_before = {metric: compared(metric, "before") for metric in METRICS}
    comparisons = {metric: _told(one) for metric, one in against_before.items()}
    if "calibrated" in given:
        comparisons["utt_rmse against calibrated"] = _told(compared("utt_rmse", "calibrated"))
    recommendation, verdict = _recommendation(against_before, comparisons, calibration)
    num_units = against_before["utt_rmse"].difference.num_units
    return {
        "num_clips": int(judged.sum()),
        "num_units": num_units,
        "agreement": agreement,
        "comparisons": comparisons,
        "recommendation": recommendation,
        "verdict": verdict,
        "remarks": _remarks(num_units, groups is not None, agreement),
    }


def _recommendation(
    against_before: Mapping[str, Comparison],
    comparisons: Mapping[str, Any],
    calibration: str | None,
) -> tuple[str, str]:
    """What to do, and why. Ranks decide, then errors; a calibration cannot move ranks."""
    rank, error = against_before["utt_srcc"], against_before["utt_rmse"]
    told_rank = f"SRCC {rank.value_b:.3f} before, {rank.value_a:.3f} after, {_chance(rank)}"
    told_error = f"RMSE {error.value_b:.3f} before, {error.value_a:.3f} after, {_chance(error)}"
    if error.difference.num_units < MIN_UNITS:
        return "keep", (
            f"Keep the original for now: {error.difference.num_units} independent units were held out, from which no gain can be "
            f"shown ({told_rank}; {told_error}). Rate clips of more groups, or cross-fit (`--folds 5`)."
        )
    if calibration is not None:
        if error.better == "after":
            return "use", f"Use the calibrated model: its scores lie closer to your listeners ({told_error}); ranks stay."
        if error.value_a >= error.value_b:
            return "keep", f"Keep the original: calibration brought its scores no closer to your listeners ({told_error})."
        return "keep", f"Keep the original: no gain is shown ({told_error}). More rated clips would tell."
    if rank.better == "before" or error.better == "before":
        return "keep", f"Keep the original: the fine-tuned model agrees less with your listeners ({told_rank}; {told_error})."
    if rank.better == "after":
        return "use", f"Use the fine-tuned model: it ranks recordings better ({told_rank}; {told_error})."
    if error.better == "after":
        line = comparisons.get("utt_rmse against calibrated")
        if (
            line is not None
            and line["better"] != "after"
            and error.value_b - line["value_b"] >= (error.value_b - error.value_a) / 2
        ):
            return "keep", (
                "Keep the original and calibrate it (`--calibrate first`): the fine-tuned model's scores lie closer to your "
                f"listeners ({told_error}), but most of that a straight line behind the original does too (RMSE "
                f"{line['value_b']:.3f}), and that it ranks recordings better is not shown ({told_rank})."
            )
        return "use", (
            f"Use the fine-tuned model: its scores lie closer to your listeners ({told_error}); that it ranks recordings better is "
            f"not shown ({told_rank})."
        )
    return "keep", (
        f"Keep the original: the gain is not significant ({told_rank}; {told_error}). The difference may be chance; more rated "
        "clips, of more groups, would tell."
    )


def _chance(comparison: Comparison) -> str:
    if math.isnan(comparison.p_value):
        return "no p-value: too few groups"
    return "p < 0.001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.3f}"


def _remarks(num_units: int, grouped: bool, agreement: Mapping[str, Any]) -> list[str]:
    remarks = []
    if num_units < 2:
        remarks.append("All held-out clips are of one group: no interval can be given.")
    elif num_units < FEW_UNITS:
        units = "groups" if grouped else "clips"
        worth = "show nothing" if num_units < MIN_UNITS else "are rough themselves"
        remarks.append(f"Intervals and p-values come from {num_units} {units} only and {worth}.")
    if any(one["value"] is None for one in agreement["before"].values()):
        remarks.append("A correlation is undefined because labels or scores of the held-out clips do not differ.")
    return remarks


def _told_interval(interval: Interval) -> dict[str, float | None]:
    """Of too few units no interval: drawn from themselves they agree too well with each other."""
    known = interval.num_units >= MIN_UNITS
    return {
        "value": _number(interval.value),
        "low": _number(interval.low) if known else None,
        "high": _number(interval.high) if known else None,
    }


def _told(comparison: Comparison) -> dict[str, Any]:
    told = asdict(comparison)
    difference = told.pop("difference")
    told |= {"difference": difference["value"], "low": difference["low"], "high": difference["high"]}
    return {name: _number(value) if isinstance(value, float) else value for name, value in told.items()}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else round(value, 6)
