"""Training: recipes as data, a Trainer for rated speech, runs that survive what happens to them.

Importing this package is cheap: torch and transformers are imported only by the names that need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.training.arguments import AudioQualityTrainingArguments
    from hf_sqa.training.dry_run import dry_run_recipe
    from hf_sqa.training.model import build_model
    from hf_sqa.training.recipe import Recipe, load_recipe
    from hf_sqa.training.run import Interrupted, TrainingError, TrainingResult, find_resumable_checkpoint, run_recipe
    from hf_sqa.training.trainer import AudioQualityTrainer

__all__ = [
    "AudioQualityTrainer",
    "AudioQualityTrainingArguments",
    "Interrupted",
    "Recipe",
    "TrainingError",
    "TrainingResult",
    "build_model",
    "dry_run_recipe",
    "find_resumable_checkpoint",
    "load_recipe",
    "run_recipe",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from hf_sqa.training import arguments, dry_run, recipe, run, trainer

        return next(getattr(module, name) for module in (arguments, dry_run, recipe, run, trainer) if hasattr(module, name))
    raise AttributeError(f"module 'hf_sqa.training' has no attribute {name!r}")
