"""Agreement of predicted scores with listeners, as the field reports it.

Correlations and errors at utterance, system and condition level, and the errors of ITU-T P.1401 after a monotonic mapping.
Equation numbers are those of P.1401 as cited in NISQA (Mittag, Naderi, Chehadi, Möller, Interspeech 2021); NumPy and SciPy only.

Differences from NISQA's evaluation: a mapping never falls, not even of first order (NISQA fits a free line, which gives a small
mapped error to a model that ranks the wrong way round); the third order is solved exactly, not on a grid of constraints; a mapping
of condition means is applied to these means, not to the files before averaging.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike
from scipy.optimize import nnls
from scipy.stats import kendalltau, rankdata

#: Degrees of freedom `d` of a mapping, as NISQA and the ConferencingSpeech 2022 challenge count them.
DEGREES_OF_FREEDOM = {None: 0, "first": 1, "third": 4}
MAPPING_ORDERS = {"first": 1, "third": 3}
#: Whether a larger value is better, by metric name without its level.
GREATER_IS_BETTER = {"lcc": True, "srcc": True, "ktau": True, "mse": False, "rmse": False, "mae": False}

#: Spread below this share of the largest value counts as rounding, not variation.
ROUNDING = 1e-12
#: Decimals of group means. Unrounded, equal means of different ratings could differ in the last bit and break a tie.
MEAN_DECIMALS = 10
#: Places of the double root in `_third_order`; more of them lower a mapped error by less than 1e-6.
NUM_ROOTS = 1001


def agreement(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    systems: Sequence[Hashable] | None = None,
    conditions: Sequence[Hashable] | None = None,
    ci95: ArrayLike | None = None,
    mapping: str | None = None,
) -> dict[str, float]:
    """Measure the agreement of one score's predictions with its labels, as a flat dict.

    At system and condition level, predictions and labels are averaged first and compared second, over the clips that have both.

    ```python
    >>> agreement([1.0, 2.0, 4.0], [1.5, 2.0, 4.5])["utt_srcc"]
    1.0
    ```

    Args:
        predictions (array of shape `(num_clips,)`): Predicted scores in label units; NaN where a clip could not be scored.
        labels (array of shape `(num_clips,)`): Mean opinion scores; NaN where unrated.
        systems (sequence of length `num_clips`, *optional*): System of every clip; adds the `sys_` keys. None, NaN or an empty
            string means unknown.
        conditions (sequence of length `num_clips`, *optional*): Condition of every clip; adds the `con_` keys.
        ci95 (array of shape `(num_clips,)`, *optional*): Half-width of the 95 % interval of every label, MOS points; adds the
            `rmse_star` keys and needs `mapping`. A group's interval is that of a mean of independent labels, `sqrt(sum(ci95²)) /
            n`. If the corpus gives intervals per condition, average the clips of each condition and call this on the averages.
        mapping (`str`, *optional*): `"first"` or `"third"`: order of the monotonic fit of predictions to labels; adds the
            `rmse_mapped` keys. Every level is fitted on its own.

    Returns:
        `dict[str, float]`: `{level}_{metric}` for the levels `utt`, `sys`, `con` and the metrics `lcc`, `srcc`, `ktau`, `mse`,
        `rmse`, `mae`, `rmse_mapped`, `rmse_star`. Errors are in MOS points (`mse` in squared points). NaN means undefined, never
        zero: a correlation of a constant or of fewer than two points, an error without points, a mapped error with no more points
        than the mapping has degrees of freedom. Then the counts: `num_scored` clips compared, `num_failed` rated clips without a
        prediction, `num_unrated` clips without a label, and if requested `num_systems`, `num_without_system`, `num_conditions`,
        `num_without_condition`, `num_without_ci95`, `mapping_order`.

    Raises:
        ValueError: If lengths differ, a value is infinite, an interval negative, `mapping` unknown, or `ci95` without `mapping`.
    """
    if mapping not in DEGREES_OF_FREEDOM:
        raise ValueError(f"Expected `mapping` to be 'first', 'third' or None, got {mapping!r}.")
    if ci95 is not None and mapping is None:
        raise ValueError(
            "Expected a `mapping` beside `ci95`, got None. RMSE* is taken after a mapping (ITU-T P.1401): pass mapping='first' or "
            "mapping='third'."
        )
    predictions, labels, kept, counts = rated_and_scored(predictions, labels)
    half_widths = None if ci95 is None else _checked_ci95(ci95, len(kept))[kept]

    result = _at_level("utt", predictions, labels, half_widths, mapping)
    for level, name, groups in (("sys", "system", systems), ("con", "condition", conditions)):
        if groups is None:
            continue
        codes, names = group_codes(groups, len(kept), name + "s")
        codes, of_groups = codes[kept], None
        predicted, rated = (group_means(values, codes, len(names)) for values in (predictions, labels))
        if half_widths is not None:
            squares, sizes = _group_sums(half_widths**2, codes, len(names))
            of_groups = np.sqrt(squares) / sizes
        result |= _at_level(level, predicted, rated, of_groups, mapping)
        counts[f"num_{name}s"] = len(np.unique(codes[codes >= 0]))
        counts[f"num_without_{name}"] = int((codes < 0).sum())
    if half_widths is not None:
        counts["num_without_ci95"] = int(np.isnan(half_widths).sum())
    if mapping is not None:
        counts["mapping_order"] = MAPPING_ORDERS[mapping]
    return result | counts


def lcc(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Linear (Pearson) correlation, -1 to 1; NaN if either side is constant or fewer than two points are given.

    Like every metric here, it takes two arrays of shape `(num_points,)` without NaN.
    """
    predictions, labels = _points(predictions, labels)
    if _is_constant(predictions) or _is_constant(labels):
        return float("nan")
    first, second = predictions - predictions.mean(), labels - labels.mean()
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1.0, 1.0))


def srcc(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Spearman rank correlation, -1 to 1, ties at their average rank; NaN as for [`lcc`]."""
    predictions, labels = _points(predictions, labels)
    if _is_constant(predictions) or _is_constant(labels):
        return float("nan")
    return lcc(rankdata(predictions), rankdata(labels))


def ktau(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Kendall's tau-b, -1 to 1, corrected for ties; NaN as for [`lcc`]."""
    predictions, labels = _points(predictions, labels)
    if _is_constant(predictions) or _is_constant(labels):
        return float("nan")
    return float(kendalltau(predictions, labels, variant="b").statistic)


def mse(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean square error in squared label units; NaN without points."""
    predictions, labels = _points(predictions, labels)
    return float(np.mean((predictions - labels) ** 2)) if len(labels) else float("nan")


def rmse(predictions: ArrayLike, labels: ArrayLike, *, degrees_of_freedom: int = 0) -> float:
    """Root mean square error in label units, `sqrt(sum(error²) / (N - d))` (P.1401 eq. 7-29 without intervals); `d` and NaN as in
    [`rmse_star`]."""
    return rmse_star(predictions, labels, 0.0, degrees_of_freedom=degrees_of_freedom)


def rmse_star(predictions: ArrayLike, labels: ArrayLike, ci95: ArrayLike, *, degrees_of_freedom: int = 0) -> float:
    """RMSE*: only the part of an error beyond the uncertainty of its label counts (P.1401 eq. 7-27 and 7-29).

    `sqrt(sum(max(|error| - ci95, 0)²) / (N - d))`, in label units.

    Args:
        predictions (array of shape `(num_points,)`): Predicted scores, mapped if a mapping is used.
        labels (array of shape `(num_points,)`): Labels.
        ci95 (array of shape `(num_points,)` or `float`): Half-width of the labels' 95 % intervals.
        degrees_of_freedom (`int`, *optional*, defaults to 0): `d` of the mapping: 0 without one, 1 for first, 4 for third
            order.

    Returns:
        `float`: NaN unless `N > d`.
    """
    predictions, labels = _points(predictions, labels)
    if len(labels) <= degrees_of_freedom:
        return float("nan")
    excess = np.maximum(np.abs(predictions - labels) - np.asarray(ci95, dtype=np.float64), 0.0)
    return float(np.sqrt(np.sum(excess**2) / (len(labels) - degrees_of_freedom)))


def mae(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean absolute error in label units; NaN without points."""
    predictions, labels = _points(predictions, labels)
    return float(np.mean(np.abs(predictions - labels))) if len(labels) else float("nan")


METRICS: dict[str, Callable[..., float]] = {metric.__name__: metric for metric in (lcc, srcc, ktau, mse, rmse, mae)}


def fit_mapping(predictions: ArrayLike, labels: ArrayLike, order: str) -> Polynomial:
    """Fit the non-decreasing polynomial that maps predictions closest to labels, by least squares.

    It removes offset, slope and curvature between the scale of a model and that of a listening test (ITU-T P.1401).

    Args:
        predictions (array of shape `(num_points,)`): Predicted scores.
        labels (array of shape `(num_points,)`): Labels.
        order (`str`): `"first"`: a line of slope zero or more; `"third"`: a cubic that never falls within the range of
            the predictions.

    Returns:
        `numpy.polynomial.Polynomial`: Call it on predictions; `.convert().coef` are the coefficients of 1, x, x², x³. Constant if
        the predictions are constant, NaN if there are no points.

    Raises:
        ValueError: If `order` is unknown.
    """
    if order not in MAPPING_ORDERS:
        raise ValueError(f"Expected `order` to be 'first' or 'third', got {order!r}.")
    predictions, labels = _points(predictions, labels)
    if len(labels) == 0:
        return Polynomial([np.nan])
    if _is_constant(predictions):
        return Polynomial([labels.mean()])
    domain = [float(predictions.min()), float(predictions.max())]
    position = (predictions - domain[0]) / (domain[1] - domain[0])
    if order == "first":
        centred = position - position.mean()
        slope = max(float(centred @ labels) / float(centred @ centred), 0.0)
        coefficients = np.array([labels.mean() - slope * position.mean(), slope])
    else:
        coefficients = _third_order(position, labels)
    return Polynomial(coefficients, domain=domain, window=[0.0, 1.0])


def _third_order(position: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit a cubic that rises on [0, 1] by least squares; return the coefficients of 1, t, t², t³.

    A quadratic is non-negative on [0, 1] if and only if it is a non-negative combination of `(t - r)²`, `r` in [0, 1], and
    `t (1 - t)`, the extreme rays of that cone. Their integrals are the columns of a non-negative least squares problem, which a
    triangular factor of the data reduces to three rows.
    """
    roots = np.linspace(0.0, 1.0, NUM_ROOTS)
    squares = np.stack([roots**2, -roots, np.full_like(roots, 1 / 3)])
    bump = np.array([[0.0], [1 / 2], [-1 / 3]])
    rising = np.concatenate([squares, bump], axis=1)  # coefficients of t, t², t³, one column per ray

    powers = position[:, None] ** np.arange(1, 4)
    basis, triangle = np.linalg.qr(powers - powers.mean(axis=0))
    columns = triangle @ rising
    scale = np.linalg.norm(columns, axis=0)
    usable = scale > ROUNDING * scale.max()
    amounts, _ = nnls(columns[:, usable] / scale[usable], basis.T @ (labels - labels.mean()))
    coefficients = rising[:, usable] @ (amounts / scale[usable])
    return np.concatenate([[labels.mean() - powers.mean(axis=0) @ coefficients], coefficients])


def rated_and_scored(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Select the clips with a label and a prediction; return both without NaN, the mask that chose them, and the counts."""
    predictions = _one_dimensional(predictions, "predictions")
    labels = _one_dimensional(labels, "labels")
    if len(predictions) != len(labels):
        raise ValueError(
            f"Expected as many predictions as labels, got {len(predictions)} and {len(labels)}. Give one prediction per clip, NaN "
            "for a clip that could not be scored."
        )
    scored, rated = ~np.isnan(predictions), ~np.isnan(labels)
    kept = scored & rated
    counts: dict[str, float] = {
        "num_scored": int(kept.sum()),
        "num_failed": int((rated & ~scored).sum()),
        "num_unrated": int((~rated).sum()),
    }
    return predictions[kept], labels[kept], kept, counts


def group_codes(groups: Sequence[Hashable], num_clips: int, name: str) -> tuple[np.ndarray, list[Any]]:
    """Number the groups in order of first appearance: numbers `(num_clips,)`, -1 where unknown, and the group of every number."""
    if len(groups) != num_clips:
        raise ValueError(f"Expected one entry of `{name}` per clip, {num_clips}, got {len(groups)}.")
    numbers: dict[Any, int] = {}
    codes = np.fromiter(
        (-1 if group is None or group == "" or group != group else numbers.setdefault(group, len(numbers)) for group in groups),
        dtype=np.int64,
        count=num_clips,
    )
    return codes, list(numbers)


def unit_codes(codes: np.ndarray) -> np.ndarray:
    """Number the units from 0: the clips of a group form one unit, and a clip without a group (-1) is its own unit."""
    alone = codes < 0
    codes = np.where(alone, codes.max(initial=-1) + np.cumsum(alone), codes)
    return np.unique(codes, return_inverse=True)[1]


def _at_level(
    level: str, predictions: np.ndarray, labels: np.ndarray, ci95: np.ndarray | None, mapping: str | None
) -> dict[str, float]:
    result = {f"{level}_{name}": metric(predictions, labels) for name, metric in METRICS.items()}
    if mapping is not None:
        mapped = fit_mapping(predictions, labels, mapping)(predictions)
        taken = DEGREES_OF_FREEDOM[mapping]
        result[f"{level}_rmse_mapped"] = rmse(mapped, labels, degrees_of_freedom=taken)
        if ci95 is not None:
            known = ~np.isnan(ci95)
            result[f"{level}_rmse_star"] = rmse_star(mapped[known], labels[known], ci95[known], degrees_of_freedom=taken)
    return result


def group_means(values: np.ndarray, codes: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the mean of every group that has a clip."""
    sums, sizes = _group_sums(values, codes, num_groups)
    return np.round(sums / sizes, MEAN_DECIMALS)


def _group_sums(values: np.ndarray, codes: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    known = codes >= 0
    sizes = np.bincount(codes[known], minlength=num_groups)
    return np.bincount(codes[known], values[known], num_groups)[sizes > 0], sizes[sizes > 0]


def _checked_ci95(ci95: ArrayLike, num_clips: int) -> np.ndarray:
    half_widths = _one_dimensional(ci95, "ci95")
    if len(half_widths) != num_clips:
        raise ValueError(f"Expected one entry of `ci95` per clip, {num_clips}, got {len(half_widths)}.")
    if (half_widths < 0).any():
        raise ValueError(
            f"Expected `ci95` to hold half-widths of 95 % intervals, got {half_widths[half_widths < 0][0]}; mark an unknown "
            "interval with NaN."
        )
    return half_widths


def _one_dimensional(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)  # None becomes NaN
    if array.ndim != 1:
        raise ValueError(
            f"Expected `{name}` of shape (num_clips,), got {array.shape}; give one score at a time, for example `logits[:, 0]`."
        )
    infinite = np.flatnonzero(np.isinf(array))
    if len(infinite):
        raise ValueError(
            f"Expected `{name}` to be finite or NaN, got {array[infinite[0]]} at position {infinite[0]}; NaN marks a missing score."
        )
    return array


def _points(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels, kept, _ = rated_and_scored(predictions, labels)
    if not kept.all():
        raise ValueError("Expected no NaN, got some. `agreement` leaves such clips out and counts them.")
    return predictions, labels


def _is_constant(values: np.ndarray) -> bool:
    return len(values) < 2 or bool(np.ptp(values) <= ROUNDING * np.abs(values).max())
