"""The output of models."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from hf_sqa.blocks.result_rows import RecordingScores as RecordingScores


@dataclass
class AudioQualityOutput(ModelOutput):
    """Output of every family's `forward`.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Returned when `labels` are given.
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`): Scores in label units.
        frame_logits (`torch.Tensor` of shape `(batch_size, num_frames, num_labels)`, *optional*): Scores per frame.
        hidden_states (`tuple[torch.Tensor]`, *optional*): Features per layer, each `(batch_size, num_frames, hidden_size)`;
            returned with `output_hidden_states=True`.
        attentions (`tuple[torch.Tensor]`, *optional*): Attention weights per layer, the last two dimensions `num_frames`;
            returned with `output_attentions=True`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    frame_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
