"""NISQA: overlapping mel segments through a small convolutional network, a transformer or LSTM over time, pooling, scores.

Paper:    Mittag et al., "NISQA: A Deep CNN-Self-Attention Model for Multidimensional Speech Quality Prediction with Crowdsourced
          Datasets", Interspeech 2021, arXiv:2104.09494; v1 for synthetic speech: Mittag & Moeller, "Deep Learning Based Assessment
          of Synthetic Speech Naturalness", Interspeech 2020, arXiv:2104.11673
Code:     https://github.com/gabrielmittag/NISQA, nisqa/NISQA_lib.py (MIT)
Weights:  NISQA v2, v2 MOS only and v1 TTS in its repository (CC BY-NC-SA 4.0, not for commercial use); two baselines in
          https://github.com/ConferencingSpeech/ConferencingSpeech2022 (Apache-2.0 repository)
Differs:  segments are cut from the spectrum inside the model; no limit of 1300 segments; the LSTM's two directions are two modules,
          so that a long recording can be run through either piece by piece; batch norms are folded in evaluation. Gives the
          original's scores up to rounding.
Shapes:   B batch, W frames, K mel bins, N segments of a recording, S segments of a batch, F frames in a segment, C features of a
          segment, D hidden size, H heads, L labels
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from hf_sqa.audio import Recording
from hf_sqa.blocks.layers import is_plain, start_as_torch
from hf_sqa.blocks.precision import run_both_ways, run_lstm
from hf_sqa.blocks.sqa_transformer import AttentionPooling, EncoderLayer, LayerTrace, batch_norm_as_affine, run_layers
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.nisqa.configuration_nisqa import NISQAConfig
from hf_sqa.models.nisqa.feature_extraction_nisqa import NISQAFeatureExtractor
from hf_sqa.outputs import AudioQualityOutput, RecordingScores

#: Segments that go through the segment encoder together while scoring; they limit its memory to a few MB on a processor.
SEGMENTS_PER_CALL = {"cpu": 32}
SEGMENTS_PER_CALL_ELSEWHERE = 4096
#: Steps of the LSTM that run together while scoring.
LSTM_STEPS_PER_CALL = 4096


#: Weight and bias of a convolution with the batch norm after it folded in.
Kernel = tuple[torch.Tensor, torch.Tensor]


class ConvLayer(nn.Module):
    """Convolution over 3 mel bins and some frames, and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_frames: int = 3, pad_frames: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (3, kernel_frames), padding=(1, pad_frames))
        self.norm = nn.BatchNorm2d(out_channels)

    def kernel(self) -> Kernel | None:
        """Return weight and bias for both together; `None` while the batch norm learns, or if the convolution must be called."""
        if self.norm.training or not is_plain(self.conv):
            return None
        scale, shift = batch_norm_as_affine(self.norm)  # type: ignore[arg-type]
        weight = self.conv.weight * scale[:, None, None, None]
        return weight.contiguous(memory_format=torch.channels_last), self.conv.bias * scale + shift

    def forward(self, segments: torch.Tensor, kernel: Kernel | None) -> torch.Tensor:
        if kernel is None:
            return self.norm(self.conv(segments))
        return F.conv2d(segments, *kernel, padding=self.conv.padding)


class FirstConvLayer(ConvLayer):
    """The same for one input channel, with channels last in the memory of its output, which makes all that follows faster.

    With a kernel it is a product of matrices, which on a processor is several times as fast as a convolution of one channel.
    """

    def forward(self, segments: torch.Tensor, kernel: Kernel | None) -> torch.Tensor:
        if kernel is None:
            return super().forward(segments, None).contiguous(memory_format=torch.channels_last)
        (num_segments, _, num_mel_bins, num_frames), (weight, bias) = segments.shape, kernel
        padded = F.pad(segments[:, 0], (1, 1, 1, 1))
        shifted = [padded[:, row : row + num_mel_bins, column : column + num_frames] for row in range(3) for column in range(3)]
        hidden = torch.addmm(bias, torch.stack(shifted).flatten(1).T, weight.flatten(1).T)  # (S * K * F, channels)
        return hidden.view(num_segments, num_mel_bins, num_frames, -1).permute(0, 3, 1, 2)


