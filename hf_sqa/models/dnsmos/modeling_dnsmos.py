"""DNSMOS: quality of the speech, of the background and overall as in ITU-T P.835, and as in P.808, from windows of nine seconds.

Paper:    Reddy et al., "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality Metric to Evaluate Noise Suppressors",
          ICASSP 2022, arXiv:2110.01763; P.808 score: Reddy et al., "DNSMOS: A Non-Intrusive Perceptual Objective Speech Quality
          Metric to Evaluate Noise Suppressors", ICASSP 2021, arXiv:2010.15258
Code:     https://pypi.org/project/speechmos/0.0.1.1, speechmos/dnsmos.py (MIT)
Weights:  two variants, default and personalised, inside the PyPI package `speechmos` (MIT)
Differs:  overlapping windows share spectra and convolutions; recordings without samples are refused, which the original repeats
          for ever; windows that it skips by a rounding error count with `skip_windows=False` or in mode `whole`. Converted weights
          have `skip_windows=True` and give the original's scores up to rounding.
Shapes:   B batch, T samples, W windows, S spectra, K bands, L labels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from hf_sqa.audio import Recording
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults, cut_rows
from hf_sqa.models.dnsmos.configuration_dnsmos import DNSMOSConfig
from hf_sqa.models.dnsmos.networks_dnsmos import ConvStack, LearnedSpectrum, MelPower, relative_levels
from hf_sqa.outputs import AudioQualityOutput, RecordingScores

#: Windows that are scored together, out of one stretch of a recording.
WINDOWS_PER_CALL = 24


class DNSMOS(AudioQualityPreTrainedModel):
    """DNSMOS P.835 and P.808: one network on log-power spectra with trained filters, one on mel bands.

    Modes:
        `published`: the original's windows if the configuration has `skip_windows=True`, as converted weights do, which gives its
            scores up to rounding.
        `whole`: every window, and one that reaches to the end of the recording, whatever the configuration says.
    """

    config: DNSMOSConfig
    config_class = DNSMOSConfig
    modes = ("published", "whole")
    # Halving a megabyte gains nothing, and the polynomials are steep.
    _keep_in_fp32_modules_strict = ["spectrum", "network", "mel_power", "p808_network"]

    def __init__(self, config: DNSMOSConfig):
        super().__init__(config)
        if config.num_p835_scores:
            self.spectrum = LearnedSpectrum(config)
            self.network = ConvStack(config.conv_channels, config.conv_pools, config.dense_sizes, config.num_p835_scores)
        if config.has_p808_score:
            self.p808_network = ConvStack(config.p808_conv_channels, config.p808_conv_pools, config.p808_dense_sizes, 1)
            self.mel_power = MelPower(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LearnedSpectrum | MelPower):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_uniform_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """See [`AudioQualityPreTrainedModel.fine_tuning_defaults`]; on a CPU, only the dense layers are trained."""
        spectrum = ("spectrum",) if self.config.num_p835_scores else ()
        return FineTuningDefaults((*spectrum, "*network.convs") if device == "cpu" else spectrum, learning_rate=3e-4)

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz, any length, nominally in `[-1, 1]`. The level
                matters to the score; nothing is normalised.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` in label units: the mean over the windows of each row. Nothing
            clips them to the scale.

        Raises:
            ValueError: If the input has another shape, or a row has no samples.
        """
        lengths = self.row_lengths(input_values, attention_mask)
        input_values = input_values.float()
        if attention_mask is None and input_values.shape[1] == self.config.window_samples:
            logits = self.score_windows(input_values)  # (B, L)
        else:
            rows = cut_rows(input_values, lengths)
            logits = torch.stack([self._score_row(row).mean(dim=0) for row in rows])
        return AudioQualityOutput(loss=self.compute_loss(logits, labels), logits=logits)

    def score_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Score windows `(W, window_samples)`, each on its own: `(W, L)`, in label units."""
        scores = []
        if self.config.num_p835_scores:
            scores.append(self.network(self.spectrum(windows)))
        if self.config.has_p808_score:
            hop = self.config.fft_hop_samples  # this network does not see the last hop of the window
            power = self.mel_power.of_spans(F.pad(windows[:, :-hop], (0, hop)))
            scores.append(self.p808_network(relative_levels(power)))
        return self._scores(torch.cat(scores, dim=1))

    def _score_row(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the scores `(W, L)` of the windows of one waveform `(T,)`."""
        starts, repeats = self.window_starts(len(waveform))
        if torch.is_grad_enabled():
            waveform = waveform.repeat(repeats)
            return self.score_windows(torch.stack([waveform[start : start + self.config.window_samples] for start in starts]))
        if repeats > 1:
            return self._score_repeated(waveform, starts)
        return torch.cat(
            [self._score_stretch(waveform[first:end], starts[group] - first) for group, first, end in self._stretches(starts)]
        )

    def _score_repeated(self, waveform: torch.Tensor, starts: np.ndarray) -> torch.Tensor:
        """Score the windows of a waveform `(T,)` that is shorter than one and thus repeated; repeated windows are scored once."""
        length, grid = len(waveform), 2 * self.config.fft_hop_samples
        _, first, places = np.unique(starts % length, return_index=True, return_inverse=True)
        order = np.sort(first)  # windows that begin at different places of the waveform
        end = int(starts[order[-1]]) + self.config.window_samples
        stretch = waveform.repeat(-(-end // length))[:end]
        period = length // self.config.fft_hop_samples if length % grid == 0 else None
        scores = self._score_stretch(stretch, starts[order], period)
        return scores[np.searchsorted(order, first)[places]]

    def _stretches(self, starts: np.ndarray) -> Iterator[tuple[slice, int, int]]:
        """Yield windows to score together, as a slice of all, and the first and one past the last sample of their stretch."""
        first = 0
        for index in range(1, len(starts) + 1):
            is_last = index == len(starts)
            if is_last or index - first == WINDOWS_PER_CALL or starts[index] - starts[index - 1] > self.config.window_samples:
                yield slice(first, index), int(starts[first]), int(starts[index - 1]) + self.config.window_samples
                first = index

    def _score_stretch(self, waveform: torch.Tensor, starts: np.ndarray, period: int | None = None) -> torch.Tensor:
        """Score the windows that begin at `starts` `(W,)` in one stretch `(T,)`, sharing convolutions: `(W, L)`, in label units.

        The stretch goes from the first window's start to the last one's end; after `period` spectra, if given, it repeats itself.
        """
        if len(starts) == 1 and period is None:
            return self.score_windows(waveform[None])
        hop, num_spectra = self.config.fft_hop_samples, self.config.num_frames
        spectra_starts = (starts // hop).tolist()
        scores = []
        if self.config.num_p835_scores:
            scores.append(self.network.shared(self.spectrum(waveform[None]), spectra_starts, num_spectra, period))
        if self.config.has_p808_score:
            power = self.mel_power.of_spans(waveform[None])[0]
            margin = self.mel_power.size // 2
            windows = []
            for start, spectrum in zip(starts.tolist(), spectra_starts, strict=True):
                head = torch.cat([waveform.new_zeros(margin), waveform[start : start + margin + 1]])
                end = start + num_spectra * hop
                tail = torch.cat([waveform[end - 2 * margin : end], waveform.new_zeros(1)])
                edges = self.mel_power.of_frames(torch.stack([head, tail]))
                windows.append(torch.cat([edges[:1], power[spectrum + 1 : spectrum + num_spectra - 1], edges[1:]]))
            scores.append(torch.cat([self.p808_network(relative_levels(window[None])) for window in windows]))
        return self._scores(torch.cat(scores, dim=1))

    def _scores(self, raw: torch.Tensor) -> torch.Tensor:
        """Return scores in label units from raw outputs `(W, L)`."""
        polynomials = self.config.score_polynomials or {}
        columns = []
        for name, column in zip(self.config.score_names, raw.unbind(dim=1), strict=True):
            score = column
            if name in polynomials:
                *lower, highest = polynomials[name]
                score = torch.full_like(column, highest)
                for coefficient in reversed(lower):
                    score = score * column + coefficient
            columns.append(score)
        return torch.stack(columns, dim=1)

    def window_starts(self, num_samples: int, mode: str = "published") -> tuple[np.ndarray, int]:
        """Return the first sample of every window of a recording, ascending from 0; and how many times as long the recording
        becomes by being appended to itself for that, a power of two.
        """
        if num_samples < 1:
            raise ValueError("Expected at least one sample in every recording, got one without any.")
        length, hop = self.config.window_samples, self.config.hop_samples
        repeats = 1
        while repeats * num_samples < length:
            repeats *= 2
        total = repeats * num_samples
        if self.config.skip_windows and mode == "published":
            # In the original's units, hops instead of samples, in which 9.01 added to a whole number can be too little.
            length_in_hops = length / hop
            count = int(total // hop - length_in_hops) + 1
            starts = [index * hop for index in range(count) if int((index + length_in_hops) * hop) - index * hop >= length]
            return np.array(starts, np.int64), repeats
        starts = list(range(0, total - length + 1, hop))
        grid = 2 * self.config.fft_hop_samples
        last = (total - length) // grid * grid
        if repeats == 1 and last > starts[-1]:
            starts.append(last)
        return np.array(starts, np.int64), repeats

    def _score_recordings(
        self, recordings: Sequence[Recording], feature_extractor: Any, mode: str, hop_seconds: float | None
    ) -> list[RecordingScores]:
        return [self._score_recording(recording, mode) for recording in recordings]

    def _score_recording(self, recording: Recording, mode: str) -> RecordingScores:
        starts, repeats = self.window_starts(recording.num_samples, mode)
        if repeats > 1:  # every window holds the whole recording
            windows = self._score_repeated(torch.from_numpy(recording.waveform).to(self.device), starts).cpu().numpy()
            mean = windows.mean(axis=0, dtype=np.float64)
            return RecordingScores(mean, np.array([0]), np.array([recording.num_samples]), mean[None].astype(np.float32))
        stretches = list(self._stretches(starts))
        longest = max(end - first for _, first, end in stretches)
        scores = []
        for (group, first, end), waveform in zip(
            stretches, recording.windows([first for _, first, _ in stretches], longest), strict=True
        ):
            stretch = torch.from_numpy(waveform[: end - first]).to(self.device)
            scores.append(self._score_stretch(stretch, starts[group] - first).cpu().numpy())
        window_scores = np.concatenate(scores)
        mean = window_scores.mean(axis=0, dtype=np.float64)
        return RecordingScores(mean, starts, starts + self.config.window_samples, window_scores)
