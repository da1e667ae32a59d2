"""How well does a model agree with listeners. The parts that need `evaluate` or `datasets` import them when they are used."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AudioQualityEvaluator": "hf_sqa.evaluation.evaluator",
    "SuiteOptions": "hf_sqa.evaluation.suite",
    "SuiteResult": "hf_sqa.evaluation.suite",
    "evaluate_checkpoint": "hf_sqa.evaluation.suite",
    "evaluate_suite": "hf_sqa.evaluation.suite",
    "MakeJob": "hf_sqa.evaluation.study",
    "Study": "hf_sqa.evaluation.study",
    "load_study": "hf_sqa.evaluation.study",
    "read_results": "hf_sqa.evaluation.study",
    "run_study": "hf_sqa.evaluation.study",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hf_sqa.evaluation' has no attribute {name!r}")
