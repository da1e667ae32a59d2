"""From the recipe's `loss` section to the training loss: the model's own, set in its configuration, or one that needs more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_sqa.blocks.losses import SCORE_LOSSES, rated_targets
from hf_sqa.models.nisqa.bias_aware_loss import BiasAwareLoss
from hf_sqa.training.recipe import LossOptions


def loss_options(loss: LossOptions | None, config_class: Any) -> dict[str, Any]:
    """Return the values of a family's configuration that a `loss` section sets."""
    if loss is None:
        return {}
    family, known = config_class.model_type, {field.name for field in fields(config_class)}
    if "frame_loss_weight" in known and (loss.kind == "clipped" or loss.ranking_weight):
        raise ValueError(
            f"Expected `loss.kind` to be mse, l1 or huber, without `ranking_weight`, for {family}, whose loss is on frames too, "
            f"got kind={loss.kind} and ranking_weight={loss.ranking_weight}."
        )
    options: dict[str, Any] = {}
    if loss.kind in SCORE_LOSSES:
        options["score_loss"] = loss.kind
    if loss.kind == "gaussian" and loss.variance == "learned":
        if "predict_log_variance" not in known:
            raise ValueError(
                "Expected a family that predicts a variance for `loss: {kind: gaussian, variance: learned}`, got "
                f"{family}; take wav2vec2_mos, or `variance: ratings`."
            )
        options |= {"predict_log_variance": True, "score_loss": "mse"}
    given = {"huber_delta": loss.huber_delta, "clip_margin": loss.margin}
    given |= {"ranking_weight": loss.ranking_weight, "ranking_margin": loss.ranking_margin}
    return options | {name: value for name, value in given.items() if value is not None}


def make_training_loss(loss: LossOptions, corpora: Sequence[str], num_labels: int) -> TrainingLoss | None:
    """Return the loss of a recipe, or `None` if the loss inside the model is enough."""
    if loss.kind == "gaussian" and loss.variance == "ratings":
        return RatingsGaussian(loss.residual_std)
    if loss.kind == "bias_aware":
        return BiasAware(corpora, num_labels, loss.anchor_corpus, loss.min_correlation)
    return None


class TrainingLoss:
    """A loss that needs more than predictions and labels."""

    def __call__(self, outputs: Any, labels: torch.Tensor, rows: torch.Tensor, data: Any, epoch: int) -> torch.Tensor:
        """Return the loss `()` for outputs of the model, labels `(B, L)` (NaN: not rated) and the row of every example `(B,)` (-1:
        it only fills the batch). `data` is the training data, [`RatedSpeech`]; `None` in validation."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int, data: Any, join: Any) -> None:
        """Prepare an epoch; called before each. `join` merges arrays `(num_rows, L)` when every process has filled a part."""

    def save(self, folder: Path, process_index: int) -> None:
        """Write into a checkpoint what a resumed run needs."""

    def load(self, folder: Path, process_index: int) -> None:
        """Read what [`save`] wrote."""


class RatingsGaussian(TrainingLoss):
    """Squared errors, each divided by the variance of its label: clips with few or contradictory ratings count less.

    This is the Gaussian negative log-likelihood of labels whose variance is known: the squared standard error of the mean rating
    (`mos_std² / num_ratings`; their median where it is unknown) plus the variance of the model itself. Terms without a gradient are
    left out, and a label of median certainty has weight 1.
    """

    def __init__(self, residual_std: float):
        self.residual_std = residual_std

    def __call__(self, outputs: Any, labels: torch.Tensor, rows: torch.Tensor, data: Any, epoch: int) -> torch.Tensor:
        targets, rated = rated_targets(outputs["logits"], labels)
        errors = outputs["logits"] - targets
        weights = torch.ones_like(errors[:, :1])
        if data is not None:
            weights = torch.from_numpy(self.weights(data.label_variances)[rows.clamp(min=0).cpu().numpy()]).to(errors)[:, None]
        return (weights * errors.square()).sum() / rated.sum().clamp(min=1)

    def weights(self, variances: np.ndarray) -> np.ndarray:
        """Return the weight of every row from the variance of its label; 1 for all rows if no variance is known."""
        if np.isnan(variances).all():
            return np.ones(len(variances))
        middle = np.nanmedian(variances)
        return (middle + self.residual_std**2) / (np.where(np.isnan(variances), middle, variances) + self.residual_std**2)


class BiasAware(TrainingLoss):
    """[`BiasAwareLoss`] of NISQA over the epochs of a run. Its lines are fitted to the predictions of the previous epoch."""

    def __init__(self, corpora: Sequence[str], num_labels: int, anchor_corpus: str | None, min_correlation: float):
        self.corpora = list(corpora)  # corpus of every row
        names = sorted(set(corpora))
        self.lines = BiasAwareLoss(names, num_labels, anchor_corpus=anchor_corpus, min_correlation=min_correlation)
        # predictions of the epoch `seen_in`, NaN where there is none yet; the last row takes those of examples that fill a batch
        self.seen = torch.full((len(self.corpora) + 1, num_labels), torch.nan)
        self.seen_in: int = -1

    def __call__(self, outputs: Any, labels: torch.Tensor, rows: torch.Tensor, data: Any, epoch: int) -> torch.Tensor:
        logits = outputs["logits"]
        if data is None:
            targets, rated = rated_targets(logits, labels)
            return (logits - targets).square().sum() / rated.sum().clamp(min=1)
        self.seen, self.seen_in = self.seen.to(logits.device), epoch
        self.seen[rows] = logits.detach().float()
        self.lines.to(logits.device)
        names = [self.corpora[row] if row >= 0 else self.lines.corpora[0] for row in rows.tolist()]
        return self.lines(logits, labels, names)

    def begin_epoch(self, epoch: int, data: Any, join: Any) -> None:
        if not 0 <= self.seen_in < epoch:  # the first epoch, or a resumed run in the middle of an epoch
            return
        seen = join(self._predictions())
        device, made = next(self.lines.buffers()).device, ~np.isnan(seen).any(axis=1)
        corpora = [corpus for corpus, is_made in zip(self.corpora, made, strict=True) if is_made]
        self.lines.update(torch.from_numpy(seen[made]).to(device), torch.from_numpy(data.labels[made]), corpora)
        self.seen, self.seen_in = torch.full_like(self.seen, torch.nan), -1

    def save(self, folder: Path, process_index: int) -> None:
        state = {name: value.cpu().numpy() for name, value in self.lines.state_dict().items()}
        np.savez(folder / f"training_loss_{process_index}.npz", seen_in=self.seen_in, seen=self._predictions(), **state)

    def load(self, folder: Path, process_index: int) -> None:
        with np.load(folder / f"training_loss_{process_index}.npz") as state:
            self.lines.load_state_dict({name: torch.from_numpy(state[name]) for name in self.lines.state_dict()})
            seen, self.seen_in = torch.from_numpy(state["seen"]) if "seen" in state else self.seen[:0], int(state["seen_in"])
        self.seen[: len(seen)] = seen

    def _predictions(self) -> np.ndarray:
        return self.seen[:-1].cpu().numpy()
