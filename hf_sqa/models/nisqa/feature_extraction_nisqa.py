"""Log-mel spectra of NISQA, from recordings at any rate and of any length.

Paper:    Mittag et al., "NISQA: A Deep CNN-Self-Attention Model for Multidimensional Speech Quality Prediction with Crowdsourced
          Datasets", Interspeech 2021, arXiv:2104.09494
Code:     https://github.com/gabrielmittag/NISQA, nisqa/NISQA_lib.py (MIT), which calls librosa
Differs:  computed from blocks of samples as they come, so that memory need not hold a recording of hours; transforms in single
          precision; a window of 20 ms is transformed at its own place instead of inside 4096 samples of mostly zeros; no limit of
          1300 segments. Equal to librosa's spectrum within 0.01 dB.
Shapes:   B batch, T samples, W frames, K mel bins
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from hf_sqa.blocks.mel_bands import slaney_bands
from hf_sqa.models.nisqa.configuration_nisqa import NISQAConfig

#: Frames transformed together: their spectra fit a processor's cache.
FRAMES_PER_TRANSFORM = 64


class NISQAFeatureExtractor(SequenceFeatureExtractor):
    r"""Feature extractor from recordings to log-mel spectra in dB.

    Args:
        feature_size (`int`, *optional*, defaults to `48`): Mel bands.
        sampling_rate (`int`, *optional*, defaults to `48000`): Rate in Hz. With `native_rate` only the stock pipeline
            `audio-classification` resamples to it; it is the rate of the corpus that NISQA was trained on.
        native_rate (`bool`, *optional*, defaults to `True`): Whether to take every recording at its own rate, which then has to be
            given; otherwise any other than `sampling_rate` is refused.
        padding_value (`float`, *optional*, defaults to `0.0`): What padding is filled with; the model does not look at it.
        fft_size (`int`, *optional*, defaults to `4096`): Points of the Fourier transform.
        hop_seconds (`float`, *optional*, defaults to `0.01`): Distance between frames.
        window_seconds (`float`, *optional*, defaults to `0.02`): Length of the Hann window.
        max_frequency_hz (`float`, *optional*, defaults to `20000.0`): Upper edge of the highest band.
        min_amplitude (`float`, *optional*, defaults to `1e-4`): Smaller amplitudes are raised to it, -80 dB.
        dynamic_range_db (`float`, *optional*, defaults to `80.0`): What lies further below the loudest band of the recording is
            raised to that level.
        segment_frames (`int`, *optional*, defaults to `15`): Frames the model needs; a shorter recording is refused.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 48,
        sampling_rate: int = 48_000,
        padding_value: float = 0.0,
        *,
        native_rate: bool = True,
        fft_size: int = 4096,
        hop_seconds: float = 0.01,
        window_seconds: float = 0.02,
        max_frequency_hz: float = 20_000.0,
        min_amplitude: float = 1e-4,
        dynamic_range_db: float = 80.0,
        segment_frames: int = 15,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.native_rate = native_rate
        self.fft_size = fft_size
        self.hop_seconds = hop_seconds
        self.window_seconds = window_seconds
        self.max_frequency_hz = max_frequency_hz
        self.min_amplitude = min_amplitude
        self.dynamic_range_db = dynamic_range_db
        self.segment_frames = segment_frames

    @classmethod
    def from_config(cls, config: NISQAConfig) -> NISQAFeatureExtractor:
        """Return the extractor that fits a model."""
        shared = ("fft_size", "hop_seconds", "window_seconds", "max_frequency_hz", "segment_frames")
        options: dict[str, Any] = {name: getattr(config, name) for name in shared}
        if config.sampling_rate is not None:
            options["sampling_rate"] = config.sampling_rate
        return cls(feature_size=config.num_mel_bins, native_rate=config.sampling_rate is None, **options)

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | Sequence[int] | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Compute log-mel spectra of one recording or several.

        Args:
            raw_speech (`np.ndarray` or a sequence of them): Mono waveforms, each of shape `(T,)`, nominally in `[-1, 1]`. The level
                matters to the score; nothing is normalised.
            sampling_rate (`int` or `Sequence[int]`): Rate in Hz: one for all, or one for each waveform. May be left out only where
                the extractor has a rate of its own.
            **options: Those of `SequenceFeatureExtractor.pad`, lengths in frames: `padding` (`True` if not given), `max_length`,
                `truncation`, `pad_to_multiple_of`, `return_attention_mask` (`True` if not given) and `return_tensors` (`"pt"`).

        Returns:
            [`BatchFeature`] with `input_features` of shape `(B, W, K)` in dB and `attention_mask` of shape `(B, W)`, 1 on frames
            and 0 on padding.

        Raises:
            ValueError: If the rate is missing, not the extractor's or too high for `fft_size`; if a waveform is not mono or too
                short for one segment.
        """
        waveforms = _as_waveforms(raw_speech)
        rates = list(sampling_rate) if isinstance(sampling_rate, Sequence) else [sampling_rate] * len(waveforms)
        if len(rates) != len(waveforms):
            raise ValueError(f"Expected one sampling rate, or one for each of {len(waveforms)} waveforms, got {len(rates)}.")
        spectra = [self.log_mel([waveform], rate) for waveform, rate in zip(waveforms, rates, strict=True)]
        return self.pad(BatchFeature({"input_features": spectra}), **options)

    def log_mel(self, blocks: Iterable[np.ndarray], sampling_rate: int | None) -> np.ndarray:
        """Compute the log-mel spectrum of one recording that comes in blocks `(T,)` of any length, which are not kept.

        Returns `(1 + T // hop, K)` in float32, in dB relative to an amplitude of 1, at least -80: 19 kB for a second of audio.
        """
        sampling_rate = self._checked_rate(sampling_rate)
        hop, window = int(sampling_rate * self.hop_seconds), int(sampling_rate * self.window_seconds)
        filters = mel_filters(sampling_rate, self.fft_size, self.feature_size, float(self.max_frequency_hz))
        hann = (0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, window + 1)[:-1])).astype(np.float32)  # periodic

        spectra, num_samples, rest = [], 0, np.zeros(0, np.float32)
        for block, num_new in _mirrored_at_the_ends(blocks, (window + 1) // 2, window // 2):
            num_samples += num_new
            rest = np.concatenate([rest, block])
            num_frames = max(0, (len(rest) - window) // hop + 1)
            if num_frames:
                frames = np.lib.stride_tricks.sliding_window_view(rest, window)[::hop]
                for first in range(0, num_frames, FRAMES_PER_TRANSFORM):
                    windowed = torch.from_numpy(frames[first : first + FRAMES_PER_TRANSFORM] * hann)
                    # torch's transform takes two thirds of the time of SciPy's; NumPy's magnitude takes a tenth of torch's.
                    spectrum = torch.fft.rfft(windowed, n=self.fft_size).numpy()
                    spectra.append(np.abs(spectrum[:, : len(filters)]) @ filters)
                rest = rest[num_frames * hop :]
        num_frames = sum(map(len, spectra))
        if num_frames < self.segment_frames:
            shortest = (self.segment_frames - 1) * hop
            raise ValueError(
                f"Expected at least {shortest} samples ({shortest / sampling_rate:.3f} s at {sampling_rate} Hz), enough for "
                f"one segment of {self.segment_frames} frames, got {num_samples} samples ({num_samples / sampling_rate:.3f} s)."
            )
        spectra = np.concatenate(spectra)
        # In place: an hour takes 69 MB.
        np.maximum(spectra, np.float32(self.min_amplitude), out=spectra)
        np.log10(spectra, out=spectra)
        spectra *= 20
        return np.maximum(spectra, spectra.max() - np.float32(self.dynamic_range_db), out=spectra)

    def _checked_rate(self, sampling_rate: int | None) -> int:
        if sampling_rate is None:
            if self.native_rate:
                raise ValueError(
                    "Expected `sampling_rate` beside the waveform: this model takes recordings at their own rate, and a wrong rate "
                    "gives a plausible but wrong score."
                )
            return self.sampling_rate
        if not self.native_rate and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"Expected audio sampled at {self.sampling_rate} Hz, got {sampling_rate} Hz; resample first with "
                f"`hf_sqa.audio.resample(waveform, {sampling_rate}, {self.sampling_rate})`."
            )
        if not 1 <= int(sampling_rate * self.hop_seconds) <= int(sampling_rate * self.window_seconds) <= self.fft_size:
            raise ValueError(
                f"Expected a sampling rate between {1 / self.hop_seconds:g} and {self.fft_size / self.window_seconds:g} Hz (a "
                f"window of {self.window_seconds} s has to fit a transform of {self.fft_size} points), got {sampling_rate} Hz."
            )
        return int(sampling_rate)


@lru_cache(maxsize=16)
def mel_filters(sampling_rate: int, fft_size: int, num_mel_bins: int, max_frequency_hz: float) -> np.ndarray:
    """Return [`slaney_bands`] for the spectrum's bins up to the last one that any band uses: `(bins, num_mel_bins)`."""
    bands = slaney_bands(fft_size, num_mel_bins, sampling_rate, max_frequency_hz)
    return np.ascontiguousarray(bands[: np.flatnonzero(bands.any(axis=1))[-1] + 1])


