"""Repair of a pruned model towards the unpruned model's scores and frames, and the agreement between the two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from hf_sqa.blocks.sqa_transformer import watched_frames
from hf_sqa.metrics import agreement
from hf_sqa.pruning.calibration import batches_of, stacked
from hf_sqa.pruning.importance import PruningOptions

#: Share of the steps with a rising learning rate. A pruned model is near a minimum; full-size first steps of Adam would leave it.
WARMUP_SHARE = 0.1
#: Least deviation of a frame's feature, so that a constant one does not outweigh the others.
LEAST_DEVIATION = 1e-3


@dataclass
class Aims:
    """Outputs of the unpruned model for windows."""

    scores: torch.Tensor  # `(W, L)`: its scores
    # `(W, F, 2 D)`: input and output of its transformer side by side, in float16, if it has one and every window has equally many
    # frames
    frames: torch.Tensor | None = None
    deviation: torch.Tensor | None = None  # `(2 D,)`: deviation of each channel of `frames`

    def frame_distance(self, frames: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the mean square difference in units of `deviation`; 0 if the frames have another shape."""
        assert self.frames is not None and self.deviation is not None
        theirs = self.frames[chosen].to(frames.device).float()
        if frames.shape != theirs.shape:
            return frames.new_zeros(())
        return ((frames - theirs) / self.deviation.to(frames.device)).square().mean()


@torch.no_grad()
def aims_of(model: Any, windows: Sequence[np.ndarray]) -> Aims:
    """Compute the aims of repair from the unpruned model."""
    layout = model.pruning_layout()
    scores, frames = [], []
    with watched_frames(model) as seen:
        for batch in batches_of(model, windows, 2):
            seen.clear()
            scores.append(layout.scores(batch).cpu())
            if seen:
                frames.append(torch.cat(seen, dim=2).half().cpu())
    # An encoder's number of frames follows the longest window of the batch, so it can differ between batches.
    if len({batch.shape[1:] for batch in frames}) != 1:
        return Aims(torch.cat(scores))
    stacked_frames = torch.cat(frames)
    deviation = stacked_frames.float().flatten(0, 1).std(dim=0) + LEAST_DEVIATION
    return Aims(torch.cat(scores), stacked_frames, deviation)


def repair(
    model: Any, windows: Sequence[np.ndarray], aims: Aims, options: PruningOptions, number: int, labels: torch.Tensor | None = None
) -> None:
    """Fine-tune a pruned model on windows, towards the unpruned model's scores and frames. Norms stay in evaluation mode.

    The number of the pruning step determines the order of the windows. `labels` `(W, L)` are listeners' scores, NaN if missing.
    """
    if not options.repair_steps:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    warmup = math.ceil(WARMUP_SHARE * options.repair_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, options.repair_steps)
    rng = np.random.default_rng([options.seed, number])
    layout = model.pruning_layout()
    with watched_frames(model) as seen:
        for _ in range(options.repair_steps):
            chosen = torch.from_numpy(rng.choice(len(windows), min(options.batch_size, len(windows)), replace=False))
            seen.clear()
            with torch.autocast(model.device.type, torch.bfloat16, enabled=options.bf16):
                scores = layout.scores(stacked(model, [windows[place] for place in chosen]))
            loss = F.smooth_l1_loss(scores.float(), aims.scores[chosen].to(scores.device), beta=0.1)
            if labels is not None and options.label_weight:
                given = labels[chosen].to(scores.device)
                rated = ~given.isnan()
                if rated.any():
                    loss = loss + options.label_weight * F.smooth_l1_loss(scores.float()[rated], given[rated], beta=0.1)
            if aims.frames is not None and seen:
                loss = loss + aims.frame_distance(torch.cat(seen, dim=2), chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def scores_of(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Return a model's scores `(W, L)` of windows."""
    layout = model.pruning_layout()
    return torch.cat([layout.scores(batch).cpu() for batch in batches_of(model, windows, 2)]).clone()


def agreement_with(model: Any, windows: Sequence[np.ndarray], reference: torch.Tensor) -> dict[str, float]:
    """Return `lcc` and `rmse` between a model's scores and others `(W, L)`, averaged over the score names."""
    scores = scores_of(model, windows).numpy()
    by_name = [agreement(scores[:, column], reference[:, column].numpy()) for column in range(scores.shape[1])]
    return {metric: float(np.mean([values[f"utt_{metric}"] for values in by_name])) for metric in ("lcc", "rmse")}
