"""A score mapping: a rising polynomial that brings a model's scores to the scale of one listening test (ITU-T P.1401).

It travels in the configuration of a checkpoint, `score_mapping={"mos": [low, high, c0, c1, ...]}`: the range of the scores it was
fitted on, then the coefficients of 1, x, x², x³. Ranks stay as they are. NumPy only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike

#: Highest order of ITU-T P.1401.
MAX_ORDER = 3
#: A fitted slope of exactly zero may come out of JSON negative by rounding.
SLOPE_TOLERANCE = 1e-6


def apply_score_mapping(scores: ArrayLike, mapping: Sequence[float]) -> np.ndarray:
    """Return mapped scores, in label units, in the shape of `scores`, by `[low, high, c0, c1, ...]`; NaN stays NaN.

    Between `low` and `high` the mapping is the polynomial. Beyond, where nothing was fitted, it goes on as a straight line with
    the polynomial's slope there or its mean slope, whichever is smaller: it never falls, and a steep end does not run away. Nothing
    is clipped, so a mapped score may lie outside the scale of the listeners.
    """
    low, high, *coefficients = mapping
    scores = np.asarray(scores, dtype=np.float64)
    inside = np.clip(scores, low, high)
    mapped = polynomial.polyval(inside, coefficients)
    ends = polynomial.polyval(np.array([low, high]), coefficients)
    slopes = polynomial.polyval(np.array([low, high]), polynomial.polyder(np.asarray(coefficients, dtype=np.float64)))
    slopes = np.clip(slopes, 0.0, max((ends[1] - ends[0]) / (high - low), 0.0))
    return mapped + np.where(scores < low, slopes[0], slopes[1]) * (scores - inside)


def check_score_mapping(name: str, mapping: Sequence[float]) -> None:
    """Refuse a mapping that has another form, is not finite, or falls."""
    if not 4 <= len(mapping) <= 3 + MAX_ORDER:
        raise ValueError(
            f"Expected the score mapping of {name!r} as [low, high, c0, c1] up to c{MAX_ORDER}, got {len(mapping)} numbers."
        )
    low, high, *coefficients = mapping
    if not np.isfinite(mapping).all() or not low < high:
        raise ValueError(f"Expected the score mapping of {name!r} to be finite with its lower end first, got {list(mapping)}.")
    derivative = polynomial.polyder(np.asarray(coefficients, dtype=np.float64))
    places = [low, high]
    if len(derivative) == 3 and derivative[2] != 0:
        places.append(float(np.clip(-derivative[1] / (2 * derivative[2]), low, high)))
    slopes = polynomial.polyval(np.array(places), derivative)
    if slopes.min() < -SLOPE_TOLERANCE * max(1.0, float(np.abs(derivative).max())):
        raise ValueError(
            f"Expected the score mapping of {name!r} to rise from {low:g} to {high:g}, got {coefficients}, which falls: better "
            "recordings would get lower scores. Fit it with `hf_sqa.finetune.calibration.fit_score_mapping`."
        )
