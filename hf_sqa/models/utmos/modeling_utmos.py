"""UTMOS: naturalness of synthetic speech, from a fine-tuned speech encoder, a listener's and a domain's embedding, and an LSTM.

Paper:    Saeki et al., "UTMOS: UTokyo-SaruLab System for VoiceMOS Challenge 2022", Interspeech 2022, arXiv:2204.02152; the strong
          learner, without phoneme encoder
Code:     https://github.com/sarulab-speech/UTMOS22, strong/ (MIT); for scoring https://github.com/tarepan/SpeechMOS (MIT)
Weights:  `utmos22_strong_step7459_v1.pt`, release v1.0.0 of SpeechMOS, or the Lightning checkpoint of the authors' Space (MIT as
          SpeechMOS says; the terms of their training data, BVCC, are not addressed); converted from the file
Differs:  a recording's score does not depend on padding or on its batch, both of which change the original's: an encoder with group
          norm sees rows of one length at a time, and LSTM and mean stop at the last frame. Losses skip missing labels and
          are in label units. A recording alone gets the original's scores up to rounding.
Shapes:   B batch, T samples, F frames, D hidden size, L labels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel, initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from hf_sqa.blocks.encoder_mixin import FreezesEncoder
from hf_sqa.blocks.layers import start_as_torch
from hf_sqa.blocks.losses import check_label_shape, frame_losses, with_ranking_loss
from hf_sqa.blocks.pooling import mark_padding
from hf_sqa.blocks.precision import run_lstm
from hf_sqa.blocks.speech_encoder import (
    build_encoder,
    front_modules,
    num_frames_of,
    output_size,
    pads_safely,
    scale_feature_gradient,
)
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.utmos.configuration_utmos import UTMOSConfig
from hf_sqa.outputs import AudioQualityOutput


class UTMOS(FreezesEncoder, AudioQualityPreTrainedModel):
    """Strong learner of UTMOS22: every frame's score from encoder, domain, listener and LSTM; the mean over the frames."""

    config: UTMOSConfig
    config_class = UTMOSConfig
    # A score of 3.9 has steps of 0.016 in bfloat16, and so would a mean over time.
    _keep_in_fp32_modules_strict = ["domain_embedding", "judge_embedding", "lstm", "lstm_projection", "score_head"]

    def __init__(self, config: UTMOSConfig, encoder: PreTrainedModel | None = None):
        """Build the model around an encoder from `load_encoder`, which has weights; a random encoder if not given."""
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config, None) if encoder is None else encoder
        self.domain_embedding = nn.Embedding(config.num_domains, config.domain_size)
        self.judge_embedding = nn.Embedding(config.num_judges, config.judge_size)
        input_size = output_size(config.encoder_config) + config.domain_size + config.judge_size
        self.lstm = nn.LSTM(input_size, config.lstm_hidden_size, batch_first=True, bidirectional=True)
        self.lstm_projection = nn.Linear(2 * config.lstm_hidden_size, config.projection_size)
        self.dropout = nn.Dropout(config.dropout)
        self.score_head = nn.Linear(config.projection_size, config.num_labels)
        scale_feature_gradient(self.encoder, config.feature_grad_mult)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.LSTM)):
            start_as_torch(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        """See [`AudioQualityPreTrainedModel.fine_tuning_defaults`]; on a CPU, only what follows the encoder is trained."""
        if device == "cpu":
            return FineTuningDefaults(("encoder",), learning_rate=3e-4)
        return FineTuningDefaults(front_modules(self.config.encoder_config), learning_rate=2e-5)

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Return example inputs of the ONNX graph; short ones, because tracing walks through the recurrence frame by frame."""
        waveforms, axes = super().onnx_inputs()["input_values"]
        return {"input_values": (waveforms[:, : self.config.sampling_rate // 10].contiguous(), axes)}

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
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at `config.sampling_rate`, at least as long as one frame
                of the encoder (400 samples for wav2vec 2.0); nothing is normalised.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            output_attentions (`bool`, *optional*): Whether to return attention weights; needs `attn_implementation="eager"`.
            output_hidden_states (`bool`, *optional*): Whether to return the encoder's layers.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` and `frame_logits` of shape `(B, F, L)`, NaN on padding, in
            label units; nothing clips them to the scale.

        Raises:
            ValueError: If the input has another shape or a row is too short for a frame, or `labels` have another shape.
        """
        lengths = self.row_lengths(input_values, attention_mask)
        wanted = [name for name, is_on in (("hidden_states", output_hidden_states), ("attentions", output_attentions)) if is_on]
        encoded = self._encode(input_values.to(self.dtype), attention_mask, wanted)
        num_frames = None if lengths is None else num_frames_of(self.encoder, lengths)

        frames = self._with_embeddings(encoded.last_hidden_state.to(self.score_head.weight.dtype))
        if num_frames is None:
            states, _ = run_lstm(self.lstm, frames)
        else:
            packed = pack_padded_sequence(frames, num_frames.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(run_lstm(self.lstm, packed)[0], batch_first=True)  # (B, F, 2 * H)
        raw = self.score_head(self.dropout(F.relu(self.lstm_projection(states)))).float()
        middle, half = (self.config.score_min + self.config.score_max) / 2, (self.config.score_max - self.config.score_min) / 2
        frame_logits = middle + half * raw  # (B, F, L)
        real = None
        if num_frames is None:
            logits = frame_logits.mean(dim=1)
        else:
            real = torch.arange(raw.shape[1], device=raw.device) < num_frames[:, None]
            logits = torch.where(real[..., None], frame_logits, 0.0).sum(dim=1) / num_frames[:, None]
        return AudioQualityOutput(
            loss=self._loss(logits, frame_logits, real, labels),
            logits=logits,
            frame_logits=mark_padding(frame_logits, real),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _encode(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None, wanted: Sequence[str]) -> BaseModelOutput:
        """Return what the encoder returns, and thus layers and attention weights if wanted.

        Group norm averages over time before any mask is seen, so an encoder with group norm gets rows of one length at a time.
        """
        options = {"return_dict": True} | {f"output_{name}": True for name in wanted}
        if attention_mask is None or pads_safely(self.config.encoder_config):
            return self.encoder(inputs, attention_mask=attention_mask, **options)
        lengths = attention_mask.sum(dim=1).tolist()
        groups = {length: [row for row, other in enumerate(lengths) if other == length] for length in dict.fromkeys(lengths)}
        outputs = [self.encoder(inputs[rows, : int(length)], **options) for length, rows in groups.items()]
        order = [row for rows in groups.values() for row in rows]
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=inputs.device)

        def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            """Return frames `(b, F, D)`, or attention weights `(b, H, F, F)`, of all groups in the order of the rows."""
            missing = [max(part.shape[-2] for part in parts) - part.shape[-2] for part in parts]
            padded = [F.pad(part, (0, size * (part.dim() == 4), 0, size)) for part, size in zip(parts, missing, strict=True)]
            return torch.cat(padded)[back]

        layers = {name: tuple(map(joined, zip(*(output[name] for output in outputs), strict=True))) for name in wanted}
        return BaseModelOutput(joined([output.last_hidden_state for output in outputs]), **layers)

    def _with_embeddings(self, features: torch.Tensor) -> torch.Tensor:
        """Append the domain's and then the listener's embedding to the features of every frame."""
        parts, config = [features], self.config
        for embedding, index in ((self.domain_embedding, config.domain_id), (self.judge_embedding, config.judge_id)):
            ids = torch.full_like(features[:, 0, 0], index, dtype=torch.long)
            parts.append(embedding(ids)[:, None].expand(-1, features.shape[1], -1))
        return torch.cat(parts, dim=-1)

    def _loss(
        self, logits: torch.Tensor, frame_logits: torch.Tensor, frame_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the mean over recordings of their frames' loss, plus the weighted ranking loss of their scores."""
        if labels is None:
            return None
        check_label_shape(logits, labels)
        labels, config = labels.to(logits), self.config
        rated = ~torch.isnan(labels)
        losses = frame_losses(frame_logits, labels, frame_mask, config).sum(dim=1) / rated.sum(dim=1).clamp(min=1)
        loss = losses.sum() / rated.any(dim=1).sum().clamp(min=1)
        return with_ranking_loss(loss, logits, labels, config)
