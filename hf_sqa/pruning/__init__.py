"""Smaller dense models: what a model's scores need least is taken away, and the rest is repaired."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.pruning.prune import PruningOptions, load_calibration, prune

_MODULES = {
    "PruningOptions": "prune",
    "load_calibration": "prune",
    "prune": "prune",
}
__all__ = ["PruningOptions", "load_calibration", "prune"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hf_sqa.pruning.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.pruning' has no attribute {name!r}")
