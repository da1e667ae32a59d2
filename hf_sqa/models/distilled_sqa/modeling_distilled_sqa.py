"""Distill-MOS: a convolutional transformer that learned its judgement from XLS-R-SQA.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Code:     https://github.com/microsoft/Distill-MOS, distillmos/sqa.py (MIT)
Weights:  Distill-MOS v7, inside the PyPI package `distillmos`, MIT
Differs:  one window at a time instead of all stacked; spectra are laid out time first, so that a stretch of time is one piece of
          memory; batch norms are folded in evaluation; frames of pure padding are computed once; a mode `fast` shares convolutions
          between overlapping windows. Mode `published` gives the original's scores to rounding.
Shapes:   B batch, T samples, W windows, S spectra, K bins, C channels, F frames, D hidden size, L labels
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.utils import can_return_tuple, is_torchdynamo_exporting

from hf_sqa.audio import Recording
from hf_sqa.blocks.sqa_transformer import SinusoidalPositions, SQATransformer
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig
from hf_sqa.models.distilled_sqa.pruning_distilled_sqa import DistilledLayout
from hf_sqa.outputs import AudioQualityOutput, RecordingScores

#: Lower edge of the lowest mel band, in Hz, and the power added to every band: about -90 dB below speech at full scale.
LOWEST_MEL_HZ, MEL_FLOOR = 50.0, 1e-6
#: Of a band that never changes, such as one above the bandwidth of all recordings.
LEAST_BAND_DEVIATION = 1e-3
#: Windows that go through the network together. A processor's caches hold one; an accelerator wants many.
WINDOWS_PER_CALL = {"cpu": 1}
WINDOWS_PER_CALL_ELSEWHERE = 32


class CompressedSpectrum(nn.Module):
    """Complex short-time spectrum whose magnitude is raised to a power; real and imaginary part as two channels."""

    def __init__(self, config: DistilledSQAConfig):
        super().__init__()
        self.fft_size, self.hop_samples, self.compression = config.fft_size, config.fft_hop_samples, config.compression
        # A NumPy attribute: from_pretrained leaves non-persistent buffers and tensors uninitialised. Torch's own window: NumPy's
        # differs in the last bit, which the compression of near-empty bins turns into 1e-4 MOS.
        self._hann = torch.hann_window(self.fft_size, dtype=torch.float32, device="cpu").numpy()

    @property
    def hann(self) -> np.ndarray:
        """Window of every spectrum, `(fft_size,)`."""
        return self._hann

    @property
    def margin(self) -> int:
        """Samples that the first and the last spectrum reach beyond the window."""
        return (self.fft_size - self.hop_samples) // 2

    def forward(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` of shape `(B, T)`): In float32.
            reflect (`tuple[bool, bool]`): Whether the waveform begins, or ends, at the edge of a window and is mirrored there;
                elsewhere it brings its margin along.

        Returns:
            `torch.Tensor` of shape `(B, 2, S, K)`, in channels-last memory.
        """
        spectrum = self.complex_spectrum(waveform, reflect)
        power = spectrum.square().sum(dim=-1, keepdim=True)
        # magnitude ** compression / magnitude, with the magnitude clipped at 1e-12 as in the original
        spectrum = spectrum * power.clamp(min=1e-24) ** ((self.compression - 1) / 2)
        return spectrum.permute(0, 3, 1, 2)

    def complex_spectrum(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """Spectra before compression, real and imaginary part last: `(B, S, K, 2)`."""
        pad = [self.margin if side else 0 for side in reflect]
        if any(pad):
            waveform = F.pad(waveform, pad, mode="reflect")
        if is_torchdynamo_exporting():
            return self._spectrum_by_convolution(waveform)
        frames = waveform.unfold(1, self.fft_size, self.hop_samples)  # (B, S, T')
        window = torch.from_numpy(self._hann).to(waveform.device)
        return torch.view_as_real(torch.fft.rfft(frames * window))

    def _spectrum_by_convolution(self, waveform: torch.Tensor) -> torch.Tensor:
        """The same by a fixed convolution, for graphs: there, cutting frames takes a table larger than a small student."""
        sample, bin_ = np.arange(self.fft_size), np.arange(self.fft_size // 2 + 1)
        angle = 2 * np.pi / self.fft_size * (bin_[:, None] * sample % self.fft_size)  # (K, T')
        filters = np.concatenate([np.cos(angle), -np.sin(angle)]) * self._hann.astype(np.float64)
        kernel = torch.from_numpy(filters[:, None].astype(np.float32)).to(waveform.device)  # (2 * K, 1, T')
        spectrum = F.conv1d(waveform[:, None], kernel, stride=self.hop_samples)  # (B, 2 * K, S)
        return spectrum.unflatten(1, (2, len(bin_))).permute(0, 3, 2, 1)


class MelSpectrum(CompressedSpectrum):
    """Magnitude in bands on the mel scale, raised to a power and, if asked for, each band on one scale; one channel."""

    band_mean: torch.Tensor
    band_deviation: torch.Tensor

    def __init__(self, config: DistilledSQAConfig):
        super().__init__(config)
        bands = mel_filter_bank(
            config.fft_size // 2 + 1,
            config.num_mel_bins,
            min_frequency=LOWEST_MEL_HZ,
            max_frequency=config.sampling_rate / 2,
            sampling_rate=config.sampling_rate,
        )
        self._bands = (bands / bands.sum(axis=0)).astype(np.float32)  # (K, bands): mean power in each
        self.normalize_bands = config.normalize_bands
        if self.normalize_bands:
            self.register_buffer("band_mean", torch.zeros(config.num_mel_bins))
            self.register_buffer("band_deviation", torch.ones(config.num_mel_bins))

    def forward(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """As for [`CompressedSpectrum`], with shape `(B, 1, S, K)`."""
        bands = self.bands(waveform, reflect)
        if self.normalize_bands:
            bands = (bands - self.band_mean) / self.band_deviation
        return bands[:, None]

    def bands(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """Bands on the scale they come in, `(B, S, K)`."""
        power = self.complex_spectrum(waveform, reflect).square().sum(dim=-1)  # (B, S, K')
        with torch.autocast(power.device.type, enabled=False):
            bands = power @ torch.from_numpy(self._bands).to(power.device)
        # The published compression clips magnitudes at 1e-12; here near silence is silence, and the gradient is finite.
        return (bands + MEL_FLOOR) ** (self.compression / 2)


class ConvTrunk(nn.Module):
    """Strided convolutions over the spectrum. Time is padded with zeros by one step a layer, frequency is not."""

    def __init__(self, config: DistilledSQAConfig):
        super().__init__()
        channels = [1 if config.num_mel_bins else 2, *config.conv_channels]
        separate = [config.separable_convs and index > 0 for index in range(config.num_conv_layers)]
        self.layers = nn.ModuleList(
            nn.Conv2d(
                channels[i],
                channels[i] if separate[i] else channels[i + 1],
                3,
                stride=stride,
                groups=channels[i] if separate[i] else 1,
            )
            for i, stride in enumerate(config.conv_strides)
        )
        #: By number of the layer: what mixes the channels after a filter for each.
        self.mixes = nn.ModuleDict(
            {str(i): nn.Conv2d(channels[i], channels[i + 1], 1) for i in range(len(separate)) if separate[i]}
        )
        self.slope = config.leaky_relu_slope
        self.spectra_per_frame = config.spectra_per_frame

    @property
    def reach(self) -> int:
        """Spectra to either side that one output frame depends on."""
        reach, step = 0, 1
        for layer in self.layers:
            reach, step = reach + step, step * layer.stride[0]
        return reach

    @property
    def can_share(self) -> bool:
        """Whether windows may share convolutions: in the published form, where the last layer alone has a step in time."""
        return not self.mixes and [layer.stride[0] for layer in self.layers] == [1] * (len(self.layers) - 1) + [2]

    def forward(self, spectra: torch.Tensor, pad: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """
        Args:
            spectra (`torch.Tensor` of shape `(B, 2, S, K)`): Compressed spectra.
            pad (`tuple[bool, bool]`): Whether the stretch begins, or ends, at the edge of a window, where every layer pads zeros;
                elsewhere only frames with all their context are computed.

        Returns:
            `torch.Tensor` of shape `(B, F, K * C)`.
        """
        hidden_states = spectra.to(self.layers[0].weight.dtype)
        for index, layer in enumerate(self.layers):
            hidden_states = self.convolve(layer, hidden_states, pad)
            if str(index) in self.mixes:
                hidden_states = self.mixes[str(index)](hidden_states)
            # One channel in leaves the layout open; channels last, the layers after it take half the time on a CPU.
            hidden_states = self.activation(hidden_states.contiguous(memory_format=torch.channels_last))
        return self.flatten(hidden_states)

    def convolve(self, layer: nn.Conv2d, hidden_states: torch.Tensor, pad: tuple[bool, bool]) -> torch.Tensor:
        """One convolution, with zeros in time on the sides asked for."""
        symmetric = pad[0] == pad[1]
        if not symmetric:
            hidden_states = F.pad(hidden_states, (0, 0, int(pad[0]), int(pad[1])))
        return F.conv2d(hidden_states, layer.weight, layer.bias, layer.stride, (int(symmetric and pad[0]), 0), groups=layer.groups)

    def activation(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Leaky ReLU, in place where no gradient needs the input."""
        return F.leaky_relu(hidden_states, self.slope, inplace=not torch.is_grad_enabled())

    @staticmethod
    def flatten(hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, C, F, K)` to float32 `(B, F, K * C)`; a view of channels-last memory."""
        return hidden_states.permute(0, 2, 3, 1).flatten(2).float()


class TrunkStream:
    """Runs the trunk along a stretch of audio without recomputing: every layer keeps its last inputs.

    Only frames with all their context come out, the same that every window in the middle of which they lie would see.
    """

    def __init__(self, trunk: ConvTrunk):
        self._trunk = trunk
        self._carried: list[torch.Tensor | None] = [None] * len(trunk.layers)

    def extend(self, spectra: torch.Tensor) -> torch.Tensor:
        """Take the next spectra `(1, 2, S, K)`, return the frames they complete, `(1, F, K * C)`.

        The first call needs at least `2 * reach + 1` spectra, the others an even number.
        """
        trunk = self._trunk
        hidden_states = spectra.to(trunk.layers[0].weight.dtype)
        for index, layer in enumerate(trunk.layers):
            carried, stride = self._carried[index], layer.stride[0]
            if carried is not None:
                hidden_states = torch.cat([carried, hidden_states], dim=2)
            used = ((hidden_states.shape[2] - 3) // stride + 1) * stride
            self._carried[index] = hidden_states[:, :, used:].clone(memory_format=torch.channels_last)
            hidden_states = trunk.activation(trunk.convolve(layer, hidden_states, (False, False)))
        return trunk.flatten(hidden_states)


class SharedFrames:
    """Frames of overlapping windows on the grid of the trunk, each convolution done once (mode `fast`).

    Two windows share a frame if it lies well inside both and both are divided by the same peak. The frames at the edges of a window
    see zeros and mirrored samples, so they are redone for each window.
    """

    def __init__(self, model: DistilledSQA):
        self._spectrum, self._trunk = model.spectrum, model.trunk
        self._hop = model.config.fft_hop_samples
        self._num_spectra, self._num_frames = model.config.num_spectra, model.config.num_frames
        reach = self._trunk.reach
        self._num_left, self._num_right = reach // 2 + 1, (reach + 1) // 2
        self._num_inner = self._num_frames - self._num_left - self._num_right
        self._stream: TrunkStream | None = None
        self._peak, self._start = -1.0, 0
        self._inner = torch.zeros(0)

    @property
    def can_share(self) -> bool:
        """Whether a window has frames that see neither of its edges, and the trunk has the published form."""
        return self._num_inner > 0 and self._trunk.can_share

    def frames(self, window: torch.Tensor, start: int) -> torch.Tensor:
        """Trunk output `(1, F, K * C)` of the window `(1, T)` that starts at sample `start`, a multiple of two hops."""
        peak = float(window.abs().max())
        window = window / (peak + 1e-8)
        step = (start - self._start) // self._hop  # spectra
        if self._stream is not None and peak == self._peak and step // 2 < self._num_inner:
            new = self._stream.extend(self._spectra(window, self._num_spectra - 1 - step, self._num_spectra - 1))
            self._inner = torch.cat([self._inner[:, step // 2 :], new], dim=1)
        else:
            self._stream = TrunkStream(self._trunk)
            first = 2 * self._num_left - self._trunk.reach
            self._inner = self._stream.extend(self._spectra(window, first, self._num_spectra - 1))
        self._peak, self._start = peak, start
        return torch.cat([self._left_edge(window), self._inner, self._right_edge(window)], dim=1)

    def _spectra(self, window: torch.Tensor, first: int, end: int) -> torch.Tensor:
        margin = self._spectrum.margin
        return self._spectrum(window[:, first * self._hop - margin : end * self._hop + margin], reflect=(False, False))

    def _left_edge(self, window: torch.Tensor) -> torch.Tensor:
        num_spectra = 2 * (self._num_left - 1) + self._trunk.reach + 1
        piece = window[:, : num_spectra * self._hop + self._spectrum.margin]
        return self._trunk(self._spectrum(piece, reflect=(True, False)), pad=(True, False))

    def _right_edge(self, window: torch.Tensor) -> torch.Tensor:
        first = self._num_spectra - 2 * self._num_right - self._trunk.reach
        piece = window[:, first * self._hop - self._spectrum.margin :]
        return self._trunk(self._spectrum(piece, reflect=(False, True)), pad=(False, True))


class DistilledSQA(AudioQualityPreTrainedModel):
    """Distill-MOS and its smaller relatives: speech quality from one network of a few million weights or less.

    Modes:
        `published`: window starts of the original, equally spaced over the recording. Its scores to rounding.
        `fast`: starts rounded to the grid of the convolutions (20 ms), so that overlapping windows share them. Up to 20 ms at the
            end of a recording are not seen. In forms other than the published, nothing is shared.
    """

    config: DistilledSQAConfig
    config_class = DistilledSQAConfig
    modes = ("published", "fast")
    # In bfloat16 throughout the error is 0.03 MOS, with the transformer in float32 0.006.
    _keep_in_fp32_modules_strict = ["transformer", "spectrum"]

    def __init__(self, config: DistilledSQAConfig):
        super().__init__(config)
        self.spectrum = MelSpectrum(config) if config.num_mel_bins else CompressedSpectrum(config)
        self.trunk = ConvTrunk(config)
        self.transformer = SQATransformer(
            input_size=config.conv_channels[-1] * config.conv_num_bins,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_heads_by_layer,
            intermediate_size=config.intermediate_size_by_layer,
            num_frames=config.num_frames,
            num_labels=config.num_labels,
            dropout=config.dropout,
            head_size=config.head_size,
            pooling_size=config.pooling_size or config.intermediate_size,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SinusoidalPositions):
            module.reset_parameters()
        elif isinstance(module, MelSpectrum) and module.normalize_bands:
            init.zeros_(module.band_mean)
            init.ones_(module.band_deviation)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=self.config.leaky_relu_slope)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)

    @property
    def window_samples(self) -> int:
        """See [`AudioQualityPreTrainedModel.window_samples`]."""
        return self.config.window_samples

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """See [`AudioQualityPreTrainedModel.fine_tuning_defaults`]; by the experiments in docs/finetune.md."""
        norms = ("feature_norm", "projection_norm", "projection", "pooling_norm")
        names = [*norms, *(f"layers.{layer}" for layer in range(max(self.config.num_hidden_layers - 2, 0)))]
        return FineTuningDefaults(("trunk", *(f"transformer.{name}" for name in names)), learning_rate=3e-4, epochs=6)

    def pruning_layout(self) -> DistilledLayout:
        """See [`AudioQualityPreTrainedModel.pruning_layout`]."""
        return DistilledLayout(self)

    @property
    def needs_bands(self) -> bool:
        """Whether mean and deviation of the mel bands are still those of a new model, which [`measure_bands`] takes."""
        spectrum = self.spectrum
        if not (isinstance(spectrum, MelSpectrum) and spectrum.normalize_bands):
            return False
        return not spectrum.band_mean.any() and bool((spectrum.band_deviation == 1).all())

    @torch.no_grad()
    def measure_bands(self, windows: Iterable[np.ndarray]) -> None:
        """Take mean and deviation of every mel band from windows, so that training begins with bands on one scale.

        Args:
            windows (iterable of `np.ndarray`): Waveforms `(T,)`, longer ones cut after a window. Each is scaled to its peak.

        Raises:
            ValueError: If the configuration has no `normalize_bands`, or there are no windows.
        """
        if not (isinstance(self.spectrum, MelSpectrum) and self.spectrum.normalize_bands):
            raise ValueError("Expected a configuration with `normalize_bands=True`.")
        moments = []
        for window in windows:
            row = torch.from_numpy(window[: self.config.window_samples]).float()
            row = F.pad(row, (0, self.config.window_samples - len(row)))
            bands = self.spectrum.bands((row / (row.abs().amax() + 1e-8)).to(self.device)[None])[0].double()  # (S, K)
            moments.append(torch.stack([bands.mean(dim=0), bands.square().mean(dim=0)]))
        if not moments:
            raise ValueError("Expected windows to measure, got none.")
        mean, square = torch.stack(moments).mean(dim=0)
        self.spectrum.band_mean.copy_(mean)
        self.spectrum.band_deviation.copy_((square - mean.square()).clamp(min=LEAST_BAND_DEVIATION**2).sqrt())

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Windows `(W, window_samples)`: cutting a recording into windows, and averaging their scores, stay outside the graph."""
        windows = 0.1 * torch.randn(2, self.config.window_samples, generator=torch.Generator().manual_seed(0))
        return {"input_values": (windows, (0,))}

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz, any length, any gain.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` in label units: the mean over the windows of each row.
        """
        if input_values.dim() != 2 or input_values.shape[1] < 1:
            raise ValueError(
                f"Expected `input_values` of shape (batch_size, num_samples) with at least one sample, got "
                f"{tuple(input_values.shape)}."
            )
        if attention_mask is None and input_values.shape[1] == self.config.window_samples:
            logits = self.score_windows(input_values)  # (B, L)
        else:
            logits = torch.stack(
                [
                    self._score_row(row[:length])
                    for row, length in zip(input_values, _lengths(input_values, attention_mask), strict=True)
                ]
            )
        return AudioQualityOutput(loss=self.compute_loss(logits, labels), logits=logits)

    def encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Features of recordings, for a model that has this one as its speech encoder; see `hf_sqa.blocks.speech_encoder`.

        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms, any length, any gain.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.

        Returns:
            `torch.Tensor` of shape `(B, F, D)`: What the pooling sees, a frame for every `window_samples // num_frames` samples
            begun. Windows lie one behind the other, the last is filled up with zeros; frames of padding are 0.
        """
        lengths = _lengths(input_values, attention_mask)
        window_samples, num_frames = self.config.window_samples, self.config.num_frames
        pieces = [piece for row, length in zip(input_values, lengths, strict=True) for piece in row[:length].split(window_samples)]
        encoded: list[torch.Tensor] = []
        for first in range(0, len(pieces), self._windows_per_call):
            windows = nn.utils.rnn.pad_sequence(pieces[first : first + self._windows_per_call], batch_first=True).float()
            peak = windows.abs().amax(dim=1, keepdim=True)
            frames = self._frames(windows / (peak + 1e-8)).to(self.transformer.projection.weight.dtype)
            encoded.extend(self.transformer.encode(frames))
        rows = []
        for length in lengths:
            num_windows = -(-length // window_samples)
            own, encoded = encoded[:num_windows], encoded[num_windows:]
            rows.append(torch.cat(own)[: -(-length * num_frames // window_samples)])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _score_row(self, waveform: torch.Tensor) -> torch.Tensor:
        """Score one waveform `(T,)`: mean over its windows, `(L,)`."""
        length = self.config.window_samples
        starts = self.window_starts(len(waveform)).tolist()
        windows_per_call = len(starts) if torch.is_grad_enabled() else self._windows_per_call
        scores = []
        for first in range(0, len(starts), windows_per_call):
            windows = [waveform[start : start + length] for start in starts[first : first + windows_per_call]]
            scores.append(self.score_windows(torch.stack(windows)))
        return torch.cat(scores).mean(dim=0)

    def score_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Score windows `(W, T)`, each on its own; windows shorter than `window_samples` count as followed by zeros.

        Returns:
            `torch.Tensor` of shape `(W, L)`, in label units.
        """
        windows = windows.float()
        peak = windows.abs().amax(dim=1, keepdim=True)
        return self._score_frames(self._frames(windows / (peak + 1e-8)))

    def _score_frames(self, frames: torch.Tensor) -> torch.Tensor:
        raw = self.transformer(frames.to(self.transformer.projection.weight.dtype)).float()
        return self.config.score_min + (self.config.score_max - self.config.score_min) * torch.sigmoid(raw)

    def _frames(self, windows: torch.Tensor) -> torch.Tensor:
        """Trunk output `(W, F, K * C)` of normalised windows `(W, T)`.

        Silence gives the same frame everywhere but at the edges, so of the zeros that fill up a short window only as many are
        computed as the edges need.
        """
        num_frames, reach, hop = self.config.num_frames, self.trunk.reach, self.config.fft_hop_samples
        step = self.trunk.spectra_per_frame
        num_spectra_with_signal = -(-(windows.shape[1] + self.spectrum.margin) // hop)
        first_constant = -(-(num_spectra_with_signal + reach) // step)
        num_computed = min(num_frames, first_constant + 1 + reach // step)
        windows = F.pad(windows, (0, step * num_computed * hop - windows.shape[1]))
        frames = self.trunk(self.spectrum(windows))
        if num_computed == num_frames:
            return frames
        constant = frames[:, first_constant : first_constant + 1].expand(-1, num_frames - num_computed, -1)
        return torch.cat([frames[:, :first_constant], constant, frames[:, first_constant:]], dim=1)

    @property
    def _windows_per_call(self) -> int:
        return WINDOWS_PER_CALL.get(self.device.type, WINDOWS_PER_CALL_ELSEWHERE)

    def window_starts(self, num_samples: int, mode: str = "published", hop_seconds: float | None = None) -> np.ndarray:
        """First sample of every window of a recording, ascending, the first 0.

        Args:
            num_samples (`int`): Length of the recording.
            mode (`str`, *optional*, defaults to `"published"`): One of `modes`.
            hop_seconds (`float`, *optional*): Largest distance between starts; `hop_samples` of the configuration if not given.
        """
        hop_samples = self.config.hop_samples if hop_seconds is None else hop_seconds * self.config.sampling_rate
        over = max(0, num_samples - self.config.window_samples)
        starts = (np.linspace(0, 1, int(np.ceil(over / hop_samples)) + 1) * over).astype(np.int64)
        if mode == "fast":
            grid = self.config.spectra_per_frame * self.config.fft_hop_samples
            starts = np.unique(np.minimum((starts + grid // 2) // grid, over // grid) * grid)
        return starts

    def check_scoring_options(self, mode: str, hop_seconds: float | None) -> None:
        super().check_scoring_options(mode, None)
        longest = self.config.window_samples / self.config.sampling_rate
        if hop_seconds is not None and not (isinstance(hop_seconds, Real) and 0.05 <= hop_seconds <= longest):
            raise ValueError(
                f"Expected `hop_seconds` between 0.05 and {longest} (the length of a window: larger hops leave gaps), got "
                f"{hop_seconds!r}."
            )

    @torch.inference_mode()
    def score_recordings(
        self,
        recordings: Sequence[Recording],
        feature_extractor: Any = None,
        *,
        mode: str = "published",
        hop_seconds: float | None = None,
    ) -> list[RecordingScores]:
        """Score recordings of any length window by window; see [`AudioQualityPreTrainedModel.score_recordings`]."""
        self.check_scoring_options(mode, hop_seconds)
        all_starts = [self.window_starts(recording.num_samples, mode, hop_seconds) for recording in recordings]
        score = self._score_published if mode == "published" else self._score_fast
        scores = torch.cat(list(score(recordings, all_starts))).cpu().numpy()
        results = []
        for recording, starts in zip(recordings, all_starts, strict=True):
            own, scores = scores[: len(starts)], scores[len(starts) :]
            ends = np.minimum(starts + self.config.window_samples, recording.num_samples)
            results.append(RecordingScores(own.mean(axis=0, dtype=np.float64), starts, ends, own))
        return results

    def _score_published(self, recordings: Sequence[Recording], all_starts: list[np.ndarray]) -> Iterator[torch.Tensor]:
        """Score the windows of all recordings in order, several at a time where the device gains from it."""
        waiting: list[torch.Tensor] = []
        for recording, starts in zip(recordings, all_starts, strict=True):
            for window in recording.windows(starts.tolist(), self.config.window_samples):
                waiting.append(torch.from_numpy(window))
                if len(waiting) == self._windows_per_call:
                    yield self._score_waiting(waiting)
                    waiting = []
        if waiting:
            yield self._score_waiting(waiting)

    def _score_waiting(self, windows: list[torch.Tensor]) -> torch.Tensor:
        longest = max(len(window) for window in windows)
        return self.score_windows(torch.stack([F.pad(window, (0, longest - len(window))) for window in windows]).to(self.device))

    def _score_fast(self, recordings: Sequence[Recording], all_starts: list[np.ndarray]) -> Iterator[torch.Tensor]:
        for recording, starts in zip(recordings, all_starts, strict=True):
            shared = SharedFrames(self)
            for start, window in zip(starts.tolist(), recording.windows(starts.tolist(), self.config.window_samples), strict=True):
                tensor = torch.from_numpy(window)[None].to(self.device)
                if len(window) < self.config.window_samples or not shared.can_share:
                    yield self.score_windows(tensor)
                else:
                    yield self._score_frames(shared.frames(tensor, start))


def _lengths(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> list[int]:
    if attention_mask is None:
        return [input_values.shape[1]] * len(input_values)
    lengths = attention_mask.sum(dim=1).tolist()
    if min(lengths) < 1:
        raise ValueError(f"Expected at least one sample in every row, got rows of {lengths} samples by `attention_mask`.")
    return [int(length) for length in lengths]
