"""Local quality of DistilledSQA: a small head reads the frames of the trunk, which see a few tenths of a second each.

Code:     ours; the heads are fitted by `train_scripts/local_head.py` to the scores of the model itself
Shapes:   F frames, S steps of 80 ms, C channels
"""

from __future__ import annotations

import math
from collections import deque
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScorer

#: A step is so long; frames of a shorter step are averaged.
STEP_SECONDS = 0.08
HIDDEN_SIZE = 32
#: Steps that are computed together, and how many such chunks the peak is taken of: as long as a window of the model.
CHUNK_STEPS, PEAK_CHUNKS = 12, 8
#: Peaks are rounded up to the next of so many in an octave, so that neighbours have the same one and are computed together.
PEAKS_PER_OCTAVE = 1


class LocalHead(nn.Module):
    """Steps of the trunk to a score and a weight each; the score of a stretch is the weighted mean over its steps."""

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(num_channels))
        self.register_buffer("scale", torch.ones(num_channels))
        self.hidden = nn.Linear(num_channels, HIDDEN_SIZE)
        self.output = nn.Linear(HIDDEN_SIZE, 2)

    def forward(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            steps (`torch.Tensor` of shape `(..., C)`): From [`steps_of`].

        Returns:
            `(scores, weights)`, each of shape `(...)`: Scores from 1 to 5, weights above 0.
        """
        hidden = nn.functional.relu(self.hidden((steps - self.center) / self.scale))
        scores, weights = self.output(hidden).unbind(-1)
        return 1 + 4 * torch.sigmoid(scores), torch.sigmoid(weights) + 1e-3


class FrameScorer(LocalScorer):
    """Local quality by a head on the trunk: every sample goes through the convolutions once.

    Args:
        model ([`DistilledSQA`]): The model.
        head ([`LocalHead`]): Fitted to it.
        hop_seconds (`float`, *optional*, defaults to 0.5): Length of a stretch.
    """

    half_seconds = 0.75
    is_cheap = True
    method = "a head on the model's first layers, means over 1.5 s"

    def __init__(self, model: Any, head: LocalHead, hop_seconds: float = HOP_SECONDS):
        super().__init__(model.config.sampling_rate, hop_seconds)
        self._model, self._head = model, head
        self._frame = model.config.window_samples // model.config.num_frames
        self._frames_per_step = frames_per_step(model.config)
        self._step = self._frame * self._frames_per_step
        self._chunk = CHUNK_STEPS * self._step
        reach = model.trunk.reach * model.spectrum.hop_samples + model.spectrum.margin
        self._margin = -(-reach // self._step) * self._step
        self._buffer, self._origin = np.zeros(0, np.float32), 0
        self._next_chunk = 0
        self._peaks: deque[float] = deque(maxlen=PEAK_CHUNKS)
        self._steps = np.zeros((0, 2))
        self._first_step = 0

    def _take(self, samples: np.ndarray, last: bool) -> None:
        """Score the chunks that are there with all they depend on, those with one peak together."""
        self._buffer = np.concatenate([self._buffer, samples])
        available = self._origin + len(self._buffer)
        ready: list[tuple[int, float]] = []
        while (end := (self._next_chunk + 1) * self._chunk) + self._margin <= available or (
            last and self._next_chunk * self._chunk < available
        ):
            start = self._next_chunk * self._chunk - self._origin
            self._peaks.append(float(np.abs(self._buffer[start : end - self._origin + self._margin]).max()))
            ready.append((self._next_chunk, rounded_peak(max(self._peaks))))
            self._next_chunk += 1
        for peak, chunks in groupby(ready, key=lambda chunk: chunk[1]):
            numbers = [number for number, _ in chunks]
            self._score_chunks(numbers[0], numbers[-1] + 1, peak, available)
        unused = self._next_chunk * self._chunk - self._margin - self._origin
        if ready and unused > 0:
            self._buffer, self._origin = self._buffer[unused:], self._origin + unused

    @torch.inference_mode()
    def _score_chunks(self, first: int, end: int, peak: float, available: int) -> None:
        start, stop = first * self._chunk, min(end * self._chunk, available)
        low, high = max(0, start - self._margin), min(stop + self._margin, available)
        samples = self._buffer[low - self._origin : high - self._origin]
        samples = np.pad(samples, (0, max(0, -len(samples) % self._step)))
        waveform = torch.from_numpy(samples)[None].to(self._model.device)
        frames = self._model.trunk(self._model.spectrum(waveform / (peak + 1e-8)))[0]
        frames = frames[(start - low) // self._frame :]
        steps = steps_of(frames, self._frames_per_step)[: -(-(stop - start) // self._step)]
        scored = torch.stack(self._head(steps.float()), dim=1).cpu().numpy()
        self._steps = np.concatenate([self._steps, scored])

    def _known_samples(self) -> int:
        return (self._first_step + len(self._steps)) * self._step

    def _scores(self, first: int, end: int) -> np.ndarray | None:
        begin = -(-(first - self._step // 2) // self._step) - self._first_step
        stop = -(-(end - self._step // 2) // self._step) - self._first_step
        chosen = self._steps[max(0, begin) : max(0, stop, begin + 1)]
        if not len(chosen):
            return None
        scores, weights = chosen.T
        return np.array([(scores * weights).sum() / weights.sum()])

    def _forget(self, sample: int) -> None:
        unused = min(max(0, sample // self._step - 1 - self._first_step), len(self._steps))
        self._steps = self._steps[unused:]
        self._first_step += unused


def rounded_peak(peak: float) -> float:
    """The next of the peaks that are told apart."""
    return 2 ** (math.ceil(math.log2(peak) * PEAKS_PER_OCTAVE) / PEAKS_PER_OCTAVE) if peak > 0 else 0.0


def steps_of(frames: torch.Tensor, per_step: int) -> torch.Tensor:
    """Frames of the trunk `(F, C)` averaged to steps of 80 ms, `(S, C)`."""
    return frames[: len(frames) // per_step * per_step].unflatten(0, (-1, per_step)).mean(dim=1)


def load_head(config: Any, device: torch.device | str = "cpu") -> LocalHead | None:
    """The head that was fitted to a checkpoint; `None` if there is none, as for every model that was trained further."""
    path = head_file(config.checkpoint_name) if config.checkpoint_name and config.score_names == ["mos"] else None
    if path is None or not path.is_file():
        return None
    head = _head_of(path, torch.device(device))
    return head if len(head.center) == config.conv_channels[-1] * config.conv_num_bins else None


@cache
def _head_of(path: Path, device: torch.device) -> LocalHead:
    """A head, made once in a process: every recording gets a scorer of its own."""
    tensors = load_file(path)
    head = LocalHead(len(tensors["center"]))
    head.load_state_dict(tensors)
    return head.eval().to(device)


def head_file(checkpoint_name: str) -> Path | None:
    """Where the head of a checkpoint lies in the package; `None` in bundled code, which has no package."""
    try:
        return Path(str(files("hf_sqa"))) / "assets" / "local" / f"{Path(checkpoint_name).name}.safetensors"
    except ModuleNotFoundError:
        return None


def frames_per_step(config: Any) -> int:
    """Frames of the trunk in 80 ms."""
    return max(1, round(STEP_SECONDS * config.sampling_rate * config.num_frames / config.window_samples))
