"""Faults in a recording: stretches that sound unlike the rest of it, found and named by a small separate network.

The network does not judge quality and gives no score; `train_scripts/fault_finder.py` fitted it to faults at known places.
Shapes: M frames of 20 ms, N features, S steps of 80 ms, C channels, K kinds
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import soxr
import torch
from safetensors.torch import load_file
from torch import nn

from hf_sqa.blocks.mel_bands import mean_power_bands
from hf_sqa.blocks.timeline import Fault, runs_of

#: Kinds that the network distinguishes. It may take a codec for a band limit, and a band limit for a codec.
KINDS = ("loss", "noise", "clipping", "codec", "gap", "band limit", "reverberation")
SAMPLING_RATE = 16_000
FRAME_SAMPLES, FRAMES_PER_STEP = 320, 4
STEP_SECONDS = FRAME_SAMPLES * FRAMES_PER_STEP / SAMPLING_RATE
NUM_BANDS, LOWEST_HZ, POWER_FLOOR = 32, 60.0, 1e-12
#: Share of a frame's peak from which a sample is at the ceiling, and largest magnitude that counts as 0: under half a 16-bit step.
CEILING, SMALLEST = 0.97, 1.5e-5
#: Percentile of the frame levels in a segment that is the reference for all levels.
REFERENCE_PERCENTILE = 95
NUM_FEATURES = NUM_BANDS + 4
CHANNELS, TAPS, DILATIONS = 48, range(5), (1, 2, 4, 8)
#: Steps of a long recording that are processed together, and how many at each edge are processed again with the next segment.
SEGMENT_STEPS, EDGE_STEPS = 375, 62
#: Two faults with at most this many steps between them are joined.
JOIN_STEPS = 4
#: See [`stretches`]; chosen by `train_scripts/fault_finder.py` on talkers that the network was not trained on.
SMOOTH_STEPS, CERTAIN, REACHES = 5, 0.85, 0.3


class FaultNetwork(nn.Module):
    """Network from frames to a decision for every step, which sees the steps around it and statistics of the whole segment."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(NUM_FEATURES, CHANNELS, 5, padding=2)
        self.steps = nn.Conv1d(CHANNELS, CHANNELS, 2 * FRAMES_PER_STEP, stride=FRAMES_PER_STEP, padding=FRAMES_PER_STEP // 2)
        self.weight = nn.Conv1d(CHANNELS, 1, 1)
        self.context = nn.Linear(2 * CHANNELS, CHANNELS)
        self.around = nn.ModuleList(nn.Conv1d(len(TAPS) * CHANNELS, CHANNELS, 1) for _ in DILATIONS)
        self.output = nn.Conv1d(CHANNELS, 1 + len(KINDS), 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [`relative_features`] `(B, M, N)`, M a multiple of 4, to logits `(B, S, 1 + K)`, no fault first."""
        hidden = nn.functional.relu(self.frames(features.transpose(1, 2)))
        hidden = nn.functional.relu(self.steps(hidden))  # (B, C, S)
        weight = torch.softmax(self.weight(hidden), dim=-1)
        mean = (weight * hidden).sum(dim=-1)
        spread = ((weight * (hidden - mean[..., None]).square()).sum(dim=-1) + 1e-4).sqrt()
        hidden = hidden + self.context(torch.cat([mean, spread], dim=1))[..., None]
        for by, layer in zip(DILATIONS, self.around, strict=True):
            padded, size = nn.functional.pad(hidden, (2 * by, 2 * by)), hidden.shape[-1]
            # A dilated convolution, which torch computes three times as slowly.
            taps = [padded[..., tap * by : tap * by + size] for tap in TAPS]
            hidden = hidden + nn.functional.relu(layer(torch.cat(taps, dim=1)))
        return self.output(hidden).transpose(1, 2)


@cache
def _bands() -> torch.Tensor:
    return torch.from_numpy(mean_power_bands(FRAME_SAMPLES, NUM_BANDS, SAMPLING_RATE, LOWEST_HZ))


@cache
def _window() -> torch.Tensor:
    window = torch.hann_window(FRAME_SAMPLES)
    return window / (window.square().sum() * FRAME_SAMPLES / 2).sqrt()


@torch.inference_mode()
def frame_features(samples: np.ndarray) -> np.ndarray:
    """Return features `(M, N)`, a row for every frame of 20 ms.

    These are the levels in dB of the bands and of the frame, then the shares of its samples that are at the ceiling of the frame
    and that are 0, and its crest factor in dB.
    """
    frames = torch.from_numpy(samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES]).unflatten(0, (-1, FRAME_SAMPLES))
    parts = torch.view_as_real(torch.fft.rfft(frames * _window())).square()
    return features_of(frames, (parts[..., 0] + parts[..., 1]) @ _bands()).numpy()


def features_of(frames: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Return the [`frame_features`] of frames `(M, 320)` from them and the power in their bands, `(M, 32)`."""
    magnitude = frames.abs()
    peak = magnitude.amax(dim=1)
    level = _decibels(magnitude.square().mean(dim=1))
    ceiling, zeros = _share(magnitude >= CEILING * peak[:, None]), _share(magnitude <= SMALLEST)
    return torch.cat([_decibels(power), level[:, None], ceiling, zeros, (_decibels(peak.square()) - level)[:, None]], dim=1)


def _decibels(power: torch.Tensor) -> torch.Tensor:
    """Convert power to dB, with a floor, which is not added to the power: the exporter of graphs takes so small a number for 0."""
    return 10 * (power / POWER_FLOOR + 1).log10() + 10 * math.log10(POWER_FLOOR)


def _share(is_so: torch.Tensor) -> torch.Tensor:
    """Return the share of samples in each frame for which `is_so` is true, `(M, 1)`."""
    return is_so.to(torch.int8).sum(dim=1, keepdim=True) / FRAME_SAMPLES


def relative_features(features: np.ndarray) -> np.ndarray:
    """Return features with levels relative to the loud frames of the segment, all on scales near 1."""
    return relative_to(float(np.percentile(features[:, NUM_BANDS], REFERENCE_PERCENTILE)), torch.from_numpy(features)).numpy()


def relative_to(reference: torch.Tensor | float, features: torch.Tensor) -> torch.Tensor:
    """Return [`relative_features`] if the level of the loud frames is known."""
    levels = (features[:, : NUM_BANDS + 1] - reference + 30) / 20
    ceiling, zeros, crest = features[:, NUM_BANDS + 1 :].unbind(dim=1)
    return torch.cat([levels.clamp(min=-4), torch.stack([5 * ceiling, zeros, (crest - 10) / 5], dim=1)], dim=1)


class FaultGraph(nn.Module):
    """What [`FaultFinder`] computes for a segment, in operations that graphs have: samples in, decisions out."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network()
        self.register_buffer("bands", _bands())
        phase = 2 * np.pi / FRAME_SAMPLES * np.outer(np.arange(FRAME_SAMPLES), np.arange(FRAME_SAMPLES // 2 + 1))
        for name, wave in (("cosines", np.cos(phase)), ("sines", np.sin(phase))):
            self.register_buffer(name, _window()[:, None] * torch.from_numpy(wave).float())

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the [`decisions`] `(S, 1 + K)` on steps of 80 ms, from their samples `(S, 1280)` at 16 kHz."""
        frames = steps.reshape(-1, FRAME_SAMPLES)
        power = (frames @ self.cosines).square() + (frames @ self.sines).square()
        features = features_of(frames, power @ self.bands)
        levels = features[:, NUM_BANDS].sort().values
        # As np.percentile, interpolated between two levels; a graph of torch.quantile gives NaN in onnxruntime.
        rank = torch.arange(levels.shape[0])
        weight = (1 - (rank - REFERENCE_PERCENTILE / 100 * rank[-1]).abs()).clamp(min=0)
        reference = (weight * levels).sum()
        return torch.softmax(self.network(relative_to(reference, features)[None])[0], dim=-1)


class FaultFinder:
    """Finder that takes the samples of a recording in portions, and says at the end where it sounds unlike the rest.

    The memory grows by only eight numbers per step of the recording.
    """

    def __init__(self, sampling_rate: int):
        self._resampler = None
        if sampling_rate != SAMPLING_RATE:
            self._resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
        self._rest = np.zeros(0, np.float32)
        self._frames = np.zeros((0, NUM_FEATURES), np.float32)
        self._decided: list[np.ndarray] = []

    def feed(self, samples: np.ndarray) -> None:
        """Take the next samples `(num_samples,)`, mono float32."""
        self._take(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def close(self) -> list[Fault]:
        """Return the faults in order; call this after the last samples."""
        if self._resampler is not None:
            self._take(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        usable = len(self._frames) // FRAMES_PER_STEP * FRAMES_PER_STEP
        if usable:
            begin = EDGE_STEPS if self._decided else 0
            self._decided.append(decisions(load_network(), self._frames[:usable])[begin:])
        return stretches(np.concatenate(self._decided)) if self._decided else []

    def _take(self, samples: np.ndarray) -> None:
        size = SEGMENT_STEPS * FRAMES_PER_STEP
        for start in range(0, len(samples), size * FRAME_SAMPLES):
            piece = np.concatenate([self._rest, samples[start : start + size * FRAME_SAMPLES]])
            usable = len(piece) // FRAME_SAMPLES * FRAME_SAMPLES
            self._rest = piece[usable:]
            if not usable:
                continue
            self._frames = np.concatenate([self._frames, frame_features(piece[:usable])])
            while len(self._frames) >= size:
                begin, end = EDGE_STEPS if self._decided else 0, SEGMENT_STEPS - EDGE_STEPS
                self._decided.append(decisions(load_network(), self._frames[:size])[begin:end])
                self._frames = self._frames[(end - EDGE_STEPS) * FRAMES_PER_STEP :]


@torch.inference_mode()
def decisions(network: FaultNetwork, features: np.ndarray) -> np.ndarray:
    """Return the probabilities `(S, 1 + K)` of no fault and of every kind, from the features of the frames in a segment."""
    return torch.softmax(network(torch.from_numpy(relative_features(features))[None])[0], dim=-1).numpy()


def stretches(decided: np.ndarray, certain: float = CERTAIN, reaches: float = REACHES) -> list[Fault]:
    """Return the faults in a recording from the [`decisions`] `(S, 1 + K)` on its steps.

    A fault extends as far as the probability of any fault stays above `reaches`. Somewhere in it, the mean of this probability over
    five steps must reach `certain`.
    """
    of_any = 1 - decided[:, 0]
    smooth = np.convolve(of_any, np.full(SMOOTH_STEPS, 1 / SMOOTH_STEPS), "same") if len(of_any) >= SMOOTH_STEPS else of_any
    runs: list[list[int]] = []
    for start, end in runs_of(of_any >= reaches):
        if runs and start - runs[-1][1] <= JOIN_STEPS:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    return [
        Fault(start * STEP_SECONDS, end * STEP_SECONDS, KINDS[int(decided[start:end, 1:].mean(axis=0).argmax())])
        for start, end in runs
        if smooth[start:end].max() >= certain
    ]


@cache
def load_network() -> FaultNetwork:
    """Return the network that comes with the package."""
    network = FaultNetwork()
    network.load_state_dict(load_file(Path(str(files("hf_sqa"))) / "assets" / "local" / "faults.safetensors"))
    return network.eval()
