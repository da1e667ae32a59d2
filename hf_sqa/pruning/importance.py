"""How to prune: options, the importance of every unit in score points, and the choice of units to remove."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.blocks.pruning_layout import PruningLayout
from hf_sqa.choices import check_choice
from hf_sqa.pruning.calibration import batches_of

CRITERIA = ("gradient", "energy")
#: Least number of units of each kind to keep in every group, however unimportant.
LEAST = {"channels": 4, "units": 4, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class PruningOptions:
    """Options of pruning."""

    target: float  # share of the weights to keep, above 0 and below 1
    # least linear correlation with the unpruned model, after repair. Below it, pruning stops with the model of the previous step
    min_agreement: float | None = None
    criterion: str = "gradient"  # `"gradient"` or `"energy"`
    num_steps: int = 4  # pruning steps to the target, each by the same factor
    repair_steps: int = 100  # optimiser steps of repair after each pruning step
    batch_size: int = 8  # windows per optimiser step
    learning_rate: float = 5e-5  # highest learning rate of the repair
    # weight, in repair, of the distance to listeners' scores, relative to that to the unpruned model; only if the calibration
    # speech is rated
    label_weight: float = 0.0
    bf16: bool = False  # whether repair computes in bfloat16 where that is safe; twice as fast on CPUs that support it
    num_measured: int = 32  # number of the repair windows that importance is measured on
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


@dataclass
class Measured:
    """Measurements of every group of units."""

    importance: dict[str, np.ndarray]  # importance of each unit, in score points
    means: dict[str, torch.Tensor]  # means of the activations, see `PruningLayout.mean`


def measure(layout: PruningLayout, windows: Sequence[np.ndarray], options: PruningOptions) -> Measured:
    """Measure the importance of every unit, and mean activations, on windows."""
    model = layout.model.eval()
    squares: dict[str, torch.Tensor] = {}
    energies: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    scores: list[torch.Tensor] = []
    batches = list(batches_of(model, windows, 2))
    for batch in batches:
        with layout.activations() as activations, torch.enable_grad():
            predicted = layout.scores(batch)
            scores.append(predicted.detach())
            gradients = torch.autograd.grad(predicted.sum(), list(activations.values()), allow_unused=True)
        for (name, activation), gradient in zip(activations.items(), gradients, strict=True):
            activation = activation.detach()
            product = activation * gradient if gradient is not None else torch.zeros_like(activation)
            changes = layout.by_unit(name, product).sum(dim=1)  # (B, size)
            squares[name] = squares.get(name, 0) + changes.square().sum(dim=0)
            energies[name] = energies.get(name, 0) + layout.by_unit(name, activation).square().mean(dim=1).sum(dim=0)
            sums[name] = sums.get(name, 0) + layout.mean(name, activation) * len(batch)
    count = len(windows)
    importance = {name: (total / count).sqrt().double().cpu().numpy() for name, total in squares.items()}
    if options.criterion == "energy":
        for name, energy in energies.items():
            outgoing: Any = layout.groups[name].outgoing
            worth = (energy / count * outgoing).sqrt().double().cpu().numpy()
            # Scale to score points: the sum over a group is its sum by gradient.
            importance[name] = worth * (importance[name].sum() / max(worth.sum(), 1e-30))
    if "layers" in layout.groups and "layers" in options.kinds:
        importance["layers"] = _drop_one(layout, batches, torch.cat(scores))
    return Measured(importance, {name: (total / count).cpu() for name, total in sums.items()})


@torch.inference_mode()
def _drop_one(layout: PruningLayout, batches: Sequence[torch.Tensor], scores: torch.Tensor) -> np.ndarray:
    """Return, for every layer, the root mean square change of the scores without it."""
    changes = np.zeros(len(layout.layers))
    for index in range(len(layout.layers)):
        original = layout.layers[index]
        layout.layers[index] = _Skip(original)
        try:
            without = torch.cat([layout.scores(batch) for batch in batches])
        finally:
            layout.layers[index] = original
        changes[index] = float((without - scores).square().mean().sqrt())
    return changes


class _Skip(nn.Module):
    """Replacement of a layer that returns its input, in the form of the layer's output."""

    def __init__(self, layer: Any):
        super().__init__()
        self.__dict__["layer"] = layer  # not as a submodule

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.__dict__["layer"](hidden_states, *args, **kwargs)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states


