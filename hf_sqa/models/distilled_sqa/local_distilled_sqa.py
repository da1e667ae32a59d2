"""Local quality of DistilledSQA: a small head reads the frames of the trunk, which see a few tenths of a second each.

Code:     ours; the heads are fitted by `train_scripts/local_head.py` to the scores of the model itself
Shapes:   F frames, S steps of 80 ms, C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from hf_sqa.blocks.local_quality import HOP_SECONDS
from hf_sqa.blocks.local_steps import StepCut, StepScorer

#: Length of a step; frames of a shorter step are averaged.
STEP_SECONDS = 0.08
HIDDEN_SIZE = 32


class LocalHead(nn.Module):
    """Head that gives a score and a weight to each step of the trunk; a stretch's score is the weighted mean over its steps."""

    center: torch.Tensor
    scale: torch.Tensor
    doubt: torch.Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(num_channels))
        self.register_buffer("scale", torch.ones(num_channels))
        self.register_buffer("doubt", torch.ones(2))  # see `hf_sqa.blocks.local_steps.CurveLevel`
        self.hidden = nn.Linear(num_channels, HIDDEN_SIZE)
        self.output = nn.Linear(HIDDEN_SIZE, 2)

    def forward(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map steps `(..., C)` from [`steps_of`] to scores from 1 to 5 and weights above 0, each of shape `(...)`."""
        hidden = nn.functional.relu(self.hidden((steps - self.center) / self.scale))
        scores, weights = self.output(hidden).unbind(-1)
        return 1 + 4 * torch.sigmoid(scores), torch.sigmoid(weights) + 1e-3


class FrameScorer(StepScorer):
    """Local quality by a head that was fitted to the trunk of a [`DistilledSQA`]; see [`StepScorer`]."""

    def __init__(self, model: Any, head: LocalHead, hop_seconds: float = HOP_SECONDS, has_level: bool = True):
        config = model.config
        self._model, self._head = model, head
        self._frames_per_step = frames_per_step(config)
        step = config.window_samples // config.num_frames * self._frames_per_step
        reach = model.trunk.reach * model.spectrum.hop_samples + model.spectrum.margin
        base, slope = head.doubt.tolist()
        cut = StepCut(step, -(-reach // step) * step, config.window_samples, (base, slope), (config.score_min, config.score_max))
        super().__init__(cut, config.sampling_rate, hop_seconds, has_level)

        self._frames: torch.Tensor | None = None

    def give(self, starts: Sequence[int], scores: np.ndarray, frames: Any = None) -> None:
        super().give(starts, scores)
        self._frames = frames

    @torch.inference_mode()
    def score_steps(self, samples: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(samples)[None].to(self._model.device)
        return self._scored(self._model.trunk(self._model.spectrum(waveform))[0])

    @torch.inference_mode()
    def window_steps(self, samples: np.ndarray) -> np.ndarray:
        """Score the steps of a window from the frames behind its score; if there are none yet, compute them and that score."""
        if self._frames is None:
            frames = self._model.window_frames(torch.from_numpy(samples)[None].to(self._model.device))
            self._frames = frames[0]
            if self._level is not None:
                self._level.given = {0: float(self._model.score_frames(frames)[0, 0])}
        return self._scored(self._frames)

    @torch.inference_mode()
    def score_window(self, samples: np.ndarray) -> float:
        return float(self._model.score_windows(torch.from_numpy(samples)[None].to(self._model.device))[0, 0])

    def _scored(self, frames: torch.Tensor) -> np.ndarray:
        """Return scores and weights of the steps in frames `(F, C)`."""
        return torch.stack(self._head(steps_of(frames, self._frames_per_step).float()), dim=1).cpu().numpy()


class LocalGraph(nn.Module):
    """What a [`FrameScorer`] computes for a stretch, for ONNX; cutting into stretches and choosing the peak are not part of it."""

    def __init__(self, model: Any, scorer: FrameScorer):
        super().__init__()
        self.spectrum, self.trunk, self.head = model.spectrum, model.trunk, scorer._head
        self._frames_per_step = scorer._frames_per_step

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Map samples of whole steps `(1, T)`, divided by their peak, to scores and weights of the steps `(2, S)`."""
        frames = self.trunk(self.spectrum(input_values))[0]
        steps = frames.reshape(-1, self._frames_per_step, frames.shape[1]).mean(dim=1)  # as `steps_of`, but for any length
        return torch.stack(self.head(steps.float()))


def steps_of(frames: torch.Tensor, per_step: int) -> torch.Tensor:
    """Average frames of the trunk `(F, C)` to steps of 80 ms, `(S, C)`."""
    return frames[: len(frames) // per_step * per_step].unflatten(0, (-1, per_step)).mean(dim=1)


def load_head(config: Any, device: torch.device | str = "cpu") -> LocalHead | None:
    """Return the head that was fitted to a checkpoint; `None` if there is none, as for every model that was trained further."""
    path = head_file(config.checkpoint_name) if config.checkpoint_name and config.score_names == ["mos"] else None
    if path is None or not path.is_file():
        return None
    head = _head_of(path, torch.device(device))
    return head if len(head.center) == config.conv_channels[-1] * config.conv_num_bins else None


@cache
def _head_of(path: Path, device: torch.device) -> LocalHead:
    """Load a head, once per process, because every recording has a scorer of its own."""
    tensors = load_file(path)
    head = LocalHead(len(tensors["center"]))
    head.load_state_dict(tensors)
    return head.eval().to(device)


@cache
def head_file(checkpoint_name: str) -> Path | None:
    """Return the file of a checkpoint's head in the package; `None` in bundled code, which has no package."""
    try:
        return Path(str(files("hf_sqa"))) / "assets" / "local" / f"{Path(checkpoint_name).name}.safetensors"
    except ModuleNotFoundError:
        return None


def frames_per_step(config: Any) -> int:
    """Return the number of frames of the trunk in 80 ms."""
    return max(1, round(STEP_SECONDS * config.sampling_rate * config.num_frames / config.window_samples))
