"""How well a model agrees with listeners."""

from hf_sqa.evaluation.suite import SuiteOptions, SuiteResult, evaluate_checkpoint

__all__ = ["SuiteOptions", "SuiteResult", "evaluate_checkpoint"]
