"""The cross-domain trunk of MOSA-Net.

Paper:    Zezario et al., "Deep Learning-Based Non-Intrusive Multi-Objective Speech Assessment Model With Cross-Domain Features",
          IEEE/ACM TASLP 31, 2023, arXiv:2111.02363
Code:     https://github.com/dhimasryan/MOSA-Net-Cross-Domain, MOSA-Net_Cross_Domain.py, SincNet.py, Generate_PS_Feature.py
Differs:  batches, where the original takes one recording at a time: every row is computed as if it were alone, with its own
          length in the padding of the spectra, of every convolution and of the recurrence, in the attention and in the mean.
          The attention's scalar bias is left out: it adds the same number to every logit of a softmax and changes no score.
Shapes:   B batch, T samples, F frames, K frequency bins (and filters), C channels, D hidden size, L labels
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_sqa.blocks.precision import run_both_ways
from hf_sqa.models.mosa_net.sincnet import sinc_filters

#: Recordings that go through the convolutions together, each without padding. A processor's caches hold one; an accelerator
#: needs all of them, padded.
ROWS_PER_CALL = {"cpu": 1}
#: Convolutions in a block; the last of them keeps every third frequency bin.
CONVS_PER_BLOCK = 3
FREQUENCY_STRIDE = 3


class MagnitudeSpectrum(nn.Module):
    """Magnitude of the short-time spectrum, symmetric Hamming window, mirrored at both ends: what the original calls PS."""

    def __init__(self, fft_size: int, hop_samples: int):
        super().__init__()
        self.fft_size, self.hop_samples = fft_size, hop_samples
        # A NumPy attribute: from_pretrained leaves non-persistent buffers and tensors uninitialised.
        self._window = np.hamming(fft_size).astype(np.float32)

    def num_frames(self, num_samples: Any) -> Any:
        """Return the number of spectra for a number of samples: `1 + num_samples // hop_samples`."""
        return 1 + num_samples // self.hop_samples

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Map waveforms `(B, T)` in float32 with `lengths` `(B,)` to frames `(B, F, K)`; those beyond a row's end are padding."""
        margin = self.fft_size // 2
        if lengths is None:
            padded = F.pad(waveform, (margin, margin), mode="reflect")
        else:
            position = torch.arange(-margin, waveform.shape[1] + margin, device=waveform.device).abs()
            last = lengths[:, None] - 1
            padded = waveform.gather(1, torch.where(position > last, 2 * last - position, position).clamp(min=0))
        frames = padded.unfold(1, self.fft_size, self.hop_samples)  # (B, F, fft_size)
        window = torch.from_numpy(self._window).to(waveform.device)
        return torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(dim=-1).sqrt()


class SincFilterBank(nn.Module):
    """Fixed band-pass filters on a waveform, one value per filter and hop, padded as TensorFlow pads `"same"`: the LFB."""

    def __init__(self, num_filters: int, kernel_size: int, hop_samples: int, sampling_rate: int, edges: str):
        super().__init__()
        self.kernel_size, self.hop_samples = kernel_size, hop_samples
        self._filters = sinc_filters(num_filters, kernel_size, sampling_rate, edges)  # NumPy, for the same reason as above

    def num_frames(self, num_samples: Any) -> Any:
        """Return the number of frames for a number of samples: `num_samples / hop_samples`, rounded up."""
        return (num_samples + self.hop_samples - 1) // self.hop_samples

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Map waveforms `(B, T)` in float32 with `lengths` `(B,)` to frames `(B, F, K)`; those beyond a row's end are padding."""
        num_samples = waveform.shape[1]
        heard = (self.num_frames(num_samples) - 1) * self.hop_samples + self.kernel_size
        # Padded to the end of the last hop, the number of frames is a plain quotient, which exporters can reason about.
        spanned = heard + max(self.hop_samples - self.kernel_size, 0)
        if lengths is None:
            left = max(heard - num_samples, 0) // 2
            padded = F.pad(waveform, (left, spanned - num_samples - left))
        else:
            # The padding on the left depends on the length: each row is shifted by its own.
            total = (self.num_frames(lengths) - 1) * self.hop_samples + self.kernel_size - lengths
            position = torch.arange(spanned, device=waveform.device) - total.clamp(min=0)[:, None] // 2
            inside = (position >= 0) & (position < lengths[:, None])
            padded = waveform.gather(1, position.clamp(0, num_samples - 1)) * inside
        frames = padded.unfold(1, self.kernel_size, self.hop_samples)  # (B, F, kernel_size)
        return frames @ torch.from_numpy(self._filters).to(waveform.device).T


