"""Before and after: agreement with listeners on held-out clips, with intervals, and a recommendation. NumPy and SciPy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hf_sqa.metrics import Comparison, bootstrap_agreement, compare_models
from hf_sqa.metrics.bootstrap import MIN_UNITS

METRICS = ("utt_lcc", "utt_srcc", "utt_rmse")
NUM_DRAWS = 10_000
#: With fewer units, an interval is rough.
FEW_UNITS = 10


def compare_before_after(
    predictions: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    calibration: str | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """Compute everything that a report says about one score.

    Predictions are those `"before"`, `"after"` and, if there are any, `"calibrated"` (the original with a first-order mapping,
    which needs no training), each `(num_clips,)`, NaN if a clip was not scored or not held out; labels are NaN where unrated.
    Groups are resampled as a whole, because their clips are alike. `calibration` is the order of the mapping, if `"after"` is one.

    Returns:
        `dict`: `agreement` (by model and metric; no interval from fewer than five units), `comparisons` (after against before, by
            metric, and after against calibrated), `recommendation` (`"use"` or `"keep"`), `verdict` (in words), ...
    """
    judged = ~np.isnan(labels) & np.all([~np.isnan(values) for values in predictions.values()], axis=0)
    truth = labels[judged]
    given = {name: values[judged] for name, values in predictions.items()}
    clusters = None if groups is None else [group for group, kept in zip(groups, judged, strict=True) if kept]
    drawn: dict[str, Any] = {"clusters": clusters, "num_draws": num_draws, "rng": seed}
    agreement = {
        name: {
            metric: {end: _number(getattr(interval, end)) for end in ("value", "low", "high")}
            for metric, interval in bootstrap_agreement(values, truth, metrics=METRICS, **drawn).items()
        }
        for name, values in given.items()
    }

    def compared(metric: str, against: str) -> Comparison:
        return compare_models(given["after"], given[against], truth, metric=metric, names=("after", against), **drawn)

    against_before = {metric: compared(metric, "before") for metric in METRICS}
    comparisons = {metric: _comparison(comparison) for metric, comparison in against_before.items()}
    if "calibrated" in given:
        comparisons["utt_rmse against calibrated"] = _comparison(compared("utt_rmse", "calibrated"))
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
    against_before: Mapping[str, Comparison], comparisons: Mapping[str, Any], calibration: str | None
) -> tuple[str, str]:
    """Return `"use"` or `"keep"`, and why. Ranks decide first, then errors; a calibration does not change ranks."""
    rank, error = against_before["utt_srcc"], against_before["utt_rmse"]
    about_rank = f"SRCC {rank.value_b:.3f} before, {rank.value_a:.3f} after, {_chance(rank)}"
    about_error = f"RMSE {error.value_b:.3f} before, {error.value_a:.3f} after, {_chance(error)}"
    if error.difference.num_units < MIN_UNITS:
        return "keep", (
            f"Keep the original for now: {error.difference.num_units} independent units were held out, from which no gain can be "
            f"shown ({about_rank}; {about_error}). Rate clips of more groups, or cross-fit (`--folds 5`)."
        )
    if calibration is not None:
        if error.better == "after":
            return "use", f"Use the calibrated model: its scores lie closer to your listeners ({about_error}); ranks stay."
        if error.value_a >= error.value_b:
            return "keep", f"Keep the original: calibration brought its scores no closer to your listeners ({about_error})."
        return "keep", f"Keep the original: no gain is shown ({about_error}). More rated clips may show one."
    if rank.better == "before" or error.better == "before":
        return "keep", f"Keep the original: the fine-tuned model agrees less with your listeners ({about_rank}; {about_error})."
    if rank.better == "after":
        return "use", f"Use the fine-tuned model: it ranks recordings better ({about_rank}; {about_error})."
    if error.better == "after":
        line = comparisons.get("utt_rmse against calibrated")
        if (
            line is not None
            and line["better"] != "after"
            and error.value_b - line["value_b"] >= (error.value_b - error.value_a) / 2
        ):
            return "keep", (
                "Keep the original and calibrate it (`--calibrate first`): the fine-tuned model's scores lie closer to your "
                f"listeners ({about_error}), but a straight line fitted to the original's scores gains most of that too (RMSE "
                f"{line['value_b']:.3f}), and that it ranks recordings better is not shown ({about_rank})."
            )
        return "use", (
            f"Use the fine-tuned model: its scores lie closer to your listeners ({about_error}); that it ranks recordings better "
            f"is not shown ({about_rank})."
        )
    return "keep", (
        f"Keep the original: the gain is not significant ({about_rank}; {about_error}). The difference may be chance; more rated "
        "clips, of more groups, would show it."
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
    if any(interval["value"] is None for interval in agreement["before"].values()):
        remarks.append("A correlation is undefined because labels or scores of the held-out clips do not differ.")
    return remarks


def _comparison(comparison: Comparison) -> dict[str, Any]:
    values = asdict(comparison)
    difference = values.pop("difference")
    values |= {"difference": difference["value"], "low": difference["low"], "high": difference["high"]}
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float) -> float | None:
    """Return the value, or `None` for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 6)
