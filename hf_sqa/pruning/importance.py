"""What units are worth in points of the score, and which of them go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sqa.pruning.calibration import batches_of
from hf_sqa.pruning.options import LEAST, PruningOptions


@dataclass
class Measured:
    importance: dict[str, np.ndarray]
    means: dict[str, torch.Tensor]


def measure(layout: Any, windows: Sequence[np.ndarray], options: PruningOptions) -> Measured:
    """Importance of every unit in points of the score, and mean activations."""
    model = layout.model.eval()
    squares: dict[str, torch.Tensor] = {}
    energies: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    scores: list[torch.Tensor] = []
    batches = list(batches_of(model, windows, 2))
    for batch in batches:
        with layout.activations() as found, torch.enable_grad():
            predicted = layout.scores(batch)
            scores.append(predicted.detach())
            wanted = list(found)
            gradients = torch.autograd.grad(predicted.sum(), [found[name] for name in wanted], allow_unused=True)
        for name, gradient in zip(wanted, gradients, strict=True):
            activation = found[name].detach()
            product = activation * gradient if gradient is not None else torch.zeros_like(activation)
            by_unit = layout.by_unit(name, product).sum(dim=1)  # (B, size)
            squares[name] = squares.get(name, 0) + by_unit.square().sum(dim=0)
            energies[name] = energies.get(name, 0) + layout.by_unit(name, activation).square().mean(dim=1).sum(dim=0)
            sums[name] = sums.get(name, 0) + layout.mean(name, activation) * len(batch)
    count = len(windows)
    importance = {name: (total / count).sqrt().double().numpy() for name, total in squares.items()}
    if options.criterion == "energy":
        for name, energy in energies.items():
            energy_of_unit = (energy / count * layout.groups[name].outgoing).sqrt().double().numpy()
            # In points of the score: together the units of a group are worth what they are by gradient.
            importance[name] = energy_of_unit * (importance[name].sum() / max(energy_of_unit.sum(), 1e-30))
    if "layers" in layout.groups and "layers" in options.kinds:
        importance["layers"] = _drop_one(layout, batches, torch.cat(scores))
    return Measured(importance, {name: total / count for name, total in sums.items()})


@torch.inference_mode()
def _drop_one(layout: Any, batches: Sequence[torch.Tensor], scores: torch.Tensor) -> np.ndarray:
    """Root mean square change of the scores when a layer is skipped, for every layer."""
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
    """In place of a layer: gives what it gets, in the shape in which the layer would."""

    def __init__(self, layer: Any):
        super().__init__()
        self.__dict__["layer"] = layer  # not as a submodule

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.__dict__["layer"](hidden_states, *args, **kwargs)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states


def choose(layout: Any, measured: Measured, goal: int, options: PruningOptions) -> dict[str, np.ndarray]:
    """Units to keep so that at most `goal` weights are left, those of least importance by weight gone first.

    Raises:
        ValueError: If even the least that must stay is more.
    """
    candidates = _candidates(layout, measured, options, goal / num_parameters(layout.model))
    fewest, most = 0, len(candidates)
    smallest = _count(layout, _without(layout, measured, candidates))
    if smallest > goal:
        raise ValueError(
            f"Expected a target that leaves {', '.join(f'{count} {kind}' for kind, count in LEAST.items())} in every place, got "
            f"one of {goal:,} weights, where {smallest:,} is the least. Raise `target`, or allow more `kinds` than "
            f"{', '.join(options.kinds)}."
        )
    while fewest < most:
        middle = (fewest + most) // 2
        if _count(layout, _without(layout, measured, candidates[:middle])) <= goal:
            most = middle
        else:
            fewest = middle + 1
    return _without(layout, measured, candidates[:most])


def _candidates(layout: Any, measured: Measured, options: PruningOptions, share: float) -> list[tuple[str, int]]:
    """Units that may go, as `(group, rank within it by importance)`, in the order in which they go.

    What a layer is worth is known for leaving out it alone. So of the layers, no larger part goes than of the weights, of which
    `share` stay, unless there is nothing else.
    """
    equal = _equal_groups(layout)
    found: list[tuple[float, str, int]] = []
    for name, group in layout.groups.items():
        if group.kind not in options.kinds or name in equal[1:]:
            continue
        names = equal if name in equal else [name]
        ranked = [np.sort(measured.importance[one]) for one in names]
        for rank in range(group.size - min(LEAST[group.kind], group.size)):
            worth = sum(float(one[rank]) for one in ranked) / (group.weights_each * len(names))
            is_last_resort = group.kind == "layers" and rank >= max(1, int(group.size * (1 - share)))
            found.append((math.inf if is_last_resort else worth, name, rank))
    return [(name, rank) for _, name, rank in sorted(found)]


def _without(layout: Any, measured: Measured, candidates: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
    """Units left when these are gone. Ranks of a group come in order, for it is ordered by importance."""
    gone = dict.fromkeys(layout.groups, 0)
    equal = _equal_groups(layout)
    dropped: set[int] = set()
    for name, rank in candidates:
        if layout.groups[name].kind == "layers":
            layer = int(np.argsort(measured.importance[name])[rank])
            if layout.may_drop(layer, dropped):
                dropped.add(layer)
        else:
            for one in equal if name in equal else [name]:
                gone[one] = rank + 1
    keep = {}
    for name, group in layout.groups.items():
        order = np.argsort(measured.importance[name]) if name in measured.importance else np.arange(group.size)
        keep[name] = np.sort(order[gone[name] :])
    if "layers" in keep:
        keep["layers"] = np.array([layer for layer in range(layout.groups["layers"].size) if layer not in dropped])
    return keep


def _equal_groups(layout: Any) -> list[str]:
    return [name for name, group in layout.groups.items() if group.kind in layout.equal_kinds]


def _count(layout: Any, keep: dict[str, np.ndarray]) -> int:
    """Weights of the model with these units."""
    with torch.device("meta"):
        return num_parameters(type(layout.model)(layout.config_for(keep)))


def num_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