class ConvStack(GradientCheckpointingLayer):
    """Blocks of three 3×3 convolutions with ReLU, padded as TensorFlow pads `"same"`; each block keeps a third of the bins."""

    def __init__(self, channels: list[int] | tuple[int, ...], num_bins: int):
        super().__init__()
        sizes = [1, *(size for size in channels for _ in range(CONVS_PER_BLOCK))]
        steps = [1] * (CONVS_PER_BLOCK - 1) + [FREQUENCY_STRIDE]
        self.layers = nn.ModuleList(
            nn.Conv2d(size_in, size_out, 3, stride=(1, step), padding=(1, int(step == 1)))
            for size_in, size_out, step in zip(sizes, sizes[1:], steps * len(channels), strict=False)
        )
        self.frame_size = channels[-1] * num_bins_after(num_bins, len(channels))

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Map spectra `(B, F, K)` to frames `(B, F, K' * C)`, bins first; with `lengths`, every row must end in a padded frame."""
        batch_size = frames.shape[0]
        if not torch.compiler.is_exporting() and batch_size > ROWS_PER_CALL.get(frames.device.type, batch_size):
            row_lengths = [frames.shape[1]] * batch_size if lengths is None else lengths.tolist()
            rows = [self._one_call(row[None, :length]) for row, length in zip(frames, row_lengths, strict=True)]
            return torch.cat([F.pad(row, (0, 0, 0, frames.shape[1] - row.shape[1])) for row in rows])
        return self._one_call(frames, lengths)

    def _one_call(self, frames: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        hidden_states = _end_rows(frames[:, None], lengths)  # (B, 1, F, K)
        for index, layer in enumerate(self.layers):
            if index % CONVS_PER_BLOCK == CONVS_PER_BLOCK - 1:  # the convolution with a stride
                num_bins = hidden_states.shape[3]
                total = max((-(-num_bins // FREQUENCY_STRIDE) - 1) * FREQUENCY_STRIDE + 3 - num_bins, 0)
                hidden_states = F.pad(hidden_states, (total // 2, total - total // 2))  # TensorFlow pads the odd bin on the right
            hidden_states = F.relu(_end_rows(layer(hidden_states), lengths), inplace=True)
        return hidden_states.permute(0, 2, 3, 1).flatten(2)


class Frames(NamedTuple):
    """Frames of a padded batch."""

    hidden_states: torch.Tensor  # (B, F, D): features; those of padding are meaningless
    mask: torch.Tensor | None  # (B, F): `True` on real frames; `None` if all are real


class MOSATrunk(nn.Module):
    """Trunk from spectrum, filter bank and self-supervised features to one sequence of frames.

    The three follow one another in time and are not aligned: the spectrum and the filter bank go through the convolutions
    as one image, the self-supervised features through a linear layer, and one recurrence runs over all of them.
    """

    def __init__(self, config: Any, ssl_feature_size: int):
        super().__init__()
        num_bins = config.fft_size // 2 + 1
        self.spectrum = MagnitudeSpectrum(config.fft_size, config.hop_samples)
        self.filter_bank = SincFilterBank(
            num_bins, config.sinc_kernel_size, config.hop_samples, config.sampling_rate, config.sinc_edges
        )
        self.convolutions = ConvStack(config.conv_channels, num_bins)
        self.bottleneck = nn.Linear(ssl_feature_size, self.convolutions.frame_size)
        self.standardize_ssl_features = config.standardize_ssl_features
        if config.standardize_ssl_features:
            self.register_buffer("ssl_mean", torch.zeros(ssl_feature_size))
            self.register_buffer("ssl_deviation", torch.ones(ssl_feature_size))
        self.bottleneck_relu, self.smooth_ssl_features = config.bottleneck_relu, config.smooth_ssl_features
        self.forward_lstm = nn.LSTM(self.convolutions.frame_size, config.lstm_hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(self.convolutions.frame_size, config.lstm_hidden_size, batch_first=True)
        self.dense = nn.Linear(2 * config.lstm_hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def min_samples(self) -> int:
        """Samples the spectrum needs: one more than it mirrors."""
        return self.spectrum.fft_size // 2 + 1

    def forward(
        self,
        waveform: torch.Tensor,
        ssl_features: torch.Tensor,
        lengths: torch.Tensor | None = None,
        ssl_lengths: torch.Tensor | None = None,
    ) -> Frames:
        """Map waveforms `(B, T)` in float32, scaled as the spectrum should see them, and features `(B, F, D)` to frames.

        `lengths` and `ssl_lengths`, `(B,)` each, are each row's real samples and features: give both, or neither if all are real.
        """
        spectrum, filter_bank = self.spectrum(waveform, lengths), self.filter_bank(waveform, lengths)
        if lengths is None:
            return self.join(spectrum, filter_bank, ssl_features)
        frame_lengths = (self.spectrum.num_frames(lengths), self.filter_bank.num_frames(lengths), ssl_lengths)
        return self.join(spectrum, filter_bank, ssl_features, frame_lengths)

    def join(
        self,
        spectrum: torch.Tensor,
        filter_bank: torch.Tensor,
        ssl_features: torch.Tensor,
        lengths: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> Frames:
        """Join magnitudes `(B, F1, K)`, filter outputs `(B, F2, K)` and features `(B, F3, D)` to `F1 + F2 + F3` frames, in order.

        `lengths`, `(B,)` each, are the numbers of real frames of the three, all if not given; padding comes last.
        """
        spectrum_lengths, filter_bank_lengths, ssl_lengths = lengths or (None, None, None)
        image = lay_end_to_end(spectrum, filter_bank, spectrum_lengths)  # (B, F1 + F2, K)
        image_lengths = None
        if lengths is not None:
            image = F.pad(image, (0, 0, 0, 1))
            image_lengths = spectrum_lengths + filter_bank_lengths
        conv_frames = self.convolutions(image.to(self.dense.weight.dtype), image_lengths)  # (B, F1 + F2, C')
        ssl_frames = self._narrow(ssl_features.to(self.dense.weight.dtype), ssl_lengths)  # (B, F3, C')
        sequence = lay_end_to_end(conv_frames, ssl_frames, image_lengths)  # (B, F, C')
        sequence_lengths = None if lengths is None else image_lengths + ssl_lengths
        mask = None
        if lengths is not None:
            mask = torch.arange(sequence.shape[1], device=sequence.device) < sequence_lengths[:, None]
        recurrent = run_both_ways(self.forward_lstm, self.backward_lstm, sequence, sequence_lengths)
        return Frames(self.dropout(F.relu(self.dense(recurrent))), mask)

    def _narrow(self, ssl_features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if self.standardize_ssl_features:
            ssl_features = (ssl_features - self.ssl_mean) / self.ssl_deviation
        if self.smooth_ssl_features:
            # Mean of a frame and the next; the last frame of a row has no next.
            following = torch.cat([ssl_features[:, 1:], ssl_features[:, -1:]], dim=1)
            if lengths is not None:
                position = torch.arange(ssl_features.shape[1], device=ssl_features.device)
                following = torch.where((position == lengths[:, None] - 1)[..., None], ssl_features, following)
            ssl_features = (ssl_features + following) / 2
        narrowed = self.bottleneck(ssl_features)
        return F.relu(narrowed) if self.bottleneck_relu else narrowed


def num_bins_after(num_bins: int, num_blocks: int) -> int:
    """Return the number of frequency bins left after a number of blocks of convolutions."""
    for _ in range(num_blocks):
        num_bins = -(-num_bins // FREQUENCY_STRIDE)
    return num_bins


def peak_normalize(waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Divide every row of `(B, T)` by its largest magnitude, in float32; digital silence stays as it is, padding becomes 0."""
    waveform = waveform.float()
    if lengths is not None:
        waveform = torch.where(torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None], waveform, 0.0)
    peak = waveform.abs().amax(dim=1, keepdim=True)
    return waveform / torch.where(peak > 0, peak, 1.0)


def lay_end_to_end(first: torch.Tensor, second: torch.Tensor, first_lengths: torch.Tensor | None) -> torch.Tensor:
    """Join each row's `first_lengths` real frames of `first` `(B, F1, D)`, all of `second` `(B, F2, D)`, and padding."""
    both = torch.cat([first, second], dim=1)
    if first_lengths is None:
        return both
    position = torch.arange(both.shape[1], device=both.device)
    behind = (position - first_lengths[:, None] + first.shape[1]).clamp(max=both.shape[1] - 1)
    index = torch.where(position < first_lengths[:, None], position, behind)
    return both.gather(1, index[..., None].expand(-1, -1, both.shape[2]))


def _end_rows(image: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Zero the frame after each row's last in `(B, C, F, K)`: all that a kernel of three frames sees beyond the end."""
    if lengths is not None:
        image[torch.arange(image.shape[0], device=image.device), :, lengths] = 0.0
    return image
