"""Settings of fine-tuning: the user's options, the training recipe, and the frozen modules."""

from dataclasses import dataclass
from typing import Any

from hf_sqa.training.model import freeze

#: Learning rate and rank of low-rank adapters, for every family. Adapters start at zero and need larger steps.
LORA_LEARNING_RATE, LORA_RANK = 1e-3, 8
#: Stop training after this many epochs without a better validation score.
PATIENCE = 3


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of fine-tuning."""

    group: str | None = None  # column of the schema whose values stay together; found in the table if not given
    calibrate: str | None = None  # `"first"` or `"third"`: fit a mapping of that order instead of training
    lora: bool = False  # train a low-rank adapter instead of the weights
    epochs: float | None = None  # most passes over the clips; the family's default if not given
    learning_rate: float | None = None  # highest learning rate; the family's default if not given
    batch_size: int = 8  # clips per step
    # names or patterns of modules to keep frozen; the family's default if not given, none if empty
    freeze: tuple[str, ...] | None = None
    folds: int | None = None  # folds of the evaluation; 0 holds a fifth out. Chosen by the number of clips if not given
    limit_seconds: float | None = None  # longer clips are cut at random in training, never for judging
    seed: int = 0  # seed of parts, order, cuts and draws
    device: str | None = None  # `"cpu"` or `"cuda"`; if not given, the accelerator if there is one

    def __post_init__(self) -> None:
        if self.calibrate not in (None, "first", "third"):
            raise ValueError(f"Expected `calibrate` to be one of first, third, got {self.calibrate!r}.")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"Expected `device` to be cpu or cuda, got {self.device!r}.")
        training = ("epochs", "learning_rate", "freeze", "limit_seconds", "folds")
        useless = [name for name in training if getattr(self, name) is not None] + ["lora"] * self.lora
        if self.calibrate is not None and useless:
            raise ValueError(f"Expected `calibrate` without {', '.join(f'`{name}`' for name in useless)}: it trains nothing.")
        if self.lora and self.freeze is not None:
            raise ValueError("Expected `lora` or `freeze`, got both: apart from its adapter and head, a model stays as it is.")

    @property
    def method(self) -> str:
        """The method in words."""
        if self.calibrate is not None:
            return f"calibration, {self.calibrate} order"
        return "low-rank adapter" if self.lora else "fine-tuning"


def training_recipe(checkpoint: str, model: Any, options: FinetuneOptions, score: str, device: str) -> dict[str, Any]:
    """Return the sections `model` and `training` of every training recipe; `score` chooses the best epoch."""
    defaults = model.fine_tuning_defaults(device)
    training: dict[str, Any] = {
        "learning_rate": options.learning_rate or (LORA_LEARNING_RATE if options.lora else defaults.learning_rate),
        "num_train_epochs": options.epochs or defaults.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "early_stopping_patience": PATIENCE,
        "metric_for_best_model": "utt_mse" if len(model.config.score_names) == 1 else f"{score}_utt_mse",
        "seed": options.seed,
    }
    if device == "cpu":
        training["use_cpu"] = True
    if options.limit_seconds is not None:
        training["max_seconds"] = options.limit_seconds
    section: dict[str, Any] = {"checkpoint": checkpoint}
    frozen = options.freeze if options.freeze is not None else defaults.freeze
    if options.lora:
        section["lora"] = {"r": LORA_RANK, "alpha": 2 * LORA_RANK}
    elif frozen:
        section["freeze"] = list(frozen)
    return {"model": section, "training": training}


def freeze_by_recipe(model: Any, recipe: dict[str, Any]) -> None:
    """Freeze the modules that training does not change; for an adapter, the parts that get no adapter weights."""
    if "lora" not in recipe["model"]:
        freeze(model, recipe["model"].get("freeze", ()))
        return
    import torch

    for child in model.children():
        if not any(isinstance(module, torch.nn.Linear) for module in child.modules()):
            child.requires_grad_(False)
