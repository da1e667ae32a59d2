"""Muon: momentum steps with equalised singular values for weights that are matrices or filters; AdamW for the rest.

Source:   Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/
Differs:  convolution filters are trained too, each as one row of a matrix; `torch.optim.Muon` takes matrices only.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

#: Coefficients of the polynomial that drives singular values to about 1, and how often it is applied.
COEFFICIENTS, NUM_ITERATIONS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM = 0.95
#: Weights with fewer rows or columns stay with AdamW: a layer with one score, for example, or filters over one channel.
SMALLEST_SIDE = 10


class Muon(torch.optim.Optimizer):
    """Optimizer that trains parameter groups with `momentum` by Muon, and those with `betas` by AdamW."""

    def __init__(self, groups: Iterable[dict[str, Any]]):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._orthogonal_update if "momentum" in group else self._adam_update
            for weight in group["params"]:
                if weight.grad is not None:
                    step = update(weight, weight.grad, group)
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])
        return loss

    def _orthogonal_update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = torch.lerp(gradient, momentum, group["momentum"]).flatten(1)
        rows, columns = update.shape
        return orthogonalised(update).mul_(max(1.0, rows / columns) ** 0.5).view(weight.shape)

    def _adam_update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].lerp_(gradient.square(), 1 - second)
        deviation = (square / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        return mean / deviation / (1 - first ** state["step"])


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix `(R, C)` with its singular values brought to about 0.7 to 1.2, computed in bfloat16."""
    a, b, c = COEFFICIENTS
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype).contiguous()


def muon_groups(
    model: nn.Module, learning_rate: float, adam: dict[str, Any], weight_decay: float = 0.0, decayed: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups of a model: matrices and filters for Muon, everything else for AdamW with the options `adam`.

    Only weights named in `decayed`, if it is given, decay.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = None if decayed is None else set(decayed)
    muon = {"lr": learning_rate, "momentum": MOMENTUM}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        is_matrix = weight.dim() > 1 and min(len(weight), weight[0].numel()) >= SMALLEST_SIDE and id(weight) not in embeddings
        decays = decayed is None or name in decayed
        new_group = {"params": [], "weight_decay": weight_decay if decays else 0.0} | (muon if is_matrix else adam)
        groups.setdefault((is_matrix, decays), new_group)["params"].append(weight)
    return list(groups.values())
