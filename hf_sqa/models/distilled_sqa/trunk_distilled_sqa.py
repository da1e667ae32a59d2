"""The layers of DistilledSQA before its transformer: spectra, strided convolutions, and frames that overlapping windows share.

Shapes:   B batch, T samples, S spectra, K bins, C channels, F frames
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import is_torchdynamo_exporting

from hf_sqa.blocks.layers import is_plain
from hf_sqa.blocks.mel_bands import mean_power_bands
from hf_sqa.blocks.winograd import TILE_ROWS, Memory, conv_along_rows, row_filters
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig

#: Lower edge of the lowest mel band in Hz, and the power added to every band, about 90 dB below speech at full scale.
LOWEST_MEL_HZ, MEL_FLOOR = 50.0, 1e-6
#: In mode `fast`, windows whose peaks differ by at most this factor, 2 dB, are divided by the same peak. This hardly adds to the
#: mode's error, most of which comes from starts on a grid, and where the peak often changes it saves most convolutions.
PEAK_TOLERANCE = 1.26
#: Spectra that go through all layers of the published form together on a processor: their 64 channels fit its caches.
SPECTRA_PER_CALL = 192


class CompressedSpectrum(nn.Module):
    """Complex short-time spectrum whose magnitude is raised to a power; real and imaginary part as two channels."""

    def __init__(self, config: DistilledSQAConfig):
        super().__init__()
        self.fft_size, self.hop_samples, self.compression = config.fft_size, config.fft_hop_samples, config.compression
        # A NumPy attribute: from_pretrained leaves non-persistent buffers and tensors uninitialised. The window is torch's: NumPy's
        # differs in the last bit, which the compression of near-empty bins turns into 1e-4 MOS.
        self.hann = torch.hann_window(self.fft_size, dtype=torch.float32, device="cpu").numpy()

    @property
    def margin(self) -> int:
        """Samples that the first and the last spectrum reach beyond the window."""
        return (self.fft_size - self.hop_samples) // 2

    def forward(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """Map waveforms `(B, T)` in float32 to spectra `(B, 2, S, K)`, in channels-last memory.

        `reflect` says whether the waveform begins and whether it ends at the edge of a window, where it is mirrored; elsewhere it
        must include its margin.
        """
        spectrum = self.complex_spectrum(waveform, reflect)
        parts = spectrum.square()
        power = parts[..., :1] + parts[..., 1:]
        # magnitude ** compression / magnitude, with the magnitude clipped at 1e-12 as in the original
        spectrum = spectrum * power.clamp(min=1e-24) ** ((self.compression - 1) / 2)
        return spectrum.permute(0, 3, 1, 2)

    def complex_spectrum(self, waveform: torch.Tensor, reflect: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """Return the spectra before compression, real and imaginary part last: `(B, S, K, 2)`."""
        pad = [self.margin if side else 0 for side in reflect]
        if any(pad):
            waveform = F.pad(waveform, pad, mode="reflect")
        if is_torchdynamo_exporting():
            return self._spectrum_by_convolution(waveform)
        frames = waveform.unfold(1, self.fft_size, self.hop_samples)  # (B, S, T')
        window = torch.from_numpy(self.hann).to(waveform.device)
        return torch.view_as_real(torch.fft.rfft(frames * window))

    def _spectrum_by_convolution(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the same by a fixed convolution, for ONNX, where cutting frames would need a table larger than a small student."""
        sample, bin_ = np.arange(self.fft_size), np.arange(self.fft_size // 2 + 1)
        angle = 2 * np.pi / self.fft_size * (bin_[:, None] * sample % self.fft_size)  # (K, T')
        filters = np.concatenate([np.cos(angle), -np.sin(angle)]) * self.hann.astype(np.float64)
        kernel = torch.from_numpy(filters[:, None].astype(np.float32)).to(waveform.device)  # (2 * K, 1, T')
        spectrum = F.conv1d(waveform[:, None], kernel, stride=self.hop_samples)  # (B, 2 * K, S)
        return spectrum.unflatten(1, (2, len(bin_))).permute(0, 3, 2, 1)


class MelSpectrum(CompressedSpectrum):
    """Magnitude in mel bands, raised to a power, as one channel; `normalize_bands` gives every band mean 0 and deviation 1."""

    band_mean: torch.Tensor
    band_deviation: torch.Tensor

    def __init__(self, config: DistilledSQAConfig):
        super().__init__(config)
        self._bands = mean_power_bands(config.fft_size, config.num_mel_bins, config.sampling_rate, LOWEST_MEL_HZ)  # (K, bands)
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
        """Return the bands before normalisation, `(B, S, K)`."""
        parts = self.complex_spectrum(waveform, reflect).square()
        power = parts[..., 0] + parts[..., 1]  # torch's own sum over two takes seven times as long
        with torch.autocast(power.device.type, enabled=False):
            bands = power @ torch.from_numpy(self._bands).to(power.device)
        # The published compression clips magnitudes at 1e-12; here near silence is silence, and the gradient is finite.
        return (bands + MEL_FLOOR) ** (self.compression / 2)


class ConvTrunk(nn.Module):
    """Strided convolutions over the spectrum. Every layer pads time with one zero on either side, and does not pad frequency."""

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
        #: By the layer's number, the convolution that mixes the channels of a separable convolution.
        self.mixes = nn.ModuleDict(
            {str(i): nn.Conv2d(channels[i], channels[i + 1], 1) for i in range(len(separate)) if separate[i]}
        )
        self.strides = tuple(config.conv_strides)
        self.slope = config.leaky_relu_slope
        self.spectra_per_frame = config.spectra_per_frame

    @property
    def reach(self) -> int:
        """Spectra on either side that one output frame depends on."""
        reach, step = 0, 1
        for stride, _ in self.strides:
            reach, step = reach + step, step * stride
        return reach

    @property
    def can_share(self) -> bool:
        """Whether windows may share convolutions: only in the published form, where the last layer alone has a stride in time."""
        return not self.mixes and [stride for stride, _ in self.strides] == [1] * (len(self.layers) - 1) + [2]

    def row_filters(self) -> list[torch.Tensor | None]:
        """Return, for every layer, the filters for faster scoring on a processor; see `hf_sqa.blocks.winograd`."""
        return [row_filters(layer) for layer in self.layers]

    def forward(self, spectra: torch.Tensor, pad: tuple[bool, bool] = (True, True)) -> torch.Tensor:
        """Map compressed spectra `(B, 2, S, K)` to frames `(B, F, K * C)`.

        `pad` says whether the stretch begins and whether it ends at the edge of a window, where every layer pads zeros; elsewhere
        only frames with complete context are computed.
        """
        filters = self.row_filters() if self.can_share else []
        if any(filter_ is not None for filter_ in filters):
            return TrunkStream(self, filters, pad[0]).extend(spectra, pad[1])
        hidden_states = spectra.to(self.layers[0].weight.dtype)
        for index, layer in enumerate(self.layers):
            hidden_states = self.convolve(layer, hidden_states, pad)
            if str(index) in self.mixes:
                hidden_states = self.mixes[str(index)](hidden_states)
            # With one input channel the layout is ambiguous; with channels last, the following layers take half the time on a CPU.
            hidden_states = self.activation(hidden_states.contiguous(memory_format=torch.channels_last))
        return self.flatten(hidden_states)

    def convolve(self, layer: nn.Conv2d, hidden_states: torch.Tensor, pad: tuple[bool, bool]) -> torch.Tensor:
        """Run one convolution, with zeros in time on the given sides."""
        symmetric = pad[0] == pad[1] and is_plain(layer)
        if not symmetric:
            hidden_states = F.pad(hidden_states, (0, 0, int(pad[0]), int(pad[1])))
        if not is_plain(layer):
            return layer(hidden_states)
        return F.conv2d(hidden_states, layer.weight, layer.bias, layer.stride, (int(symmetric and pad[0]), 0), groups=layer.groups)

    def activation(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply a leaky ReLU, in place if no gradient needs the input."""
        return F.leaky_relu(hidden_states, self.slope, inplace=not torch.is_grad_enabled())

    @staticmethod
    def flatten(hidden_states: torch.Tensor) -> torch.Tensor:
        """Reshape `(B, C, F, K)` to float32 `(B, F, K * C)`; a view of channels-last memory."""
        return hidden_states.permute(0, 2, 3, 1).flatten(2).float()


class TrunkStream:
    """Run of a trunk that [`ConvTrunk.can_share`] along a stretch of audio, where every layer keeps its last inputs for the next.

    Except at the edge of a window, only frames with complete context come out, which are the same for every window that contains
    this context. `filters` come from `trunk.row_filters()`. With `begins_window` the stretch begins at the edge of a window, where
    every layer pads zeros.
    """

    def __init__(self, trunk: ConvTrunk, filters: list[torch.Tensor | None], begins_window: bool = False):
        self._trunk, self._filters, self._begins_window = trunk, filters, begins_window
        self._carried: list[torch.Tensor | None] = [None] * len(trunk.layers)
        self._memory = Memory()

    def extend(self, spectra: torch.Tensor, ends_window: bool = False) -> torch.Tensor:
        """Take the next spectra `(B, 2, S, K)`; return the frames that they complete, `(B, F, K * C)`.

        The first call needs at least `2 * reach + 1` spectra, later ones an even number; no call may follow one that ends a window.
        """
        pieces = spectra.tensor_split(-(-spectra.shape[2] // SPECTRA_PER_CALL), dim=2)
        return torch.cat([self._extend(piece, ends_window and piece is pieces[-1]) for piece in pieces], dim=1)

    def _extend(self, spectra: torch.Tensor, ends_window: bool) -> torch.Tensor:
        trunk = self._trunk
        hidden_states = spectra.to(trunk.layers[0].weight.dtype)
        for index, (layer, filters) in enumerate(zip(trunk.layers, self._filters, strict=True)):
            above, stride = self._carried[index], trunk.strides[index][0]
            zeros = hidden_states.new_zeros(()).expand_as(hidden_states[:, :, :1])
            if above is None and self._begins_window:
                above = zeros
            num_rows = hidden_states.shape[2] + (0 if above is None else above.shape[2])
            unused = num_rows - ((num_rows - 3) // stride + 1) * stride
            self._carried[index] = hidden_states[:, :, -unused:].clone(memory_format=torch.channels_last)
            below = zeros if ends_window else None
            if filters is not None and num_rows + ends_window - 2 >= TILE_ROWS:
                memory = self._memory, f"results {index % 2}"  # shared with every second layer, so that none overwrites its input
                results = conv_along_rows(hidden_states, filters, layer.bias, layer.stride[1], above, below, *memory)
            else:
                parts = [part for part in (above, hidden_states, below) if part is not None]
                results = trunk.convolve(layer, torch.cat(parts, dim=2), (False, False))
            hidden_states = trunk.activation(results)
        return trunk.flatten(hidden_states)


class SharedFrames:
    """Frames of overlapping windows on the grid of the trunk, each convolution done once (mode `fast`).

    Two windows share a frame if it lies well inside both and both are divided by the same peak. That is the peak of the first of
    them, as long as the peaks of the later windows differ from it by a factor of at most `PEAK_TOLERANCE`. The frames at the edges
    of a window see zeros and mirrored samples, so they are computed for each window.
    """

    def __init__(self, model: Any):
        self._spectrum, self._trunk = model.spectrum, model.trunk
        self._filters = self._trunk.row_filters()
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
        """Return the trunk output `(1, F, K * C)` of the window `(1, T)` that starts at sample `start`, a multiple of two hops."""
        peak = float(window.abs().max())
        is_near = self._peak / PEAK_TOLERANCE <= peak <= self._peak * PEAK_TOLERANCE
        step = (start - self._start) // self._hop  # spectra
        if self._stream is not None and is_near and step // 2 < self._num_inner:
            window = window / (self._peak + 1e-8)
            new = self._stream.extend(self._spectra(window, self._num_spectra - 1 - step, self._num_spectra - 1))
            self._inner = torch.cat([self._inner[:, step // 2 :], new], dim=1)
        else:
            self._stream, self._peak = TrunkStream(self._trunk, self._filters), peak
            window = window / (peak + 1e-8)
            first = 2 * self._num_left - self._trunk.reach
            self._inner = self._stream.extend(self._spectra(window, first, self._num_spectra - 1))
        self._start = start
        return torch.cat([self._left_edge(window), self._inner, self._right_edge(window)], dim=1)

    def _spectra(self, window: torch.Tensor, first: int, end: int) -> torch.Tensor:
        margin = self._spectrum.margin
        return self._spectrum(window[:, first * self._hop - margin : end * self._hop + margin], reflect=(False, False))

    def _left_edge(self, window: torch.Tensor) -> torch.Tensor:
        num_spectra = 2 * (self._num_left - 1) + self._trunk.reach + 1
        piece = window[:, : num_spectra * self._hop + self._spectrum.margin]
        return TrunkStream(self._trunk, self._filters, True).extend(self._spectrum(piece, reflect=(True, False)))

    def _right_edge(self, window: torch.Tensor) -> torch.Tensor:
        first = self._num_spectra - 2 * self._num_right - self._trunk.reach
        piece = window[:, first * self._hop - self._spectrum.margin :]
        return TrunkStream(self._trunk, self._filters).extend(self._spectrum(piece, reflect=(False, True)), True)
