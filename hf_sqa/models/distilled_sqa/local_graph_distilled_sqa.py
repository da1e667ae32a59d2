"""The local quality of DistilledSQA as an ONNX graph: samples to a score and a weight for every step of 80 ms."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_sqa.models.distilled_sqa.local_distilled_sqa import FrameScorer


class LocalGraph(nn.Module):
    """What [`FrameScorer`] computes of one stretch of samples; how stretches are cut, and which peak divides them, is not in it.

    Args:
        model ([`DistilledSQA`]): The model.
        scorer ([`FrameScorer`]): Its scorer, by a head.

    Attributes:
        settings (`dict`): How [`FrameScorer`] cuts a recording, in samples: `step`, `chunk`, `margin`; `peak_chunks`,
            `peaks_per_octave`; and `level`, how it lays the curve ([`hf_sqa.blocks.local_steps.CurveLevel`]).
    """

    def __init__(self, model: Any, scorer: FrameScorer):
        super().__init__()
        self.spectrum, self.trunk, self.head = model.spectrum, model.trunk, scorer._head
        self._frames_per_step = scorer._frames_per_step
        self.settings = scorer.cut.settings

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_values (`torch.Tensor` of shape `(1, T)`): Samples divided by their peak, of whole steps.

        Returns:
            `torch.Tensor` of shape `(2, S)`: Scores and weights of the steps.
        """
        frames = self.trunk(self.spectrum(input_values))[0]
        steps = frames.reshape(-1, self._frames_per_step, frames.shape[1]).mean(dim=1)  # `steps_of`, without a length of its own
        return torch.stack(self.head(steps.float()))
