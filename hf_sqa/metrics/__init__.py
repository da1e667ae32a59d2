"""Agreement with listeners, its intervals, and full-reference labels. NumPy and SciPy only."""

from hf_sqa.metrics.agreement import (
    GREATER_IS_BETTER,
    METRICS,
    agreement,
    average_by,
    fit_mapping,
    ktau,
    lcc,
    mae,
    mse,
    rmse,
    rmse_star,
    srcc,
)
from hf_sqa.metrics.bootstrap import Interval
from hf_sqa.metrics.full_reference import FullReferenceScores, estimate_delay, full_reference_scores, speech_distortion_index
from hf_sqa.metrics.intervals import Comparison, bootstrap_agreement, compare_models
from hf_sqa.metrics.systems import PairDifference, SystemComparison, SystemMean, compare_systems

__all__ = [
    "GREATER_IS_BETTER",
    "METRICS",
    "Comparison",
    "FullReferenceScores",
    "Interval",
    "PairDifference",
    "SystemComparison",
    "SystemMean",
    "agreement",
    "average_by",
    "bootstrap_agreement",
    "compare_models",
    "compare_systems",
    "estimate_delay",
    "fit_mapping",
    "full_reference_scores",
    "ktau",
    "lcc",
    "mae",
    "mse",
    "rmse",
    "rmse_star",
    "speech_distortion_index",
    "srcc",
]
