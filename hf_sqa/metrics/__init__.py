"""Agreement with listeners, its intervals, and full-reference labels. NumPy and SciPy only."""

from hf_sqa.metrics.agreement import (
    GREATER_IS_BETTER as GREATER_IS_BETTER,
    METRICS as METRICS,
    agreement as agreement,
    fit_mapping as fit_mapping,
    ktau as ktau,
    lcc as lcc,
    mae as mae,
    mse as mse,
    rmse as rmse,
    rmse_star as rmse_star,
    srcc as srcc,
)
from hf_sqa.metrics.bootstrap import Interval as Interval
from hf_sqa.metrics.full_reference import (
    FullReferenceScores as FullReferenceScores,
    estimate_delay as estimate_delay,
    full_reference_scores as full_reference_scores,
    speech_distortion_index as speech_distortion_index,
)
from hf_sqa.metrics.intervals import (
    Comparison as Comparison,
    bootstrap_agreement as bootstrap_agreement,
    compare_models as compare_models,
)
from hf_sqa.metrics.systems import (
    PairDifference as PairDifference,
    SystemComparison as SystemComparison,
    SystemMean as SystemMean,
    compare_systems as compare_systems,
)
