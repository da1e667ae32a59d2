"""Pooling over time: how much every frame counts.

A pooling gives weights, not an average, so that the same weights average features, frame scores, or both.
Shapes: B batch, F frames, D hidden size
"""

import torch
from torch import nn

POOLINGS = ("mean", "attention", "last")


class MeanPooling(nn.Module):
    """Pooling in which all real frames count equally."""

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map frames `(B, F, D)` to weights `(B, F)` in float32: 0 where `frame_mask` is `False`, with a sum of 1 in every row."""
        counted = _mask_or_ones(hidden_states, frame_mask)
        return counted / counted.sum(dim=1, keepdim=True)


class LastPooling(nn.Module):
    """Pooling in which only the last real frames count, all equally; in a recording with fewer frames, all of them."""

    def __init__(self, num_frames: int):
        super().__init__()
        self.num_frames = num_frames

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """See [`MeanPooling.forward`]."""
        real = _mask_or_ones(hidden_states, frame_mask)
        frames_left = real.flip(1).cumsum(1).flip(1)  # counts down to 1 on the last real frame
        counted = real * (frames_left <= self.num_frames)
        return counted / counted.sum(dim=1, keepdim=True)


class FrameAttention(nn.Module):
    """Pooling with weights from a small network: softmax over time of `w · tanh(W h + b)`."""

    def __init__(self, hidden_size: int, attention_size: int):
        super().__init__()
        self.attention_hidden = nn.Linear(hidden_size, attention_size)
        # Without a bias: added to every frame alike, it would not change the softmax and never learn.
        self.attention_score = nn.Linear(attention_size, 1, bias=False)

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """See [`MeanPooling.forward`]."""
        scores = self.attention_score(torch.tanh(self.attention_hidden(hidden_states)))[..., 0].float()  # (B, F)
        if frame_mask is not None:
            scores = scores.masked_fill(~frame_mask, float("-inf"))
        return scores.softmax(dim=1)


def build_pooling(kind: str, hidden_size: int, *, num_frames: int = 1, attention_size: int = 128) -> nn.Module:
    """Build a pooling of a kind in `POOLINGS`; `num_frames` is used by `"last"`, the sizes by `"attention"`."""
    if kind == "last":
        return LastPooling(num_frames)
    return FrameAttention(hidden_size, attention_size) if kind == "attention" else MeanPooling()


def pool(frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average frames `(B, F, ...)` over time with weights `(B, F)` to `(B, ...)`."""
    return (frames * weights.reshape(*weights.shape, *[1] * (frames.dim() - 2))).sum(dim=1)


def mark_padding(frame_logits: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Return frame scores `(B, F, L)` with NaN on padding."""
    return frame_logits if frame_mask is None else frame_logits.masked_fill(~frame_mask[..., None], float("nan"))


def _mask_or_ones(hidden_states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    if frame_mask is None:
        return torch.ones(hidden_states.shape[:2], dtype=torch.float32, device=hidden_states.device)
    return frame_mask.float()
