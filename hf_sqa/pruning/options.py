"""How to prune."""

from dataclasses import dataclass

from hf_sqa.choices import check_choice

CRITERIA = ("gradient", "energy")
#: Units of each kind that stay in every place, whatever they are worth.
LEAST = {"channels": 4, "units": 4, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class PruningOptions:
    """How to prune.

    Args:
        target (`float`): Share of the weights to keep, above 0 and below 1.
        min_agreement (`float`, *optional*): Linear correlation with the unpruned model, after repair, below which pruning stops
            with the model of the step before.
        criterion (`str`): `"gradient"` or `"energy"`.
        num_steps (`int`): Steps to the target, each by the same factor.
        repair_steps (`int`): Optimiser steps after each of them.
        batch_size (`int`): Windows in an optimiser step.
        learning_rate (`float`): Highest learning rate of the repair.
        label_weight (`float`): Weight, in repair, of the distance to the scores of listeners beside that to the unpruned model;
            only where the calibration speech is rated.
        bf16 (`bool`): Whether repair computes in bfloat16 where that is safe; twice as fast on processors that have it.
        num_measured (`int`): Number of the windows to repair on that measure what units are worth.
        kinds (`tuple[str]`): What can be removed, among `channels`, `units`, `heads` and `layers`.
        seed (`int`): Seed of the order of windows in repair.
    """

    target: float
    min_agreement: float | None = None
    criterion: str = "gradient"
    num_steps: int = 4
    repair_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 5e-5
    label_weight: float = 0.0
    bf16: bool = False
    num_measured: int = 32
    kinds: tuple[str, ...] = tuple(LEAST)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"Expected `target`, the share of the weights to keep, above 0 and below 1, got {self.target}.")
        check_choice("criterion", self.criterion, CRITERIA)
        if self.min_agreement is not None and not 0 < self.min_agreement < 1:
            raise ValueError(f"Expected `min_agreement`, a correlation, above 0 and below 1, got {self.min_agreement}.")
        if not 0 <= self.label_weight < float("inf"):
            raise ValueError(f"Expected `label_weight` of 0 or more, got {self.label_weight}.")
        for name, least in (("num_steps", 1), ("batch_size", 1), ("num_measured", 1), ("repair_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected `{name}` of {least} or more, got {getattr(self, name)}.")
        if unknown := sorted(set(self.kinds) - set(LEAST)):
            raise ValueError(f"Expected `kinds` out of {', '.join(LEAST)}, got {', '.join(unknown)}.")
