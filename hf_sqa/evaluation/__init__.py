"""Evaluation: how well a model agrees with listeners."""

from hf_sqa.evaluation.suite import (
    SuiteOptions as SuiteOptions,
    SuiteResult as SuiteResult,
    evaluate_checkpoint as evaluate_checkpoint,
)
