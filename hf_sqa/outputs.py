"""What models return."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.utils import ModelOutput


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


@dataclass
class RecordingScores:
    """Scores of one recording, and of the segments they were averaged from.

    Args:
        scores (`np.ndarray` of shape `(num_labels,)`): Scores in label units.
        segment_starts (`np.ndarray` of shape `(num_segments,)`): First sample of every segment.
        segment_ends (`np.ndarray` of shape `(num_segments,)`): One past its last sample, within the recording.
        segment_scores (`np.ndarray` of shape `(num_segments, num_labels)`): Scores of every segment alone.
    """

    scores: np.ndarray
    segment_starts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    segment_ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    segment_scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
