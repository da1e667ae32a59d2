"""Calibration: map a model's scores to the scale of one listening test, with some twenty rated clips and no training.

The mapping is that of ITU-T P.1401: monotonic, of first or third order. `hf_sqa.metrics.fit_mapping` fits it, and the configuration
of the checkpoint keeps it (`score_mapping`). It corrects offset, slope and curvature, never ranks. NumPy only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hf_sqa.blocks.score_mapping import apply_score_mapping, check_score_mapping
from hf_sqa.metrics import fit_mapping

#: Fewest clips for a mapping: three for each coefficient, of which a line has two and a cubic four.
MIN_CLIPS = {"first": 6, "third": 12}
#: A mapping that rises by less than this share of the score range would give all recordings nearly the same score.
MIN_RISE = 1e-3


def fit_score_mapping(predictions: ArrayLike, labels: ArrayLike, order: str = "first") -> list[float]:
    """Fit the `score_mapping` of one score: `[low, high, c0, c1]`, or of `"third"` order `[low, high, c0, c1, c2, c3]`.

    Unmapped scores of the model and labels are `(num_clips,)`. Clips that lack either (NaN) are left out.

    Raises:
        ValueError: If there are too few clips, either side is constant, or the scores do not rise with the labels.
    """
    if order not in MIN_CLIPS:
        raise ValueError(f"Expected the order of a calibration to be 'first' or 'third', got {order!r}.")
    scores, truth = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    known = ~np.isnan(scores) & ~np.isnan(truth)
    scores, truth = scores[known], truth[known]
    if len(truth) < MIN_CLIPS[order]:
        hint = ", or take the first order, which needs 6" if order == "third" and len(truth) >= MIN_CLIPS["first"] else ""
        raise ValueError(
            f"Expected {MIN_CLIPS[order]} rated and scored clips or more to calibrate with the {order} order, got {len(truth)}; "
            f"rate some more{hint}."
        )
    for what, values in (("labels", truth), ("scores of the model", scores)):
        if np.ptp(values) <= 1e-9 * np.abs(values).max():
            raise ValueError(
                f"Expected {what} that differ, got {values[0]:g} for all {len(values)} clips: there is nothing to fit."
            )
    polynomial = fit_mapping(scores, truth, order)
    low, high = float(scores.min()), float(scores.max())
    if polynomial(high) - polynomial(low) < MIN_RISE * (high - low):
        raise ValueError(
            f"The scores of the model do not rise with the ratings of these {len(truth)} clips, so the fitted mapping is flat and "
            "would give every recording the same score. Check that ratings and files belong together, or fine-tune instead."
        )
    coefficients = polynomial.convert().coef.tolist()
    mapping = [low, high, *coefficients, *[0.0] * (2 - len(coefficients))]
    check_score_mapping("mos", mapping)
    return mapping


def cross_fitted_mapping(
    predictions: np.ndarray,
    labels: np.ndarray,
    judged: np.ndarray,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    order: str = "first",
) -> np.ndarray:
    """Map the predictions `judged` part by part. A part has the rows to fit on and the rows of `judged` to map by that fit."""
    mapped = np.full(len(judged), np.nan)
    for seen, rows in parts:
        mapped[rows] = apply_score_mapping(judged[rows], fit_score_mapping(predictions[seen], labels[seen], order))
    return mapped


def make_folds(labels: ArrayLike, num_folds: int, *, groups: Sequence[str] | None = None, seed: int = 0) -> np.ndarray:
    """Assign every clip to a fold, 0 to `num_folds - 1`. The folds have similar scores, and no group is in two folds.

    Without groups, the clips are sorted by label, and every `num_folds` neighbours are spread over the folds at random. With
    groups, the largest come first, and each goes to the fold that has the fewest clips so far.
    """
    labels = np.asarray(labels, np.float64)
    rng = np.random.default_rng(seed)
    if groups is None:
        if not 2 <= num_folds <= len(labels):
            raise ValueError(f"Expected 2 to {len(labels)} folds for {len(labels)} clips, got {num_folds}.")
        order = np.lexsort((rng.random(len(labels)), labels))
        rounds = [rng.permutation(num_folds) for _ in range(-(-len(labels) // num_folds))]
        folds = np.empty(len(labels), int)
        folds[order] = np.concatenate(rounds)[: len(labels)]
        return folds
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if not 2 <= num_folds <= len(names):
        raise ValueError(f"Expected 2 to {len(names)} folds for {len(names)} groups, got {num_folds}.")
    sizes = np.bincount(codes)
    fold_of_group, filled = np.empty(len(names), int), np.zeros(num_folds, int)
    for group in np.lexsort((rng.random(len(names)), -sizes)):
        # The fold with the fewest clips comes first, so none stays empty.
        fold = int(np.argmin(filled))
        fold_of_group[group] = fold
        filled[fold] += sizes[group]
    return fold_of_group[codes]
