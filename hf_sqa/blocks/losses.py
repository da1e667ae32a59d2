"""Losses on scores with missing labels: a NaN adds no error and no gradient."""

from typing import Any

import torch
import torch.nn.functional as F

SCORE_LOSSES = ("mse", "l1", "huber", "clipped")


def score_loss(logits: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the configured mean loss `()` over the rated scores, plus a term on their differences if it has a weight.

    Predicted and rated scores are `(batch_size, num_labels)`, in label units, NaN where not rated; if none is rated, the loss is 0
    with a zero gradient. The options are those of [`~hf_sqa.configuration.AudioQualityConfig`].
    """
    targets, rated = rated_targets(logits, labels)
    loss = score_errors(logits, targets, config).sum() / rated.sum().clamp(min=1)
    return with_ranking_loss(loss, logits, labels, config)


def score_errors(predictions: torch.Tensor, targets: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the error of every prediction by the configured loss, in the shape of `predictions`.

    `"clipped"` is the squared error if it exceeds the margin, else 0, as in UTMOS (Saeki et al., Interspeech 2022,
    arXiv:2204.02152).
    """
    match config.score_loss:
        case "clipped":
            errors = predictions - targets
            return torch.where(errors.abs() > config.clip_margin, errors.square(), torch.zeros_like(errors))
        case "huber":
            return F.huber_loss(predictions, targets, reduction="none", delta=config.huber_delta)
        case kind:
            return {"mse": F.mse_loss, "l1": F.l1_loss}[kind](predictions, targets, reduction="none")


def frame_losses(
    frame_logits: torch.Tensor, labels: torch.Tensor, frame_mask: torch.Tensor | None, config: Any, scales: Any = 1.0
) -> torch.Tensor:
    """Return the mean errors `(B, L)` of real frames `(B, F, L)` against the labels of their recordings, by the configured loss.

    Errors are divided by `scales` `(L,)`. Scores that are not rated add no error.
    """
    targets = torch.where(labels.isnan()[:, None], frame_logits.detach(), labels[:, None])
    errors = score_errors(frame_logits / scales, targets / scales, config)
    if frame_mask is None:
        return errors.mean(dim=1)
    return torch.where(frame_mask[..., None], errors, 0.0).sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)


def check_label_shape(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse labels of another shape than the scores: broadcasting `(B, 1)` against `(B,)` gives a plausible, wrong loss."""
    if logits.shape != labels.shape:
        raise ValueError(
            f"Expected labels of shape {tuple(logits.shape)} (batch_size, num_labels), got {tuple(labels.shape)}; a model with one "
            "score takes labels of shape (batch_size, 1), NaN where a score was not rated."
        )


def rated_targets(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return targets and which scores are rated; an unrated target is the prediction itself, without error and gradient."""
    check_label_shape(logits, labels)
    labels = labels.to(logits)
    rated = ~torch.isnan(labels)
    # NaN is replaced before the subtraction: NaN times zero is NaN in the backward pass.
    return torch.where(rated, labels, logits.detach()), rated


def with_ranking_loss(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the loss plus the [`ranking_loss`] with its configured weight."""
    return loss + config.ranking_weight * ranking_loss(logits, labels, config.ranking_margin) if config.ranking_weight else loss


def ranking_loss(logits: torch.Tensor, labels: torch.Tensor, margin: float = 0.1) -> torch.Tensor:
    """Return how far differences between two recordings are from the differences of their labels, beyond a margin.

    The contrastive loss of UTMOS: `max(0, |(a - b) - (label_a - label_b)| - margin)`, averaged over the pairs in a batch where both
    recordings are rated; 0 with a zero gradient if there are none.
    """
    targets, rated = rated_targets(logits, labels)
    errors = logits - targets  # (B, L): the difference of two errors is the error of the difference
    first, second = torch.triu_indices(len(errors), len(errors), offset=1, device=errors.device)
    pairs = rated[first] & rated[second]
    excess = F.relu((errors[first] - errors[second]).abs() - margin)
    return torch.where(pairs, excess, torch.zeros_like(excess)).sum() / pairs.sum().clamp(min=1)
