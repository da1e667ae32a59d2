"""How to prune."""

from __future__ import annotations

from dataclasses import dataclass

CRITERIA = ("gradient", "energy")
#: Units of each kind that stay whatever they are worth.
LEAST = {"channels": 4, "units": 4, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class PruningOptions:
    """How to prune.

    Args:
        target (`float`): Share of the weights to keep, above 0 and below 1.
        min_agreement (`float`, *optional*): Linear correlation with the unpruned model after repair below which pruning stops, with
            the model of the step before.
        criterion (`str`): `"gradient"` or `"energy"`.
        num_steps (`int`): Steps to the target, each by the same factor.
        repair_steps (`int`): Optimiser steps after each.
        batch_size (`int`): Windows in one of these.
        learning_rate (`float`): Of the repair, rising at first and falling to 0 by a cosine.
        bf16 (`bool`): Whether repair computes in bfloat16 where that is safe; twice as fast on processors that have it.
        num_measured (`int`): Of the windows to repair on, so many say what units are worth.
        kinds (`tuple[str]`): What may go, out of `channels`, `units`, `heads` and `layers`.
        seed (`int`): Of the order in repair.
    """

    target: float
    min_agreement: float | None = None
    criterion: str = "gradient"
    num_steps: int = 4
    repair_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 5e-5
    bf16: bool = False
    num_measured: int = 32
    kinds: tuple[str, ...] = ("channels", "units", "heads", "layers")
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"Expected `target`, the share of the weights to keep, above 0 and below 1, got {self.target}.")
        if self.criterion not in CRITERIA:
            raise ValueError(f"Expected `criterion` to be one of {', '.join(CRITERIA)}, got {self.criterion!r}.")
        if self.min_agreement is not None and not 0 < self.min_agreement < 1:
            raise ValueError(f"Expected `min_agreement`, a correlation, above 0 and below 1, got {self.min_agreement}.")
        for name in ("num_steps", "batch_size", "num_measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of 1 or more, got {getattr(self, name)}.")
        if self.repair_steps < 0:
            raise ValueError(f"Expected `repair_steps` of 0 or more, got {self.repair_steps}.")
        if unknown := sorted(set(self.kinds) - set(LEAST)):
            raise ValueError(f"Expected `kinds` out of {', '.join(LEAST)}, got {', '.join(unknown)}.")
