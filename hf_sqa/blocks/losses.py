"""Losses on scores with missing labels: a NaN adds no error and no gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def score_loss(logits: torch.Tensor, labels: torch.Tensor, kind: str = "mse", huber_delta: float = 1.0) -> torch.Tensor:
    """Mean loss over the scores that were rated.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`): Predicted scores, in label units.
        labels (`torch.Tensor` of shape `(batch_size, num_labels)`): Rated scores, NaN where not rated.
        kind (`str`, *optional*, defaults to `"mse"`): `"mse"`, `"l1"` or `"huber"`.
        huber_delta (`float`, *optional*, defaults to `1.0`): Error above which `"huber"` grows linearly.

    Returns:
        `torch.Tensor` of shape `()`: 0 with a zero gradient if nothing is rated.

    Raises:
        ValueError: If the shapes differ: broadcasting `(B, 1)` against `(B,)` gives a plausible, wrong loss.
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"Expected labels of shape {tuple(logits.shape)} (batch_size, num_labels), got {tuple(labels.shape)}; a model with one "
            "score takes labels of shape (batch_size, 1), NaN where a score was not rated."
        )
    rated = ~torch.isnan(labels)
    # where() before the subtraction: NaN times zero is NaN in the backward pass.
    targets = torch.where(rated, labels, logits.detach().to(labels.dtype)).to(logits.dtype)
    errors = {
        "mse": lambda: F.mse_loss(logits, targets, reduction="sum"),
        "l1": lambda: F.l1_loss(logits, targets, reduction="sum"),
        "huber": lambda: F.huber_loss(logits, targets, reduction="sum", delta=huber_delta),
    }[kind]()
    return errors / rated.sum().clamp(min=1)