def choose(layout: PruningLayout, measured: Measured, goal: int, options: PruningOptions) -> dict[str, np.ndarray]:
    """Choose the units to keep so that at most `goal` weights remain. Units of least importance per weight are removed first.

    Raises:
        ValueError: If the units that must stay have more weights.
    """
    candidates = _candidates(layout, measured, options, goal / layout.model.num_parameters())
    smallest = _count(layout, _without(layout, measured, candidates))
    if smallest > goal:
        raise ValueError(
            f"Expected a target that leaves {', '.join(f'{count} {kind}' for kind, count in LEAST.items())} in every place, got "
            f"one of {goal:,} weights, where {smallest:,} is the least. Raise `target`, or allow more `kinds` than "
            f"{', '.join(options.kinds)}."
        )
    fewest, most = 0, len(candidates)
    while fewest < most:
        middle = (fewest + most) // 2
        if _count(layout, _without(layout, measured, candidates[:middle])) <= goal:
            most = middle
        else:
            fewest = middle + 1
    return _without(layout, measured, candidates[:most])


def _candidates(layout: PruningLayout, measured: Measured, options: PruningOptions, share: float) -> list[tuple[str, int]]:
    """Return the removable units as `(group, rank by importance)`, in the order of removal.

    A layer's importance is measured by leaving out that layer alone. So the share of layers removed is no larger than the share of
    weights removed, `1 - share`, unless nothing else is left to remove.
    """
    equal = _equal_groups(layout)
    candidates: list[tuple[float, str, int]] = []
    for name, group in layout.groups.items():
        if group.kind not in options.kinds or name in equal[1:]:
            continue
        ranked = [np.sort(measured.importance[member]) for member in (equal if name in equal else [name])]
        for rank in range(group.size - min(LEAST[group.kind], group.size)):
            worth = sum(float(importance[rank]) for importance in ranked) / (group.weights_each * len(ranked))
            is_last_resort = group.kind == "layers" and rank >= max(1, int(group.size * (1 - share)))
            candidates.append((math.inf if is_last_resort else worth, name, rank))
    return [(name, rank) for _, name, rank in sorted(candidates)]


def _without(layout: PruningLayout, measured: Measured, candidates: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
    """Return the units left without the candidates. The ranks of a group come in order, because groups are sorted by importance."""
    num_removed = dict.fromkeys(layout.groups, 0)
    equal = _equal_groups(layout)
    dropped: set[int] = set()
    for name, rank in candidates:
        if layout.groups[name].kind == "layers":
            layer = int(np.argsort(measured.importance[name])[rank])
            if layout.may_drop(layer, dropped):
                dropped.add(layer)
        else:
            num_removed |= dict.fromkeys(equal if name in equal else [name], rank + 1)
    keep = {}
    for name, group in layout.groups.items():
        order = np.argsort(measured.importance[name]) if name in measured.importance else np.arange(group.size)
        keep[name] = np.sort(order[num_removed[name] :])
    if "layers" in keep:
        keep["layers"] = np.array([layer for layer in range(layout.groups["layers"].size) if layer not in dropped])
    return keep


def _equal_groups(layout: PruningLayout) -> list[str]:
    return [name for name, group in layout.groups.items() if group.kind in layout.equal_kinds]


def _count(layout: PruningLayout, keep: dict[str, np.ndarray]) -> int:
    with torch.device("meta"):
        return int(type(layout.model)(layout.config_for(keep)).num_parameters())
