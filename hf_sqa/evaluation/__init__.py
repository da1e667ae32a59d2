"""How well a model agrees with listeners."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.evaluation.evaluator import AudioQualityEvaluator
    from hf_sqa.evaluation.suite import SuiteOptions, SuiteResult, evaluate_checkpoint, evaluate_suite

__all__ = ["AudioQualityEvaluator", "SuiteOptions", "SuiteResult", "evaluate_checkpoint", "evaluate_suite"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from hf_sqa.evaluation import evaluator, suite

        modules = (evaluator, suite)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module 'hf_sqa.evaluation' has no attribute {name!r}")
