"""MOSA-Net: PESQ, STOI and SDI of speech from its spectrum, a filter bank and self-supervised features, without a reference.

Paper:    Zezario et al., "Deep Learning-Based Non-Intrusive Multi-Objective Speech Assessment Model With Cross-Domain Features",
          IEEE/ACM TASLP 31, 2023, arXiv:2111.02363
Code:     https://github.com/dhimasryan/MOSA-Net-Cross-Domain, MOSA-Net_Cross_Domain.py and its VoiceMOS variant
Weights:  Keras files in the authors' repository, no licence stated; converted from the file
Differs:  see `trunk_mosa_net.py`, which holds the layers; the self-supervised features are computed in the model instead of
          beforehand; a score that is not rated adds nothing to the loss, and the attention's penalty belongs to training only.
Shapes:   B batch, T samples, F frames, F3 self-supervised frames, D feature size, L labels
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, initialization as init
from transformers.utils import can_return_tuple

from hf_sqa.blocks.encoder_mixin import FreezesEncoder
from hf_sqa.blocks.feature_cache import encoder_features
from hf_sqa.blocks.pooling import mark_padding
from hf_sqa.blocks.pruning_layout import EncoderLayout
from hf_sqa.blocks.speech_encoder import (
    build_encoder,
    computes_spectra,
    in_precision_of,
    num_frames_of,
    num_frames_of_samples,
    output_size,
    pads_safely,
)
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig
from hf_sqa.models.mosa_net.heads_mosa_net import TaskHead, TaskHeads, utterance_and_frame_loss
from hf_sqa.models.mosa_net.trunk_mosa_net import MOSATrunk, peak_normalize
from hf_sqa.outputs import AudioQualityOutput


class MOSANet(FreezesEncoder, AudioQualityPreTrainedModel):
    """MOSA-Net: objective scores that usually take a clean reference (PESQ, STOI, SDI), or MOS, of a recording alone."""

    config: MOSANetConfig
    config_class = MOSANetConfig
    _supports_flex_attn = False
    # The trunk is a two-hundredth of the encoder's work, and its spectra span six decades.
    _keep_in_fp32_modules_strict = ["trunk", "score_heads"]

    def __init__(self, config: MOSANetConfig):
        super().__init__(config)
        self.trunk = MOSATrunk(config, output_size(config.encoder_config))
        self.score_heads = TaskHeads(config.score_names, config.hidden_size, config.score_activations, config.score_scales)
        if not config.precomputed_features:
            self.encoder = build_encoder(config.encoder_config, config.encoder_layer)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Keras's initial values: Glorot, orthogonal recurrences, a forget bias of 1.
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            init.xavier_uniform_(module.weight_ih_l0)
            init.orthogonal_(module.weight_hh_l0)
            forget_bias = torch.zeros(4, module.hidden_size, dtype=torch.float32, device="cpu")
            forget_bias[1] = 1
            init.copy_(module.bias_ih_l0, forget_bias.flatten())
            init.zeros_(module.bias_hh_l0)
        elif isinstance(module, TaskHead):
            init.xavier_normal_(module.attention.weight)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        ssl_features: torch.Tensor | None = None,
        ssl_attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz, any gain.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            ssl_features (`torch.Tensor` of shape `(B, F3, D)`, *optional*): The encoder's features, computed beforehand.
            ssl_attention_mask (`torch.Tensor` of shape `(B, F3)`, *optional*): 1 on features, 0 on padding at the end; derived from
                `attention_mask` if not given.
            output_attentions (`bool`, *optional*): Whether to return the weights of every score's attention, `(B, F, F)`.
            output_hidden_states (`bool`, *optional*): Whether to return the frames that the heads see, `(B, F, D)`, as only entry.

        Returns:
            [`AudioQualityOutput`], with `logits` `(B, L)` and `frame_logits` `(B, F, L)` in label units. The frames of a recording
            are those of the spectrum (62.5 per second), then the filter bank's (62.5), then the encoder's (50), then NaN.

        Raises:
            ValueError: If a recording is too short for one frame, shapes do not fit, or a model without encoder gets no features.
        """
        lengths = self.row_lengths(input_values, attention_mask)
        if lengths is not None and not torch.compiler.is_exporting() and int(lengths.min()) == input_values.shape[1]:
            lengths = None  # no row has padding
        normalized = peak_normalize(input_values, lengths)
        if ssl_features is None:
            ssl_features = self._encode(input_values, normalized, None if lengths is None else attention_mask)
            ssl_lengths = None if lengths is None else num_frames_of(self.encoder, lengths)
        else:
            if computes_spectra(self.config.encoder_config) and ssl_attention_mask is None:
                # Whisper itself always gives the frames of 30 s.
                ssl_features = ssl_features[:, : num_frames_of_samples(self.config.encoder_config, input_values.shape[1])]
            ssl_lengths = self._ssl_lengths(ssl_features, input_values, lengths, ssl_attention_mask)
            if ssl_lengths is not None and lengths is None:
                lengths = torch.full((input_values.shape[0],), input_values.shape[1], device=input_values.device)
        frames = self.trunk(normalized, ssl_features, lengths, ssl_lengths)
        with_penalties = self.training and labels is not None and self.config.attention_penalty_weight > 0
        scores = self.score_heads(frames, with_penalties, self.layer_trace(output_attentions).explicit)
        return AudioQualityOutput(
            loss=None if labels is None else utterance_and_frame_loss(scores, frames.mask, labels, self.config),
            logits=scores.logits,
            frame_logits=mark_padding(scores.frame_logits, frames.mask),
            hidden_states=(frames.hidden_states,) if output_hidden_states else None,
            attentions=scores.attentions if output_attentions else None,
        )

    @staticmethod
    def last_layer(config: MOSANetConfig) -> int | None:
        return config.encoder_layer

    @classmethod
    def around_encoder(cls, config: MOSANetConfig, load: Callable[[], PreTrainedModel]) -> Any:
        model = cls(config)  # built first, so that a seed gives the same trunk whatever encoder is loaded
        if model.scores_waveforms:
            model.encoder = load()
            model.freeze()
        return model

    @property
    def pads_safely(self) -> bool:
        """Whether padding leaves scores unchanged: true unless the encoder averages over time before any mask is seen."""
        return self.config.precomputed_features or pads_safely(self.config.encoder_config)

    @property
    def scores_waveforms(self) -> bool:
        return not self.config.precomputed_features

    @property
    def needs_bands(self) -> bool:
        """Whether [`measure_bands`] has yet to measure mean and deviation of the encoder's channels."""
        trunk = self.trunk
        return trunk.standardize_ssl_features and not bool(trunk.ssl_mean.any() or (trunk.ssl_deviation != 1).any())

    @torch.no_grad()
    def measure_bands(self, windows: Iterable[np.ndarray]) -> None:
        """Measure mean and deviation of every channel of the encoder's features on training speech; short windows are left out."""
        if not self.trunk.standardize_ssl_features:
            super().measure_bands(windows)
        num_frames, total, squares = 0, torch.zeros(()), torch.zeros(())
        for window in windows:
            if len(window) < self.min_samples:
                continue
            waveform = torch.from_numpy(window).float().to(self.device)[None]
            features = self._encode(waveform, peak_normalize(waveform), None)[0].double().cpu()
            num_frames, total, squares = num_frames + len(features), total + features.sum(0), squares + features.square().sum(0)
        if not num_frames:
            raise ValueError(f"Expected training speech of at least {self.min_samples} samples to measure features of, got none.")
        mean = total / num_frames
        self.trunk.ssl_mean.copy_(mean)
        self.trunk.ssl_deviation.copy_((squares / num_frames - mean.square()).clamp(min=1e-12).sqrt())

    def begin_at(self, scores: Sequence[float]) -> None:
        """See [`AudioQualityPreTrainedModel.begin_at`]."""
        for head, score in zip(self.score_heads.values(), scores, strict=True):
            if not math.isnan(score):
                head.begin_at(float(score))

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        return FineTuningDefaults(("encoder",), learning_rate=3e-4) if self.scores_waveforms else FineTuningDefaults()

    def pruning_layout(self) -> EncoderLayout:
        """See [`AudioQualityPreTrainedModel.pruning_layout`]; a model on precomputed features has nothing to prune."""
        return EncoderLayout(self, "encoder_layer") if self.scores_waveforms else super().pruning_layout()

    @property
    def min_samples(self) -> int:
        """Length in samples of the shortest waveform that gives a frame of every feature."""
        return max(self.trunk.min_samples, super().min_samples)

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Return example inputs of the ONNX graph; short ones, because tracing walks through the recurrence frame by frame."""
        generator = torch.Generator().manual_seed(0)
        waveforms = 0.1 * torch.randn(2, self.config.sampling_rate // 16, generator=generator)
        inputs: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {"input_values": (waveforms, (0, 1))}
        if self.config.precomputed_features:
            features = torch.randn(2, 3, output_size(self.config.encoder_config), generator=generator)
            inputs["ssl_features"] = (features, (0, 1))
        return inputs

    def _encode(self, input_values: torch.Tensor, normalized: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.config.precomputed_features:
            raise ValueError(
                "Expected `ssl_features`, got none: this model was built with `precomputed_features=True` and has no encoder. Pass "
                f"features of shape (batch_size, num_frames, {output_size(self.config.encoder_config)}), or convert the checkpoint "
                "again with an encoder."
            )
        waveform = {"peak": normalized, "raw": input_values.float(), "standardized": None}[self.config.encoder_input]
        if waveform is None:
            waveform = standardize(input_values, mask)
        elif mask is not None:
            waveform = waveform * mask
        return encoder_features(self.encoder, in_precision_of(self.encoder, waveform), mask)[0]

    def _ssl_lengths(
        self,
        ssl_features: torch.Tensor,
        input_values: torch.Tensor,
        lengths: torch.Tensor | None,
        ssl_attention_mask: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Return the number of frames in each row of precomputed features, or `None` if neither they nor waveforms have padding."""
        expected = (input_values.shape[0], output_size(self.config.encoder_config))
        if ssl_features.dim() != 3 or (ssl_features.shape[0], ssl_features.shape[2]) != expected:
            raise ValueError(
                f"Expected `ssl_features` of shape ({expected[0]}, num_frames, {expected[1]}), got {tuple(ssl_features.shape)}; "
                "their width is the `hidden_size` of `encoder_config`."
            )
        if ssl_attention_mask is not None:
            ssl_lengths = ssl_attention_mask.sum(dim=1)
            if lengths is None and not torch.compiler.is_exporting() and bool((ssl_lengths == ssl_features.shape[1]).all()):
                return None
            return ssl_lengths
        if lengths is None:
            return None
        ssl_lengths = num_frames_of_samples(self.config.encoder_config, lengths)
        if not torch.compiler.is_exporting() and int(ssl_lengths.max()) > ssl_features.shape[1]:
            raise ValueError(
                f"Expected `ssl_features` with {int(ssl_lengths.max())} frames for {int(lengths.max())} samples, got "
                f"{ssl_features.shape[1]}; if they come at another rate, mark their padding by `ssl_attention_mask`."
            )
        return ssl_lengths


def standardize(waveform: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Bring rows of `(B, T)` to mean 0 and variance 1 like `Wav2Vec2FeatureExtractor(do_normalize=True)`; padding becomes 0."""
    waveform = waveform.float()
    real = torch.ones_like(waveform) if mask is None else mask.float()
    count = real.sum(dim=1, keepdim=True)
    centered = (waveform - (waveform * real).sum(dim=1, keepdim=True) / count) * real
    return centered / (centered.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()
