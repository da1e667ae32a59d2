"""How well does a model agree with listeners. The parts that need `evaluate` or `datasets` import them when they are used."""

from importlib import import_module
from typing import Any

_PUBLIC = {"AudioQualityEvaluator": "hf_sqa.evaluation.evaluator"}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hf_sqa.evaluation' has no attribute {name!r}")
