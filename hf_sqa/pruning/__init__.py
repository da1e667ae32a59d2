"""Pruning to smaller dense models: remove what a model's scores need least, and repair the rest."""

from hf_sqa.pruning.calibration import load_calibration as load_calibration
from hf_sqa.pruning.importance import PruningOptions as PruningOptions
from hf_sqa.pruning.prune import prune as prune
