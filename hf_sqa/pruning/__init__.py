"""Smaller dense models: what a model's scores need least is taken away, and the rest is repaired."""

from hf_sqa.pruning.calibration import load_calibration
from hf_sqa.pruning.options import PruningOptions
from hf_sqa.pruning.prune import prune

__all__ = ["PruningOptions", "load_calibration", "prune"]
