"""Distill-MOS: a convolutional transformer that learned its judgement from XLS-R-SQA.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Code:     https://github.com/microsoft/Distill-MOS, distillmos/sqa.py (MIT)
Weights:  Distill-MOS v7, inside the PyPI package `distillmos`, MIT
Differs:  one window at a time instead of all stacked; spectra are laid out time first, so that a stretch of time is contiguous in
          memory; batch norms are folded in evaluation; frames of pure padding are computed once; scoring on a processor uses
          Winograd's algorithm for convolutions; a mode `fast` shares convolutions between overlapping windows. Mode `published`
          gives the original's scores up to rounding.
Shapes:   B batch, T samples, W windows, S spectra, K bins, C channels, F frames, D hidden size, L labels
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple, is_torchdynamo_exporting

from hf_sqa.audio import Recording
from hf_sqa.audio.recording import window_starts
from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScorer
from hf_sqa.blocks.sqa_transformer import LayerTrace, SinusoidalPositions, SQATransformer
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults, cut_rows
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig
from hf_sqa.models.distilled_sqa.local_distilled_sqa import FrameScorer, LocalGraph, load_head
from hf_sqa.models.distilled_sqa.pruning_distilled_sqa import DistilledLayout
from hf_sqa.models.distilled_sqa.trunk_distilled_sqa import CompressedSpectrum, ConvTrunk, MelSpectrum, SharedFrames
from hf_sqa.outputs import AudioQualityOutput, RecordingScores

#: Smallest deviation of a band, for bands that never change, such as those above the bandwidth of all recordings.
LEAST_BAND_DEVIATION = 1e-3
#: Largest difference between scores with bfloat16 and float32 convolutions, by checkpoint: 64 windows, docs/distillation.md.
BFLOAT16_ERRORS = {"distill-mos-v7": 0.0098}
#: Windows that go through the network together. A processor's caches hold one window; an accelerator needs many.
WINDOWS_PER_CALL = {"cpu": 1}
WINDOWS_PER_CALL_ELSEWHERE = 32
#: Where this thread keeps frames while it scores recordings: see [`DistilledSQA.keep_frames`].
KEPT_FRAMES: ContextVar[dict[int, Any] | None] = ContextVar("KEPT_FRAMES", default=None)


class DistilledSQA(AudioQualityPreTrainedModel):
    """Distill-MOS and its smaller relatives: speech quality from one network of a few million weights or less.

    Modes:
        `published`: the original's window starts, equally spaced over the recording. Gives its scores up to rounding.
        `fast`: starts a quarter of a window apart and rounded to the grid of the convolutions (20 ms), so that overlapping windows
            share them. Up to 20 ms at the end of a recording are ignored. Only networks of the published form share convolutions.
    """

    config: DistilledSQAConfig
    config_class = DistilledSQAConfig
    scores_in_browser = True
    modes = ("published", "fast")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # The error is 0.03 MOS in bfloat16 throughout, and 0.006 with the transformer in float32.
    _keep_in_fp32_modules_strict = ["transformer", "spectrum"]

    def __init__(self, config: DistilledSQAConfig):
        super().__init__(config)
        self.spectrum = MelSpectrum(config) if config.num_mel_bins else CompressedSpectrum(config)
        self.trunk = ConvTrunk(config)
        self.transformer = SQATransformer(config, config.conv_channels[-1] * config.conv_num_bins)
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
        return self.config.window_samples

    @property
    def bfloat16_error(self) -> float | None:
        return BFLOAT16_ERRORS.get(self.config.checkpoint_name or "")

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """See [`AudioQualityPreTrainedModel.fine_tuning_defaults`]; chosen by the experiments in docs/finetune.md."""
        norms = ("feature_norm", "projection_norm", "projection", "pooling_norm")
        names = [*norms, *(f"layers.{layer}" for layer in range(max(self.config.num_hidden_layers - 2, 0)))]
        return FineTuningDefaults(("trunk", *(f"transformer.{name}" for name in names)), learning_rate=3e-4, epochs=6)

    def pruning_layout(self) -> DistilledLayout:
        return DistilledLayout(self)

    @property
    def needs_bands(self) -> bool:
        """Whether [`measure_bands`] has yet to measure mean and deviation of the mel bands."""
        spectrum = self.spectrum
        if not (isinstance(spectrum, MelSpectrum) and spectrum.normalize_bands):
            return False
        return not spectrum.band_mean.any() and bool((spectrum.band_deviation == 1).all())

    @torch.no_grad()
    def measure_bands(self, windows: Iterable[np.ndarray]) -> None:
        """Measure mean and deviation of every mel band on windows, so that training begins with all bands on the same scale."""
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

    def onnx_spectrum(self) -> tuple[np.ndarray, dict[str, str]]:
        """Return the Hann window, and the metadata that [`OnnxDistilledSQA`] compares."""
        return self.spectrum.hann, self.config.graph_metadata

    def local_graph(self) -> tuple[nn.Module, dict[str, int]] | None:
        scorer = self.local_scorer(None)
        if not isinstance(scorer, FrameScorer):
            return None
        return LocalGraph(self.eval().float().cpu(), scorer).eval(), scorer.cut.settings

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz, any length, any gain.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            output_attentions (`bool`, *optional*): Whether to return the weights of every layer of the transformer, `(W, H, F, F)`.
            output_hidden_states (`bool`, *optional*): Whether to return what goes into the transformer and the output of each of
                its layers, `(W, F, D)`. The W windows of all rows follow one another; there is one per row if T is one window.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` in label units: the mean over the windows of each row.
        """
        lengths = self.row_lengths(input_values, attention_mask)
        trace = self.layer_trace(output_attentions, output_hidden_states)
        if attention_mask is None and input_values.shape[1] == self.config.window_samples:
            logits = self.score_windows(input_values, trace)  # (B, L)
        else:
            rows = cut_rows(input_values, lengths)
            together = [rows] if output_attentions or output_hidden_states else [[row] for row in rows]
            logits = torch.cat([self._score_rows(group, trace) for group in together])
        return AudioQualityOutput(loss=self.compute_loss(logits, labels), logits=logits, **trace.outputs())

    def encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pooling's input `(B, F, D)` for recordings `(B, T)`, for a model that has this one as its speech encoder.

        There is a frame for every `window_samples // num_frames` samples, the last ones included. Windows do not overlap, the last
        is padded with zeros; frames of padding are 0. The arguments are those of `forward`.
        """
        waveforms = cut_rows(input_values, self.row_lengths(input_values, attention_mask))
        window_samples, num_frames = self.config.window_samples, self.config.num_frames
        pieces = [piece for waveform in waveforms for piece in waveform.split(window_samples)]
        encoded: list[torch.Tensor] = []
        for first in range(0, len(pieces), self._windows_per_call):
            windows = nn.utils.rnn.pad_sequence(pieces[first : first + self._windows_per_call], batch_first=True)
            frames = self.window_frames(windows).to(self.transformer.projection.weight.dtype)
            encoded.extend(self.transformer.encode(frames, self.layer_trace()))
        rows = []
        for waveform in waveforms:
            num_windows = -(-len(waveform) // window_samples)
            frames_of_row, encoded = encoded[:num_windows], encoded[num_windows:]
            rows.append(torch.cat(frames_of_row)[: -(-len(waveform) * num_frames // window_samples)])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _score_rows(self, waveforms: Sequence[torch.Tensor], trace: LayerTrace) -> torch.Tensor:
        """Return the mean scores over the windows of waveforms `(T,)`, `(B, L)`; in one call if layers or gradients are wanted."""
        starts = [self.window_starts(len(waveform)).tolist() for waveform in waveforms]
        windows = [
            waveform[start : start + self.config.window_samples]
            for waveform, starts_of_row in zip(waveforms, starts, strict=True)
            for start in starts_of_row
        ]
        per_call = len(windows) if torch.is_grad_enabled() or trace.keeps_any else self._windows_per_call
        pieces = [windows[first : first + per_call] for first in range(0, len(windows), per_call)]
        scores = torch.cat([self.score_windows(nn.utils.rnn.pad_sequence(piece, batch_first=True), trace) for piece in pieces])
        return torch.stack([part.mean(dim=0) for part in scores.split([len(starts_of_row) for starts_of_row in starts])])

    def score_windows(self, windows: torch.Tensor, trace: LayerTrace | None = None) -> torch.Tensor:
        """Score windows `(W, T)`, each on its own: `(W, L)`, in label units; short ones are padded with zeros."""
        return self.score_frames(self.window_frames(windows), trace)

    def window_frames(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the trunk output `(W, F, K * C)` of windows `(W, T)`, normalised as [`score_windows`] does."""
        windows = windows.float()
        peak = windows.abs().amax(dim=1, keepdim=True)
        # The exporter drops so small an addition, and the graph would divide digital silence by 0.
        peak = peak.clamp(min=1e-8) if is_torchdynamo_exporting() else peak + 1e-8
        return self._frames(windows / peak)

    def score_frames(self, frames: torch.Tensor, trace: LayerTrace | None = None) -> torch.Tensor:
        """Return scores `(W, L)`, in label units, of windows from their frames."""
        raw = self.transformer(frames.to(self.transformer.projection.weight.dtype), trace or self.layer_trace()).float()
        return self.in_score_range(raw)

    def _frames(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the trunk output `(W, F, K * C)` of normalised windows `(W, T)`.

        Silence gives the same frame everywhere except at the edges, so only as many of the zeros that pad a short window are
        computed as the edges need.
        """
        # Not from the configuration, whose computed properties torch.compile cannot follow.
        num_frames, reach, hop = self.transformer.positions.num_frames, self.trunk.reach, self.spectrum.hop_samples
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
        """Return the first sample of every window of a recording, ascending from 0.

        They are at most `hop_seconds` apart; if not given, `hop_samples` of the configuration, and in mode `fast` at least a
        quarter of a window.
        """
        hop_samples = self.config.hop_samples if hop_seconds is None else hop_seconds * self.config.sampling_rate
        if mode == "fast" and hop_seconds is None:
            hop_samples = max(hop_samples, self.config.window_samples // 4)
        starts = window_starts(num_samples, self.config.window_samples, hop_samples)
        if mode == "fast":
            over = max(0, num_samples - self.config.window_samples)
            grid = self.config.spectra_per_frame * self.config.fft_hop_samples
            starts = np.unique(np.minimum((starts + grid // 2) // grid, over // grid) * grid)
        return starts

    def local_scorer(
        self, feature_extractor: Any, hop_seconds: float = HOP_SECONDS, sampling_rate: int | None = None
    ) -> LocalScorer:
        """See [`AudioQualityPreTrainedModel.local_scorer`]: uses the head that was fitted to this checkpoint, if there is one."""
        head = load_head(self.config, self.device)
        if head is None:
            return super().local_scorer(feature_extractor, hop_seconds)
        return FrameScorer(self, head, hop_seconds)

    def check_scoring_options(self, mode: str, hop_seconds: float | None) -> None:
        super().check_scoring_options(mode, None)
        longest = self.config.window_samples / self.config.sampling_rate
        if hop_seconds is not None and not (isinstance(hop_seconds, Real) and 0.05 <= hop_seconds <= longest):
            raise ValueError(
                f"Expected `hop_seconds` between 0.05 and {longest} (the length of a window: larger hops leave gaps), got "
                f"{hop_seconds!r}."
            )

    def _score_recordings(
        self, recordings: Sequence[Recording], feature_extractor: Any, mode: str, hop_seconds: float | None
    ) -> list[RecordingScores]:
        all_starts = [self.window_starts(recording.num_samples, mode, hop_seconds) for recording in recordings]
        score = self._score_published if mode == "published" else self._score_fast
        scores = torch.cat(list(score(recordings, all_starts))).cpu().numpy()
        results = []
        for recording, starts in zip(recordings, all_starts, strict=True):
            window_scores, scores = scores[: len(starts)], scores[len(starts) :]
            ends = np.minimum(starts + self.config.window_samples, recording.num_samples)
            results.append(RecordingScores(window_scores.mean(axis=0, dtype=np.float64), starts, ends, window_scores))
        return results

    def _score_published(self, recordings: Sequence[Recording], all_starts: list[np.ndarray]) -> Iterator[torch.Tensor]:
        """Score the windows of all recordings in order, several at a time if that is faster on the device."""
        windows = (
            (torch.from_numpy(window), None if number else id(recording))
            for recording, starts in zip(recordings, all_starts, strict=True)
            for number, window in enumerate(recording.windows(starts.tolist(), self.config.window_samples))
        )
        kept = KEPT_FRAMES.get()
        while waiting := list(itertools.islice(windows, self._windows_per_call)):
            together = nn.utils.rnn.pad_sequence([window for window, _ in waiting], batch_first=True).to(self.device)
            if kept is None:
                yield self.score_windows(together)
                continue
            frames = self.window_frames(together)
            kept.update((first_of, row) for row, (_, first_of) in zip(frames, waiting, strict=True) if first_of is not None)
            yield self.score_frames(frames)

    @contextmanager
    def keep_frames(self) -> Iterator[dict[int, Any]]:
        """See [`AudioQualityPreTrainedModel.keep_frames`]: keeps the trunk's frames of the first window if a head reads them."""
        kept: dict[int, Any] = {}
        if load_head(self.config, self.device) is None:
            yield kept
            return
        token = KEPT_FRAMES.set(kept)
        try:
            yield kept
        finally:
            KEPT_FRAMES.reset(token)

    def _score_fast(self, recordings: Sequence[Recording], all_starts: list[np.ndarray]) -> Iterator[torch.Tensor]:
        for recording, starts in zip(recordings, all_starts, strict=True):
            shared = SharedFrames(self)
            for start, window in zip(starts.tolist(), recording.windows(starts.tolist(), self.config.window_samples), strict=True):
                tensor = torch.from_numpy(window)[None].to(self.device)
                if len(window) < self.config.window_samples or not shared.can_share:
                    yield self.score_windows(tensor)
                else:
                    yield self.score_frames(shared.frames(tensor, start))
