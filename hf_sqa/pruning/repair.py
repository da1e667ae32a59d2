"""Repair of a pruned model by the scores and frames of the unpruned one, and its agreement with that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from hf_sqa.blocks.sqa_transformer import find_transformer
from hf_sqa.metrics import agreement
from hf_sqa.pruning.calibration import batches_of, stacked
from hf_sqa.pruning.options import PruningOptions

#: Of the repair's steps. A pruned model is close to a minimum, from which full first steps of Adam throw it far.
WARMUP_SHARE = 0.1
#: Of a frame's feature, so that one that never changes does not weigh more than the others.
LEAST_DEVIATION = 1e-3


@dataclass
class Aims:
    """What repair comes back to.

    Args:
        scores (`torch.Tensor` of shape `(W, L)`): Of the unpruned model.
        frames (`FrameAims`, *optional*): Its frames, if every window gives as many.
    """

    scores: torch.Tensor
    frames: FrameAims | None = None


@dataclass
class FrameAims:
    """What goes into the transformer of an unpruned model and what comes out, side by side.

    Args:
        values (`torch.Tensor` of shape `(W, F, 2 D)`): In float16.
        deviation (`torch.Tensor` of shape `(2 D,)`): Of each channel over all frames.
    """

    values: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> FrameAims:
        """Frames with their deviation measured."""
        return cls(values, values.float().flatten(0, 1).std(dim=0) + LEAST_DEVIATION)

    def distance(self, ours: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Mean square in deviations of the channels; 0 if a pruned model gives frames of another shape."""
        theirs = self.values[chosen].float()
        return ((ours - theirs) / self.deviation).square().mean() if ours.shape == theirs.shape else ours.new_zeros(())


@torch.no_grad()
def aims_of(model: Any, windows: Sequence[np.ndarray]) -> Aims:
    """What an unpruned model gives for windows."""
    layout, scores, frames = _Scores(model), [], []
    with _frames_of(model) as seen:
        for batch in batches_of(model, windows, 2):
            seen.clear()
            scores.append(layout(batch))
            if seen:
                frames.append(torch.cat(seen, dim=2).half())
    if len({one.shape[1:] for one in frames}) != 1:  # none, or an encoder that gives as many as a batch is long
        return Aims(torch.cat(scores))
    return Aims(torch.cat(scores), FrameAims.of(torch.cat(frames)))


@contextmanager
def _frames_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what goes into the last transformer of a model and what comes out, `(B, F, D)` each; nothing if it has none."""
    seen: list[torch.Tensor] = []
    transformer = find_transformer(model)
    modules = [] if transformer is None else [transformer.positions, transformer.pooling]
    handles = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float())) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def repair(model: Any, windows: Sequence[np.ndarray], aims: Aims, options: PruningOptions, number: int) -> None:
    """Fine-tune a pruned model to the scores and frames of the unpruned one; norms stay as they are, as in evaluation."""
    if not options.repair_steps:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    warmup = math.ceil(WARMUP_SHARE * options.repair_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, options.repair_steps)
    rng = np.random.default_rng([options.seed, number])
    layout = _Scores(model)
    with _frames_of(model) as seen:
        for _ in range(options.repair_steps):
            chosen = torch.from_numpy(rng.choice(len(windows), min(options.batch_size, len(windows)), replace=False))
            seen.clear()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                scores = layout(stacked(model, [windows[place] for place in chosen]))
            loss = F.smooth_l1_loss(scores.float(), aims.scores[chosen], beta=0.1)
            if aims.frames is not None and seen:
                loss = loss + aims.frames.distance(torch.cat(seen, dim=2), chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


class _Scores:
    """Scores of stacked windows by any model that can be pruned."""

    def __init__(self, model: Any):
        self._layout = model.pruning_layout()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self._layout.scores(batch)


@torch.inference_mode()
def targets_of(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Scores `(W, L)` of windows."""
    scores = _Scores(model)
    return torch.cat([scores(batch) for batch in batches_of(model, windows, 2)]).clone()


def agreement_with(model: Any, windows: Sequence[np.ndarray], targets: torch.Tensor) -> dict[str, float]:
    """Correlation and distance between a model's scores and others, the mean over several scores."""
    scores = targets_of(model, windows).numpy()
    found = [agreement(scores[:, column], targets[:, column].numpy()) for column in range(scores.shape[1])]
    return {name: float(np.mean([one[f"utt_{name}"] for one in found])) for name in ("lcc", "rmse")}
