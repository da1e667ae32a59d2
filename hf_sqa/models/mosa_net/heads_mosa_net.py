"""The task heads of MOSA-Net and their loss.

Shapes:   B batch, F frames, D hidden size, L labels
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from hf_sqa.blocks.losses import frame_losses, rated_targets, score_errors
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig
from hf_sqa.models.mosa_net.trunk_mosa_net import Frames


class TaskHead(nn.Module):
    """Head from frames to one score: multiplicative self-attention, a linear layer per frame, the mean over frames."""

    def __init__(self, hidden_size: int, activation: str, scale: float):
        super().__init__()
        self.attention = nn.Linear(hidden_size, hidden_size, bias=False)
        self.frame_score = nn.Linear(hidden_size, 1)
        self.activation, self.scale = activation, scale

    def forward(self, frames: Frames, keep_attention: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return frame scores `(B, F)` in label units, float32, and, if kept, the attention weights `(B, F, F)`, 0 on padding."""
        hidden_states, mask = frames
        query = self.attention(hidden_states)
        attention = None
        # The fused attention below would fix the number of frames in an export.
        if keep_attention or torch.compiler.is_exporting():
            weights = query @ hidden_states.transpose(1, 2)  # (B, F, F)
            if mask is not None:
                weights = weights.masked_fill(~mask[:, None], float("-inf"))
            attention = weights.float().softmax(dim=-1)
            context = attention.to(hidden_states.dtype) @ hidden_states
            if mask is not None:
                attention = attention * mask[..., None]
        else:
            keys, key_mask = hidden_states[:, None], None if mask is None else mask[:, None, None]
            context = F.scaled_dot_product_attention(query[:, None], keys, keys, attn_mask=key_mask, scale=1.0)[:, 0]
        scores = self.frame_score(context)[..., 0].float()
        return (torch.sigmoid(scores) if self.activation == "sigmoid" else scores) * self.scale, attention

    @torch.no_grad()
    def begin_at(self, score: float) -> None:
        """Set the bias so that frames without any information get this score, in label units."""
        begin = torch.tensor(score / self.scale)
        self.frame_score.bias.fill_(begin.logit(eps=0.01) if self.activation == "sigmoid" else begin)

    def penalty(self, attention: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """Return how far attention rows are from orthogonal, `||A A' - I||²` per recording `(B,)`, plus `||W||²` of the weights."""
        products = attention @ attention.transpose(1, 2)
        num_frames = attention.shape[1] if frame_mask is None else frame_mask.sum(dim=1)
        # ||P - I||² = ||P||² - 2 tr P + F, and tr(A A') = ||A||²: no identity matrix per row's length is needed.
        distance = products.square().sum(dim=(1, 2)) - 2 * attention.square().sum(dim=(1, 2)) + num_frames
        return distance + self.attention.weight.float().square().sum()


class Scores(NamedTuple):
    """What the heads return."""

    logits: torch.Tensor  # (B, L): scores of the recordings, label units
    frame_logits: torch.Tensor  # (B, F, L): scores of the frames, label units, 0 on padding
    penalties: torch.Tensor | None  # (B, L): attention penalties, if asked for
    attentions: tuple[torch.Tensor, ...] = ()  # Attention weights of every score, each `(B, F, F)`, if kept


class TaskHeads(nn.ModuleDict):
    """One [`TaskHead`] per score name, in column order."""

    def __init__(self, score_names: list[str], hidden_size: int, activations: Any, scales: Any):
        super().__init__(
            {
                name: TaskHead(hidden_size, activation, scale)
                for name, activation, scale in zip(score_names, activations, scales, strict=True)
            }
        )

    def forward(self, frames: Frames, with_penalties: bool = False, keep_weights: bool = False) -> Scores:
        mask = frames.mask
        logits, frame_logits, penalties, attentions = [], [], [], []
        for head in self.values():  # each head computes alone, to the last bit: dropping one does not change others
            scores, attention = head(frames, keep_attention=with_penalties or keep_weights)
            if mask is not None:
                scores = scores.masked_fill(~mask, 0.0)
            frame_logits.append(scores)
            logits.append(scores.mean(dim=1) if mask is None else scores.sum(dim=1) / mask.sum(dim=1))
            if attention is not None:
                attentions.append(attention)
            if with_penalties:
                penalties.append(head.penalty(attention, mask))
        stacked_penalties = torch.stack(penalties, dim=-1) if with_penalties else None
        return Scores(torch.stack(logits, dim=-1), torch.stack(frame_logits, dim=-1), stacked_penalties, tuple(attentions))


def utterance_and_frame_loss(
    scores: Scores, frame_mask: torch.Tensor | None, labels: torch.Tensor, config: MOSANetConfig
) -> torch.Tensor:
    """Return the sum over scores of the recording's loss plus the mean loss of its frames against the same label.

    Equations 1 to 3 of the MTQ-Net paper, with the linear branch of the frame loss as `delta * (|e| - delta / 2)` (its bracket is
    misprinted). Both levels are means over the recordings that are rated for the score; `()`, with a zero gradient if none is.
    `frame_mask` `(B, F)` is `True` on real frames; `labels` are `(B, L)`, in label units, NaN if not rated.
    """
    logits, labels = scores.logits, labels.to(scores.logits)
    targets, rated = rated_targets(logits, labels)
    scales = torch.tensor(config.score_scales, dtype=logits.dtype, device=logits.device)
    losses = score_errors(logits / scales, targets / scales, config)  # (B, L)
    losses = losses + config.frame_loss_weight * frame_losses(scores.frame_logits, labels, frame_mask, config, scales)
    if scores.penalties is not None:
        losses = losses + config.attention_penalty_weight * torch.where(rated, scores.penalties, 0.0)
    return (losses.sum(dim=0) / rated.sum(dim=0).clamp(min=1)).sum()
