"""Smaller dense models: what a model's scores need least is taken away, and the rest is repaired."""

from hf_sqa.pruning.calibration import load_calibration as load_calibration
from hf_sqa.pruning.importance import PruningOptions as PruningOptions
from hf_sqa.pruning.prune import prune as prune
