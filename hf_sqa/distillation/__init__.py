"""Students that learn what teachers say of speech that nobody rated."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.distillation.run import DistillationTrainer, distill, load_distillation

_MODULES = {
    "DistillationTrainer": "run",
    "distill": "run",
    "load_distillation": "run",
}
__all__ = ["DistillationTrainer", "distill", "load_distillation"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hf_sqa.distillation.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.distillation' has no attribute {name!r}")