class ConvSegmentEncoder(nn.Module):
    """Six convolutions with three max poolings: to given sizes (`"adapt"`) or by halves (`"standard"`)."""

    def __init__(self, config: NISQAConfig):
        super().__init__()
        self.pool_sizes = config.conv_pool_sizes if config.segment_encoder == "adapt" else None
        first, second, third = config.conv_channels
        # The last convolution of "adapt" spans all frames that are left, so a single frame remains.
        last = (config.conv_pool_sizes[-1][1], 0) if self.pool_sizes else (3, 1)
        self.layers = nn.ModuleList(
            [
                FirstConvLayer(1, first),
                ConvLayer(first, second),
                ConvLayer(second, third),
                ConvLayer(third, third),
                ConvLayer(third, third),
                ConvLayer(third, third, *last),
            ]
        )
        self.dropout = nn.Dropout2d(config.segment_dropout)
        self.output_size = third * math.prod(config.conv_output_size)
        self.projection = None
        if config.segment_feature_size is not None:
            self.projection = nn.Linear(self.output_size, config.segment_feature_size)
            self.output_size = config.segment_feature_size

    def forward(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Map pieces of segments, each `(S, K, F)`, to their features, each `(S, C)`, one by one."""
        kernels = [layer.kernel() for layer in self.layers]
        for segments in pieces:
            yield self._encode(segments, kernels)

    def _encode(self, segments: torch.Tensor, kernels: list[Kernel | None]) -> torch.Tensor:
        first, second, third, fourth, fifth, sixth = (
            partial(layer, kernel=kernel) for layer, kernel in zip(self.layers, kernels, strict=True)
        )
        # The ReLU may as well follow the pooling, which leaves it a quarter of the work.
        hidden = F.relu(self._pool(first(segments[:, None]), 0))
        hidden = self.dropout(F.relu(self._pool(second(hidden), 1)))
        hidden = self.dropout(F.relu(third(hidden)))
        hidden = self.dropout(F.relu(self._pool(fourth(hidden), 2)))
        hidden = self.dropout(F.relu(fifth(hidden)))
        features = F.relu(sixth(hidden)).flatten(1)  # (S, C): channel, mel bin, frame
        return features if self.projection is None else self.projection(features)

    def _pool(self, hidden: torch.Tensor, index: int) -> torch.Tensor:
        if self.pool_sizes is not None:
            return adaptive_max_pool(hidden, self.pool_sizes[index])
        return F.max_pool2d(hidden, 2, padding=(0, 1 if index == 0 else 0))


class DenseSegmentEncoder(nn.Module):
    """Four dense layers on the flattened segment (`"dff"`)."""

    def __init__(self, config: NISQAConfig):
        super().__init__()
        size = self.output_size = config.segment_feature_size
        self.input_norm = nn.BatchNorm2d(1)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"linear": nn.Linear(inputs, size), "norm": nn.BatchNorm1d(size)})
            for inputs in (config.num_mel_bins * config.segment_frames, size, size, size)
        )
        self.dropout = nn.Dropout(config.segment_dropout)

    def forward(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Map pieces of segments, each `(S, K, F)`, to their features, each `(S, C)`, one by one."""
        for segments in pieces:
            features = self.input_norm(segments[:, None]).flatten(1)  # (S, K * F)
            for index, layer in enumerate(self.layers):
                features = features if index == 0 else self.dropout(features)
                features = F.relu(layer["norm"](layer["linear"](features)))
            yield features


class SelfAttentionEncoder(nn.Module):
    """Projection, layer norm and transformer layers without positions: the order of segments does not count."""

    def __init__(self, config: NISQAConfig, input_size: int):
        super().__init__()
        self.output_size = config.hidden_size
        self.input_projection = nn.Linear(input_size, config.hidden_size)
        self.input_norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden_size, config.num_attention_heads, config.intermediate_size, config.dropout)
            for _ in range(config.num_hidden_layers)
        )

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features of segments `(S, C)` to what `forward` takes, `(S, D)`, which is smaller; every segment alone."""
        return self.input_norm(self.input_projection(features))

    def forward(
        self, hidden_states: torch.Tensor, segment_mask: torch.Tensor | None = None, trace: LayerTrace | None = None
    ) -> torch.Tensor:
        """Map projected segments `(B, N, D)` to hidden states of that shape; `segment_mask` `(B, N)` is `True` on real segments."""
        return run_layers(self.layers, hidden_states, segment_mask, trace or LayerTrace())


class LSTMEncoder(nn.Module):
    """One LSTM from the start to the end and one from the end to the start, side by side."""

    def __init__(self, config: NISQAConfig, input_size: int):
        super().__init__()
        self.output_size = 2 * config.hidden_size
        self.forward_lstm = nn.LSTM(input_size, config.hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, config.hidden_size, batch_first=True)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features of segments `(S, C)` unchanged, as the LSTM takes them."""
        return features

    def forward(
        self, features: torch.Tensor, segment_mask: torch.Tensor | None = None, trace: LayerTrace | None = None
    ) -> torch.Tensor:
        """Map features `(B, N, C)` to hidden states `(B, N, 2 * D)`; padding after the last real segment is never read."""
        if segment_mask is not None and torch.compiler.is_compiling() and torch.compiler.is_exporting():
            raise NotImplementedError(
                "Expected an export of NISQA with an LSTM without `attention_mask`, got one with it: exporters fix the number of "
                "segments of a masked LSTM to that of the example. Export without the mask and score recordings of one length "
                "together."
            )
        lengths = None if segment_mask is None else segment_mask.sum(dim=1)
        hidden_states = run_both_ways(self.forward_lstm, self.backward_lstm, features, lengths)
        if trace is not None:
            trace.keep(features)
            trace.keep(hidden_states)
        return hidden_states

    def last_and_mean(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last state of each direction and the mean over time, each `(B, 2 * D)`, in constant memory."""
        last, mean = [], []
        for lstm, ordered in ((self.forward_lstm, features), (self.backward_lstm, features.flip(1))):
            state, total = None, 0.0
            for piece in ordered.split(LSTM_STEPS_PER_CALL, dim=1):
                hidden_states, state = run_lstm(lstm, piece, state)
                total = total + hidden_states.sum(dim=1)
            last.append(hidden_states[:, -1])
            mean.append(total / features.shape[1])
        return torch.cat(last, dim=-1), torch.cat(mean, dim=-1)


class StepPooling(nn.Module):
    """A score from the last state of each LSTM direction (`"last_step_bi"`) or from the mean over the real segments (`"avg"`)."""

    def __init__(self, hidden_size: int, kind: str):
        super().__init__()
        self.kind = kind
        self.score_head = nn.Linear(hidden_size, 1)

    def forward(self, hidden_states: torch.Tensor, segment_mask: torch.Tensor | None = None) -> torch.Tensor:
        if segment_mask is None:
            segment_mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        num_segments = segment_mask.sum(dim=1, keepdim=True)
        if self.kind == "avg":
            total = torch.where(segment_mask[..., None], hidden_states, 0.0).sum(dim=1)
            return self.score_head(total / num_segments)  # (B, 1)
        ahead, back = hidden_states.chunk(2, dim=-1)
        last = ahead.gather(1, (num_segments - 1)[..., None].expand(-1, 1, ahead.shape[-1]))[:, 0]
        return self.score_head(torch.cat([last, back[:, 0]], dim=-1))  # (B, 1)


class NISQA(AudioQualityPreTrainedModel):
    """NISQA v2 and its relatives: overall quality, and with the five-dimension model what is wrong with it.

    A recording of any length is scored as a whole. Time and memory grow with its length, except that the time of the transformer's
    attention grows with the square (its matrix for an hour would have 8 billion weights and is never held): ten seconds take 0.04 s
    of a processor core, an hour about 70 s, 50 of them in the attention.
    """

    config: NISQAConfig
    config_class = NISQAConfig
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Halving a megabyte gains nothing: in bfloat16 throughout the error is 0.08 MOS, with the convolutions alone 0.04.
    _keep_in_fp32_modules_strict = ["segment_encoder", "time_encoder", "pools"]

    def __init__(self, config: NISQAConfig):
        super().__init__(config)
        self.segment_encoder = DenseSegmentEncoder(config) if config.segment_encoder == "dff" else ConvSegmentEncoder(config)
        time_encoder = SelfAttentionEncoder if config.time_encoder == "self_att" else LSTMEncoder
        self.time_encoder = time_encoder(config, self.segment_encoder.output_size)
        pool = partial(StepPooling, kind=config.pooling)
        if config.pooling == "att":
            pool = partial(AttentionPooling, intermediate_size=config.pooling_size, num_labels=1)
        self.pools = nn.ModuleList(pool(self.time_encoder.output_size) for _ in range(config.num_labels))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.LSTM)):
            start_as_torch(module)
        elif isinstance(module, AttentionPooling):
            init.zeros_(module.attention_score.bias)  # the softmax does not see it
        elif isinstance(module, SelfAttentionEncoder):
            for name, parameter in module.named_parameters():
                if parameter.dim() > 1:
                    init.xavier_uniform_(parameter)
                elif "_proj.bias" in name:
                    init.zeros_(parameter)

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        return FineTuningDefaults(("segment_encoder",))

    def make_feature_extractor(self) -> NISQAFeatureExtractor:
        """Return a feature extractor with the settings that this checkpoint needs, ready to be saved beside it."""
        return NISQAFeatureExtractor.from_config(self.config)

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Return an example input of the ONNX graph, log-mel spectra in dB, with the axes that may have any size."""
        shape = 2, 4 * self.config.segment_frames, self.config.num_mel_bins
        return {"input_features": (10 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 40, (0, 1))}

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_features (`torch.Tensor` of shape `(B, W, K)`): Log-mel spectra in dB, as [`NISQAFeatureExtractor`] makes them.
            attention_mask (`torch.Tensor` of shape `(B, W)`, *optional*): 1 on frames, 0 on padding after them.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            output_attentions (`bool`, *optional*): Whether to return the weights of every layer over time, `(B, H, N, N)`.
            output_hidden_states (`bool`, *optional*): Whether to return what goes into the first layer over time and the output of
                each, `(B, N, D)`; an LSTM is one layer.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` in label units; nothing clips them to the scale.

        Raises:
            ValueError: If the input has another shape, a recording has too few frames for one segment, or `output_attentions` is
                asked of an LSTM.
        """
        if output_attentions and not isinstance(self.time_encoder, SelfAttentionEncoder):
            raise ValueError(
                "Expected `output_attentions` of a NISQA with self-attention over time, got one with an LSTM: it has none."
            )
        segments = self.cut_segments(input_features)  # (B, N, K, F)
        segment_mask = None if attention_mask is None else self._segment_mask(attention_mask, segments.shape[1])
        features = self._encode_segments(segments, segment_mask)  # (B, N, D), or C for an LSTM
        trace = self.layer_trace(output_attentions, output_hidden_states)
        hidden_states = self.time_encoder(features, segment_mask, trace).to(_dtype(self.pools))  # (B, N, D)
        logits = torch.cat([pool(hidden_states, segment_mask) for pool in self.pools], dim=1).float()  # (B, L)
        return AudioQualityOutput(loss=self.compute_loss(logits, labels), logits=logits, **trace.outputs())

    def cut_segments(self, input_features: torch.Tensor) -> torch.Tensor:
        """Cut spectra `(B, W, K)` into overlapping segments `(B, N, K, F)`, as in the original, every `segment_hop_frames`."""
        config = self.config
        if input_features.dim() != 3 or input_features.shape[2] != config.num_mel_bins:
            raise ValueError(
                f"Expected `input_features` of shape (batch_size, num_frames, {config.num_mel_bins}), got "
                f"{tuple(input_features.shape)}; NISQAFeatureExtractor makes them."
            )
        self._check_num_frames(input_features.shape[1])
        return input_features.unfold(1, config.segment_frames, config.segment_hop_frames)

    def _segment_mask(self, attention_mask: torch.Tensor, num_segments: int) -> torch.Tensor:
        """Return a mask `(B, N)` that is `True` on segments without padding."""
        num_frames = attention_mask.sum(dim=1)
        if not torch.compiler.is_compiling():
            self._check_num_frames(int(num_frames.min()))
        own_segments = (num_frames - self.config.segment_frames) // self.config.segment_hop_frames + 1
        return torch.arange(num_segments, device=attention_mask.device) < own_segments[:, None]

    def _check_num_frames(self, num_frames: int) -> None:
        if num_frames < self.config.segment_frames:
            raise ValueError(
                f"Expected at least {self.config.segment_frames} frames in every recording, enough for one segment "
                f"({(self.config.segment_frames - 1) * self.config.hop_seconds:.3f} s), got {num_frames}."
            )

    def _encode_segments(self, segments: torch.Tensor, segment_mask: torch.Tensor | None) -> torch.Tensor:
        """Return projected features `(B, N, D)` of segments `(B, N, K, F)`. Padding skips the batch norms and gives 0."""
        if segment_mask is None or torch.compiler.is_compiling():
            return self._encode(segments.flatten(0, 1)).unflatten(0, segments.shape[:2])
        encoded = self._encode(segments[segment_mask])
        features = encoded.new_zeros(*segments.shape[:2], encoded.shape[-1])
        return features.masked_scatter(segment_mask[..., None], encoded)

    def _encode(self, segments: torch.Tensor) -> torch.Tensor:
        """Return projected features `(S, D)` of segments `(S, K, F)`; without gradients, a bounded number at a time."""
        dtype, time_dtype = _dtype(self.segment_encoder), _dtype(self.time_encoder)
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            pieces = [segments]
        else:
            pieces = segments.split(SEGMENTS_PER_CALL.get(self.device.type, SEGMENTS_PER_CALL_ELSEWHERE))
        encoded = self.segment_encoder(piece.to(dtype) for piece in pieces)
        return torch.cat([self.time_encoder.project(features.to(time_dtype)) for features in encoded])

    def _score_recordings(
        self, recordings: Sequence[Recording], feature_extractor: Any, mode: str, hop_seconds: float | None
    ) -> list[RecordingScores]:
        results = []  # an hour of audio keeps 69 MB of spectrum and, for NISQA v2, 23 MB of projected segments
        for recording in recordings:
            spectrum = feature_extractor.log_mel(recording.blocks(), recording.sampling_rate)
            scores = self.score_spectrum(torch.from_numpy(spectrum).to(self.device)).cpu().numpy()
            results.append(RecordingScores(scores, np.array([0]), np.array([recording.num_samples]), scores[None]))
        return results

    def score_spectrum(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Score one log-mel spectrum `(W, K)` of any length: `(L,)`, in label units."""
        if isinstance(self.time_encoder, SelfAttentionEncoder) or self.config.pooling == "att":
            return self(spectrum[None]).logits[0]
        features = self._encode(self.cut_segments(spectrum[None])[0])[None]  # (1, N, C)
        last, mean = self.time_encoder.last_and_mean(features)
        pooled = (last if self.config.pooling == "last_step_bi" else mean).to(_dtype(self.pools))
        return torch.cat([pool.score_head(pooled) for pool in self.pools], dim=1).float()[0]


def adaptive_max_pool(hidden: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """`F.adaptive_max_pool2d` of `(S, C, K, F)`, from operations that every runtime has and that are fast with channels last."""
    for dim, num_windows in zip((2, 3), output_size, strict=True):
        size = hidden.shape[dim]
        starts = [index * size // num_windows for index in range(num_windows)]
        ends = [-(-(index + 1) * size // num_windows) for index in range(num_windows)]
        step, length = starts[1] if num_windows > 1 else 1, ends[0]
        if starts == list(range(0, num_windows * step, step)) and ends == [start + length for start in starts]:
            stop = (num_windows - 1) * step + 1
            members = [hidden[(slice(None),) * dim + (slice(first, first + stop, step),)] for first in range(length)]
            hidden = reduce(torch.maximum, members)
        else:
            windows = [
                reduce(torch.maximum, [hidden.narrow(dim, index, 1) for index in range(start, end)])
                for start, end in zip(starts, ends, strict=True)
            ]
            hidden = torch.cat(windows, dim=dim)
    return hidden


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
