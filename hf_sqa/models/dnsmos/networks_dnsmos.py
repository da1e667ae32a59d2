"""The layers of DNSMOS: two kinds of spectra, and convolutions that overlapping windows share.

Shapes:   T samples, S spectra, K bands, W windows, C channels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from hf_sqa.blocks.winograd import conv3x3, is_plain_scoring
from hf_sqa.models.dnsmos.configuration_dnsmos import DNSMOSConfig

#: Smallest power of a band, in the two kinds of spectra.
LEAST_POWER, LEAST_MEL_POWER = 1e-12, 1e-10
#: What lies further below the loudest mel band of a window is raised to that level; the levels are then scaled to [-1, 1].
DYNAMIC_RANGE_DB = 80.0
#: Spectra that go through the first convolutions together while scoring: their 128 channels fit a processor's caches.
SPECTRA_PER_CALL = {"cpu": 200}
SPECTRA_PER_CALL_ELSEWHERE = 8192


class LearnedSpectrum(nn.Module):
    """Base-10 logarithm of the power of `fft_size` samples in bands with trained filters."""

    def __init__(self, config: DNSMOSConfig):
        super().__init__()
        self.fft_size, self.hop_samples = config.fft_size, config.fft_hop_samples
        self.real = nn.Parameter(torch.empty(config.fft_size // 2 + 1, config.fft_size))
        self.imaginary = nn.Parameter(torch.empty(config.fft_size // 2 + 1, config.fft_size))

    def reset_parameters(self) -> None:
        """Start from the Fourier transform under a Hann window."""
        cosine, sine = fourier_filters(self.fft_size)
        init.copy_(self.real, torch.from_numpy(cosine.T.copy()))
        init.copy_(self.imaginary, torch.from_numpy(sine.T.copy()))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the spectra `(W, S, K)` of waveforms `(W, T)` in float32; the first begins at the first sample."""
        half = waveforms[:, : waveforms.shape[1] // self.hop_samples * self.hop_samples].unflatten(1, (-1, self.hop_samples))
        frames = torch.cat([half[:, :-1], half[:, 1:]], dim=-1)
        with torch.autocast(waveforms.device.type, enabled=False):
            power = (frames @ self.real.float().T).square() + (frames @ self.imaginary.float().T).square()
        return power.clamp(min=LEAST_POWER).log10()


class MelPower(nn.Module):
    """Power in mel bands, from spectra around every hop, as librosa computes it with a transform of `fft_size + 1` samples."""

    filters: torch.Tensor
    bands: torch.Tensor

    def __init__(self, config: DNSMOSConfig):
        super().__init__()
        self.size, self.hop_samples = config.fft_size + 1, config.fft_hop_samples
        self.sampling_rate, self.num_mel_bins = config.sampling_rate or 16_000, config.num_mel_bins
        self.register_buffer("filters", torch.empty(self.size, 2 * (self.size // 2 + 1)))
        self.register_buffer("bands", torch.empty(self.size // 2 + 1, self.num_mel_bins))

    def reset_parameters(self) -> None:
        """Fill both tables by transformers' initialiser, which leaves loaded tensors alone."""
        init.copy_(self.filters, torch.from_numpy(np.concatenate(fourier_filters(self.size), axis=1)))
        init.copy_(self.bands, torch.from_numpy(mel_filters(self.size, self.num_mel_bins, self.sampling_rate)))

    def of_spans(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the power `(W, S, K)` around every hop of waveforms `(W, T)` but the last; zeros continue both ends."""
        margin = self.size // 2
        num_spectra = waveforms.shape[1] // self.hop_samples - 1
        padded = F.pad(waveforms, (margin, margin))
        length = (num_spectra - 1) * self.hop_samples + self.size
        return self.of_frames(padded[:, :length].unfold(1, self.size, self.hop_samples))

    def of_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the power `(..., K)` of frames `(..., fft_size + 1)`."""
        with torch.autocast(frames.device.type, enabled=False):
            real, imaginary = (frames @ self.filters.float()).chunk(2, dim=-1)
            return (real.square() + imaginary.square()) @ self.bands.float()


def relative_levels(power: torch.Tensor) -> torch.Tensor:
    """Return the levels of windows `(W, S, K)` relative to the loudest band of each window: 1 there, at least -1."""
    levels = 10 * power.clamp(min=LEAST_MEL_POWER).log10()
    levels = levels - levels.amax(dim=(1, 2), keepdim=True)
    return levels.clamp(min=-DYNAMIC_RANGE_DB) / (DYNAMIC_RANGE_DB / 2) + 1


class ConvStack(nn.Module):
    """Padded 3×3 convolutions, some followed by a pooling by halves, then the largest value of each channel, and dense layers.

    The layers before the first pooling, which are most of the work, are the front: further than `edge` spectra from the edges of a
    window, their output does not depend on where the window begins, so overlapping windows share it.
    """

    def __init__(self, channels: Sequence[int], pools: Sequence[int], dense_sizes: Sequence[int], num_scores: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(size_in, size_out, 3, padding=1) for size_in, size_out in zip([1, *channels], channels, strict=False)
        )
        sizes = [channels[-1], *dense_sizes]
        self.dense = nn.ModuleList(nn.Linear(size_in, size_out) for size_in, size_out in zip(sizes, dense_sizes, strict=False))
        self.score_head = nn.Linear(sizes[-1], num_scores)
        self.pools = tuple(pools)
        self.edge = pools[0] + pools[0] % 2  # spectra; even, because poolings join pairs

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        """Return the raw scores `(W, scores)`, in float32, for the spectra of windows `(W, S, K)`."""
        return self.back(self.front(spectra, (True, True)))

    def shared(self, spectra: torch.Tensor, starts: Sequence[int], num_spectra: int, period: int | None = None) -> torch.Tensor:
        """Do as `forward` for windows of `num_spectra` spectra in one stretch `(1, S, K)`, which begins and ends with a window.

        They begin at `starts`, ascending and at most a window apart; after `period` spectra, if given, the stretch repeats itself.
        All these numbers are even.
        """
        edge = self.edge
        if num_spectra <= 2 * edge:
            return self(torch.cat([spectra[:, start : start + num_spectra] for start in starts]))
        num_inner = spectra.shape[1] - 2 * edge
        num_computed = min(num_inner, period or num_inner)
        inner = self.front(spectra[:, : num_computed + 2 * edge], (False, False))
        inner = torch.cat([inner] * -(-num_inner // num_computed), dim=2)
        left = self.front(torch.cat([spectra[:, start : start + 2 * edge] for start in starts]), (True, False))
        ends = [start + num_spectra for start in starts]
        right = self.front(torch.cat([spectra[:, end - 2 * edge : end] for end in ends]), (False, True))
        width = (num_spectra - 2 * edge) // 2
        middle = torch.cat([inner[:, :, start // 2 : start // 2 + width] for start in starts])
        return self.back(torch.cat([left, middle, right], dim=2))

    def front(self, spectra: torch.Tensor, is_edge: tuple[bool, bool]) -> torch.Tensor:
        """Run the layers up to the first pooling on spectra `(W, S, K)`, without gradients on a bounded number of them at a time.

        `is_edge` says whether they begin and whether they end at the edge of a window, where every layer sees zeros. Elsewhere
        zeros would be wrong, and the `edge` spectra that they affect are left out.
        """
        total = spectra.shape[1]
        first, end = 0 if is_edge[0] else self.edge, total if is_edge[1] else total - self.edge
        step = end - first
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            spectra_per_call = SPECTRA_PER_CALL.get(spectra.device.type, SPECTRA_PER_CALL_ELSEWHERE)
            step = max(2 * self.edge, spectra_per_call // len(spectra) // 2 * 2)
        pieces = []
        for start in range(first, end, step):
            begin, stop = max(0, start - self.edge), min(start + step, end)
            piece = self._front(spectra[:, begin : stop + self.edge])
            pieces.append(piece[:, :, (start - begin) // 2 : (stop - begin) // 2])
        return torch.cat(pieces, dim=2)

    def _front(self, spectra: torch.Tensor) -> torch.Tensor:
        first, *others = self.convs[: self.pools[0]]
        hidden_states = _relu(first(spectra[:, None].to(first.weight.dtype)))
        for conv in others:
            hidden_states = _relu(conv3x3(conv, hidden_states))
        return _halve(hidden_states)

    def back(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run the layers after the first pooling: raw scores `(W, scores)` of `(W, C, S, K)`."""
        for number, conv in enumerate(self.convs[self.pools[0] :], start=self.pools[0] + 1):
            hidden_states = _relu(conv3x3(conv, hidden_states))
            if number in self.pools:
                hidden_states = _halve(hidden_states)
        hidden_states = hidden_states.amax(dim=(2, 3))
        for layer in self.dense:
            hidden_states = F.relu(layer(hidden_states))
        return self.score_head(hidden_states).float()


def _relu(hidden_states: torch.Tensor) -> torch.Tensor:
    """Apply a ReLU, in place if no gradient needs the input."""
    return F.relu(hidden_states, inplace=not torch.is_grad_enabled() and not torch.compiler.is_compiling())


def _halve(hidden_states: torch.Tensor) -> torch.Tensor:
    """Take the larger of two values in both directions: `(W, C, S, K)` to `(W, C, S // 2, K // 2)`."""
    if not is_plain_scoring(hidden_states):
        return F.max_pool2d(hidden_states, 2)
    # In this layout the pooling takes ten times as long.
    height, width = hidden_states.shape[2] // 2 * 2, hidden_states.shape[3] // 2 * 2
    rows = torch.maximum(hidden_states[:, :, 0:height:2], hidden_states[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def fourier_filters(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part, `(size, size // 2 + 1)` each in float32, of the Fourier transform under a periodic Hann window."""
    sample, band = np.arange(size), np.arange(size // 2 + 1)
    angle = 2 * np.pi / size * (sample[:, None] * band % size)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample[:, None] / size)
    return (window * np.cos(angle)).astype(np.float32), (-window * np.sin(angle)).astype(np.float32)


def mel_filters(size: int, num_mel_bins: int, sampling_rate: int) -> np.ndarray:
    """Triangular filters on Slaney's scale up to half the rate, each of unit area: `(size // 2 + 1, num_mel_bins)`, float32.

    transformers' `mel_filter_bank` puts the highest bin at half the rate, but with an odd `size` that bin is lower.
    """
    bins = np.arange(size // 2 + 1) * sampling_rate / size
    edges = mel_to_hertz(
        np.linspace(hertz_to_mel(0.0, "slaney"), hertz_to_mel(sampling_rate / 2, "slaney"), num_mel_bins + 2), "slaney"
    )
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)
