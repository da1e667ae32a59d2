"""How well a model agrees with listeners."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.evaluation.evaluator import AudioQualityEvaluator
    from hf_sqa.evaluation.suite import SuiteOptions, SuiteResult, evaluate_checkpoint, evaluate_suite

_MODULES = {
    "AudioQualityEvaluator": "evaluator",
    "SuiteOptions": "suite",
    "SuiteResult": "suite",
    "evaluate_checkpoint": "suite",
    "evaluate_suite": "suite",
}
__all__ = ["AudioQualityEvaluator", "SuiteOptions", "SuiteResult", "evaluate_checkpoint", "evaluate_suite"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hf_sqa.evaluation.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.evaluation' has no attribute {name!r}")
