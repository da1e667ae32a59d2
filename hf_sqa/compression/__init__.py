"""Smaller models that keep the judgement: students that learn from teachers, and pruning.

Importing it is cheap; torch and transformers come with what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.compression.distillation import DistillationTrainer, distill, load_distillation
    from hf_sqa.compression.pruning import PruningOptions, load_calibration, prune

_MODULES = {
    "DistillationTrainer": "distillation",
    "PruningOptions": "pruning",
    "distill": "distillation",
    "load_calibration": "pruning",
    "load_distillation": "distillation",
    "prune": "pruning",
}
__all__ = ["DistillationTrainer", "PruningOptions", "distill", "load_calibration", "load_distillation", "prune"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hf_sqa.compression.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.compression' has no attribute {name!r}")