def _mirrored_at_the_ends(blocks: Iterable[np.ndarray], left: int, right: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the blocks as float32 with `left` mirrored samples before the first sample and `right` after the last.

    Each block comes with the number of its samples that are the recording's own. A recording too short to be mirrored is unchanged.
    """
    head: list[np.ndarray] = []  # kept back until there is enough of it to mirror
    num_head, tail = 0, None
    for block in blocks:
        block = np.asarray(block, np.float32)
        if tail is None:
            head.append(block)
            num_head += len(block)
            if num_head <= max(left, right):
                continue
            block = np.concatenate(head) if len(head) > 1 else block
            yield block[left:0:-1], 0
            tail = block[:0]
        yield block, len(block)
        tail = np.concatenate([tail, block[-right - 1 :]])[-right - 1 :]
    if tail is None:
        yield np.concatenate([np.zeros(0, np.float32), *head]), num_head
    else:
        yield tail[-2 : -2 - right : -1], 0


def _as_waveforms(raw_speech: Any) -> list[np.ndarray]:
    """Return one waveform or several as a list of arrays of shape `(T,)`."""
    several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
    several = several or (isinstance(raw_speech, np.ndarray) and raw_speech.ndim > 1)
    waveforms = [np.asarray(waveform, np.float32) for waveform in (raw_speech if several else [raw_speech])]
    for waveform in waveforms:
        if waveform.ndim != 1:
            raise ValueError(
                f"Expected mono waveforms of shape (num_samples,), got one of shape {waveform.shape}; average its channels first."
            )
    return waveforms
