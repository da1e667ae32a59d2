"""MOSA-Net: PESQ, STOI and SDI of speech from its spectrum, a filter bank and self-supervised features, without a reference.

Paper:    Zezario et al., "Deep Learning-Based Non-Intrusive Multi-Objective Speech Assessment Model With Cross-Domain Features",
          IEEE/ACM TASLP 31, 2023, arXiv:2111.02363
Code:     https://github.com/dhimasryan/MOSA-Net-Cross-Domain, MOSA-Net_Cross_Domain.py and its VoiceMOS variant
Weights:  Keras files in the authors' repository, no licence stated; converted from the file
Differs:  see `hf_sqa.blocks.mosa_trunk`, which holds the layers; the self-supervised features are computed in the model instead of
          beforehand; a score that is not rated adds nothing to the loss, and the attention's penalty belongs to training only.
Shapes:   B batch, T samples, F frames, F3 self-supervised frames, D feature size, L labels
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.utils import can_return_tuple

from hf_sqa.blocks.mosa_trunk import CrossDomainScoring, Scores, init_trunk_weights, mark_padding
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig
from hf_sqa.outputs import AudioQualityOutput


class MOSANet(CrossDomainScoring, AudioQualityPreTrainedModel):
    """MOSA-Net: objective scores that usually take a clean reference (PESQ, STOI, SDI), or MOS, of a recording alone."""

    config: MOSANetConfig
    config_class = MOSANetConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The trunk is a two-hundredth of the encoder's work, and its spectra span six decades.
    _keep_in_fp32_modules_strict = ["trunk", "score_heads"]

    def __init__(self, config: MOSANetConfig):
        super().__init__(config)
        self.build_network(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_trunk_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        ssl_features: torch.Tensor | None = None,
        ssl_attention_mask: torch.Tensor | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz, any gain.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            ssl_features (`torch.Tensor` of shape `(B, F3, D)`, *optional*): The encoder's features, computed beforehand.
            ssl_attention_mask (`torch.Tensor` of shape `(B, F3)`, *optional*): 1 on features, 0 on padding at the end; told from
                `attention_mask` if not given.

        Returns:
            [`AudioQualityOutput`], with `logits` `(B, L)` and `frame_logits` `(B, F, L)` in label units. The frames of a recording
            are those of the spectrum (62.5 a second), then the filter bank's (62.5), then the encoder's (50), then NaN.

        Raises:
            ValueError: If a recording is too short for one frame, shapes do not fit, or a model without encoder gets no features.
        """
        frames = self.cross_domain_frames(input_values, attention_mask, ssl_features, ssl_attention_mask)
        with_penalties = self.training and labels is not None and self.config.attention_penalty_weight > 0
        scores = self.score_heads(frames, with_penalties)
        loss = self.cross_domain_loss(scores, frames, labels)
        frame_logits = mark_padding(scores.frame_logits, frames.mask)
        return AudioQualityOutput(loss=loss, logits=scores.logits, frame_logits=frame_logits)

    def score_features(
        self,
        power_spectrum: torch.Tensor,
        filter_bank: torch.Tensor,
        ssl_features: torch.Tensor,
        lengths: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> Scores:
        """Score the three features themselves, as the authors' files hold them.

        Args:
            power_spectrum (`torch.Tensor` of shape `(B, F1, K)`): What the authors call so: magnitudes of `trunk.spectrum`.
            filter_bank (`torch.Tensor` of shape `(B, F2, K)`): Outputs of `trunk.filter_bank`.
            ssl_features (`torch.Tensor` of shape `(B, F3, D)`): Features of the encoder.
            lengths (`tuple` of three `torch.Tensor` of shape `(B,)`, *optional*): Real frames of each; all if not given.

        Returns:
            [`Scores`] with `logits` `(B, L)` and `frame_logits` `(B, F, L)` in label units.
        """
        return self.score_heads(self.trunk.join(power_spectrum, filter_bank, ssl_features, lengths))
