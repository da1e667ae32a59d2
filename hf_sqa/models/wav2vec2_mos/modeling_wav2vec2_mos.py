"""SSL-MOS: opinion scores from a fine-tuned speech encoder.

Paper:    Cooper et al., "Generalization Ability of MOS Prediction Networks", ICASSP 2022, arXiv:2110.02635; trained on other
          languages and amounts of data in "Exploring the influence of fine-tuning data on wav2vec 2.0 model for blind speech
          quality prediction"
Code:     https://github.com/nii-yamagishilab/mos-finetune-ssl, mos_fairseq.py (BSD 3-Clause)
Weights:  SSL-MOS checkpoints by its authors (BSD 3-Clause), converted from the file; any encoder of the Hub to start from
Differs:  padding is masked unless `mask_padding=False`; any encoder, layer, mix of layers, pooling, number of scores; optionally
          bounded scores and variances. Converted weights with `mask_padding=False` give the original's scores, padded batches
          included. The original pools features and then scores them; scoring frames and then pooling is the same to rounding.
Shapes:   B batch, T samples or spectra, F frames, D hidden size, L labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from hf_sqa.blocks.encoder_mixin import FreezesEncoder
from hf_sqa.blocks.feature_cache import encoder_features
from hf_sqa.blocks.layers import start_as_torch
from hf_sqa.blocks.losses import rated_targets
from hf_sqa.blocks.pooling import build_pooling, mark_padding, pool
from hf_sqa.blocks.pruning_layout import EncoderLayout
from hf_sqa.blocks.speech_encoder import (
    SPECTRA_PER_FRAME,
    build_encoder,
    frame_mask,
    front_modules,
    in_precision_of,
    is_quality_model,
    output_size,
    pads_safely,
    scale_feature_gradient,
    takes_spectra,
)
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.wav2vec2_mos.configuration_wav2vec2_mos import Wav2Vec2ForMOSConfig
from hf_sqa.outputs import AudioQualityOutput


@dataclass
class Wav2Vec2ForMOSOutput(AudioQualityOutput):
    """Output of [`Wav2Vec2ForMOS`].

    Args:
        frame_logits (`torch.Tensor` of shape `(B, F, L)`): Scores per frame in label units, NaN on padding. `logits` is their
            average over time with the weights of the pooling: with `pooling="mean"` their plain mean.
        log_variances (`torch.Tensor` of shape `(B, L)`, *optional*): Natural logarithm of the variance of every score, in squared
            label units; returned with `predict_log_variance=True`.
    """

    log_variances: torch.Tensor | None = None


class LayerMix(nn.Module):
    """Learned average of layers: one weight each, positive, summing to 1, equal at first (SUPERB's featurizer)."""

    def __init__(self, num_layers: int):
        super().__init__()
        self.layer_scores = nn.Parameter(torch.zeros(num_layers))

    @property
    def weights(self) -> torch.Tensor:
        """Weight of every layer, `(num_layers,)`."""
        return self.layer_scores.softmax(dim=0)

    def forward(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Average `num_layers` tensors of one shape."""
        return sum(weight * layer for weight, layer in zip(self.weights, layers, strict=True))


class Wav2Vec2ForMOS(FreezesEncoder, AudioQualityPreTrainedModel):
    """Speech encoder, one linear layer per frame, average over time.

    `pads_safely` depends on the encoder: group norm (wav2vec 2.0 base) looks at padding before any mask can hide it.
    """

    config: Wav2Vec2ForMOSConfig
    config_class = Wav2Vec2ForMOSConfig
    # A score of 3.9 has steps of 0.016 in bfloat16, and so would an average over time.
    _keep_in_fp32_modules_strict = ["layer_mix", "pooling", "score_head", "log_variance_head"]

    def __init__(self, config: Wav2Vec2ForMOSConfig, encoder: PreTrainedModel | None = None):
        """Build the model around an encoder from `load_encoder`, which has weights; a random encoder if not given."""
        super().__init__(config)
        hidden_size = output_size(config.encoder_config)
        self.encoder = build_encoder(config.encoder_config, self.last_layer(config)) if encoder is None else encoder
        if config.mix_layers:
            self.layer_mix = LayerMix(self.encoder.config.num_hidden_layers + 1)
        self.pooling = build_pooling(
            config.pooling, hidden_size, num_frames=config.num_last_frames, attention_size=config.attention_size
        )
        self.score_head = nn.Linear(hidden_size, config.num_labels)
        if config.predict_log_variance:
            self.log_variance_head = nn.Linear(hidden_size, config.num_labels)
        scale_feature_gradient(self.encoder, config.feature_grad_mult)
        self.main_input_name = self.encoder.main_input_name
        self.post_init()
        self.freeze()

    @staticmethod
    def reads_layers(options: dict[str, Any]) -> bool:
        return bool(options.get("mix_layers"))

    @staticmethod
    def last_layer(config: Wav2Vec2ForMOSConfig) -> int | None:
        if config.mix_layers and config.layer is None:
            return config.encoder_config.num_hidden_layers
        return config.layer

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerMix):
            init.zeros_(module.layer_scores)
        elif isinstance(module, nn.Linear):
            start_as_torch(module)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Wav2Vec2ForMOSOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`, *optional*): Mono waveforms at `config.sampling_rate`, at least as long
                as one frame of the encoder (400 samples for wav2vec 2.0).
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end; ignored with
                `mask_padding=False`.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            input_features (`torch.Tensor` of shape `(B, T, 160)`, *optional*): Instead of `input_values` for w2v-BERT 2.0.
            output_attentions (`bool`, *optional*): Whether to return attention weights; needs `attn_implementation="eager"`.
            output_hidden_states (`bool`, *optional*): Whether to return all layers built, all before any final layer norm.

        Returns:
            [`Wav2Vec2ForMOSOutput`], with `logits` of shape `(B, L)` in label units, in float32.

        Raises:
            ValueError: If the input is of the wrong kind or shape or too short for a frame, or `labels` has another shape.
        """
        inputs = self._checked_input(input_values, input_features)
        if not self.config.mask_padding:
            attention_mask = None
        self.row_lengths(inputs, attention_mask)

        outputs = self._encode(inputs, attention_mask, output_attentions, output_hidden_states)
        hidden_states = self.layer_mix(outputs.hidden_states) if self.config.mix_layers else outputs.last_hidden_state  # (B, F, D)
        real_frames = None
        if attention_mask is not None:
            real_frames = frame_mask(self.encoder, attention_mask, hidden_states.shape[1])  # (B, F)

        hidden_states = hidden_states.to(self.score_head.weight.dtype)
        weights = self.pooling(hidden_states, real_frames)  # (B, F)
        frame_logits = self.score_head(hidden_states).float()  # (B, F, L)
        if self.config.bound_scores:
            frame_logits = self.in_score_range(frame_logits)
        logits = pool(frame_logits, weights)  # (B, L)
        log_variances = None
        if self.config.predict_log_variance:
            log_variances = pool(self.log_variance_head(hidden_states).float(), weights)  # (B, L)

        return Wav2Vec2ForMOSOutput(
            loss=self.compute_loss(logits, labels) if log_variances is None else _gaussian_loss(logits, log_variances, labels),
            logits=logits,
            frame_logits=mark_padding(frame_logits, real_frames),
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
            log_variances=log_variances,
        )

    def _encode(
        self,
        inputs: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> BaseModelOutput:
        inputs, is_quality = in_precision_of(self.encoder, inputs), is_quality_model(self.config.encoder_config)
        more = output_attentions or output_hidden_states
        if is_quality and more:
            raise ValueError(
                f"Expected neither `output_attentions` nor `output_hidden_states` with a {self.config.encoder_config.model_type} "
                "encoder, got one: it gives its last features only."
            )
        if is_quality or (self.config.freeze_encoder and not more):
            layers = range(self.encoder.config.num_hidden_layers + 1) if self.config.mix_layers else None
            features = encoder_features(self.encoder, inputs, attention_mask, layers)
            return BaseModelOutput(last_hidden_state=features[-1], hidden_states=tuple(features))
        return self.encoder(
            **{self.main_input_name: inputs},
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states or self.config.mix_layers,
        )

    def _checked_input(self, input_values: torch.Tensor | None, input_features: torch.Tensor | None) -> torch.Tensor:
        given = {"input_values": input_values, "input_features": input_features}
        inputs = given.pop(self.main_input_name)
        if inputs is None or any(other is not None for other in given.values()):
            raise ValueError(
                f"Expected `{self.main_input_name}` alone for a {self.config.encoder_config.model_type} encoder; "
                "`model.make_feature_extractor()` makes the feature extractor that returns it."
            )
        return inputs

    @property
    def pads_safely(self) -> bool:  # type: ignore[override]
        """Whether a score is the same alone and padded in a batch: only with `mask_padding`, and for encoders that allow it."""
        return self.config.mask_padding and pads_safely(self.config.encoder_config)

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """See [`AudioQualityPreTrainedModel.fine_tuning_defaults`]; on a CPU, only what follows the encoder is trained."""
        if device == "cpu":
            return FineTuningDefaults(("encoder",), learning_rate=3e-4)
        return FineTuningDefaults(front_modules(self.config.encoder_config), learning_rate=1e-5)

    def pruning_layout(self) -> EncoderLayout:
        """See [`AudioQualityPreTrainedModel.pruning_layout`]; a mix of layers keeps them all, as it has a weight for each."""
        return EncoderLayout(self, "layer", may_drop_layers=not self.config.mix_layers)

    def make_feature_extractor(self) -> Any:
        """Return a feature extractor with the settings this checkpoint needs; a `SeamlessM4TFeatureExtractor` for w2v-BERT 2.0."""
        shared = {"sampling_rate": self.config.sampling_rate, "return_attention_mask": self.config.mask_padding}
        if not takes_spectra(self.config.encoder_config):
            return Wav2Vec2FeatureExtractor(do_normalize=self.config.do_normalize, **shared)
        num_bins = self.config.encoder_config.feature_projection_input_dim // SPECTRA_PER_FRAME
        return SeamlessM4TFeatureExtractor(feature_size=num_bins, num_mel_bins=num_bins, stride=SPECTRA_PER_FRAME, **shared)

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """See [`AudioQualityPreTrainedModel.onnx_inputs`]; spectra for w2v-BERT 2.0."""
        if not takes_spectra(self.config.encoder_config):
            return super().onnx_inputs()
        num_values = self.config.encoder_config.feature_projection_input_dim
        return {"input_features": (torch.randn(2, 100, num_values, generator=torch.Generator().manual_seed(0)), (0, 1))}


def _gaussian_loss(logits: torch.Tensor, log_variances: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Return the mean negative log-likelihood of the rated labels under a normal distribution, without its constant."""
    if labels is None:
        return None
    targets, rated = rated_targets(logits, labels)
    losses = 0.5 * ((logits - targets).square() * torch.exp(-log_variances) + log_variances)
    return torch.where(rated, losses, torch.zeros_like(losses)).sum() / rated.sum().clamp(min=1)
