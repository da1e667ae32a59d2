"""Students that learn what teachers say of speech that nobody rated."""

from hf_sqa.distillation.recipe import load_distillation
from hf_sqa.distillation.run import distill
from hf_sqa.distillation.trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "distill", "load_distillation"]
