"""How to prune."""

from dataclasses import dataclass

from hf_sqa.choices import check_choice

CRITERIA = ("gradient", "energy")
#: Units of each kind that stay in every place, whatever they are worth.
LEAST = {"channels": 4, "units": 4, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class PruningOptions:
    """How to prune."""

    target: float  # share of the weights to keep, above 0 and below 1
    # linear correlation with the unpruned model, after repair, below which pruning stops with the model of the step before
    min_agreement: float | None = None
    criterion: str = "gradient"  # `"gradient"` or `"energy"`
    num_steps: int = 4  # steps to the target, each by the same factor
    repair_steps: int = 100  # optimiser steps after each of them
    batch_size: int = 8  # windows in an optimiser step
    learning_rate: float = 5e-5  # highest learning rate of the repair
    # weight, in repair, of the distance to the scores of listeners beside that to the unpruned model; only where the
    # calibration speech is rated
    label_weight: float = 0.0
    bf16: bool = False  # whether repair computes in bfloat16 where that is safe; twice as fast on processors that have it
    num_measured: int = 32  # number of the windows to repair on that measure what units are worth
    kinds: tuple[str, ...] = tuple(LEAST)  # what can be removed, among `channels`, `units`, `heads` and `layers`
    seed: int = 0  # seed of the order of windows in repair

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
