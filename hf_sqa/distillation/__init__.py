"""Distillation: students learn the scores that teachers give to unrated speech."""

from hf_sqa.distillation.recipe import load_distillation
from hf_sqa.distillation.run import distill
from hf_sqa.distillation.trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "distill", "load_distillation"]
